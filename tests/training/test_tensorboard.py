"""What a run writes to TensorBoard, and that writing it does not change the training."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import pytorch_lightning as pl
from composed import CONF
from hydra.core.global_hydra import GlobalHydra
from pytorch_lightning.callbacks import ModelCheckpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import Dataset

from ssd.cli import build
from ssd.cli.app import register_resolvers
from ssd.data.datamodule import TimedLoader
from ssd.evaluation.tide import ERRORS
from ssd.training.progress_bar import Throughput
from ssd.training.tensorboard_writer import MAX_IMAGE_BYTES

TINY = [
    "backbone.width_multiplier=0.1",
    "image_size=96",
    "dataset.train=24",
    "dataset.val=6",
    "dataset.test=0",
    "batch_size=4",
    "epochs=2",
    "num_workers=0",
    "postprocess.topk_candidates=50",
    "trainer.log_every_n_steps=3",
    "callbacks.visualizer.images=3",
    "callbacks.visualizer.worst=2",
    "~logger.csv",
]


def fit(
    folder: Path, *overrides: str, without_objects: bool = False, without_visualizer: bool = False
) -> tuple[pl.Trainer, list[float]]:
    """The trainer after a tiny run, and the loss of each step."""
    register_resolvers()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", overrides=[*TINY, *overrides])
    build.fill_auto(config)
    config.logger.tensorboard.save_dir = str(folder)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data = build.build_datamodule(config)
    if without_objects:
        splits = data.splits
        object.__setattr__(splits, "val", splits.val.keep_boxes(np.zeros(len(splits.val.boxes), dtype=bool)))
    module = build.build_module(config, build.build_model(config, data.class_names))
    if without_visualizer:
        config.callbacks = {"ema": config.callbacks.ema}
    trainer = build.build_trainer(config, folder, validates=True)
    if without_objects:  # nor a best checkpoint
        trainer.callbacks = [callback for callback in trainer.callbacks if not isinstance(callback, ModelCheckpoint)]
    losses: list[float] = []
    recorder = pl.Callback()
    recorder.on_train_batch_end = lambda *arguments: losses.append(float(arguments[2]["loss"]))  # type: ignore
    trainer.callbacks.insert(0, recorder)
    trainer.fit(module, data)
    for logger in trainer.loggers:
        logger.finalize("success")
    return trainer, losses


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard"), size_guidance=dict.fromkeys(("images", "tensors"), 0)).Reload()


@pytest.fixture(scope="module")
def visualized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("visualized")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssd.training.tensorboard._MAX_TIME_SHARE", 1.0)  # a run of seconds would write one image only
        return folder, fit(folder, "callbacks.ema.decay=0", "callbacks.visualizer.raw_images=99")[1]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    reader = events(folder)
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_statistics_are_written_at_logged_steps(visualized: tuple[Path, list[float]]) -> None:
    values = scalars(visualized[0])
    logged = [step for step, _ in values["train/loss"]]
    assert logged == [2, 5, 8, 11]
    for name in ("positives", "objects_matched", "objects_over_iou", "negatives_per_positive", "positives_level_6"):
        assert [step for step, _ in values[f"matching/{name}"]] == logged, name
    assert values["train/skipped_steps"] == [(step, 0.0) for step in logged]
    assert all(0 < value <= 1 for _, value in values["matching/objects_matched"])
    for step in range(len(logged)):
        levels = sum(values[f"matching/positives_level_{level}"][step][1] for level in range(1, 7))
        assert levels == pytest.approx(values["matching/positives"][step][1], rel=1e-5)
        assert 0 < values["matching/negatives_per_positive"][step][1] <= 3
        parts = [values[f"train/loss_{part}"][step][1] for part in ("localization", "classification")]
        signs = [values[f"train/loss_classification_{sign}"][step][1] for sign in ("positive", "negative")]
        assert sum(parts) == pytest.approx(values["train/loss"][step][1], rel=1e-4)
        assert sum(signs) == pytest.approx(parts[1], rel=1e-4)
    assert all(value > 0 for _, value in values["time/images_per_second"])
    assert all(0 <= value <= 1 for name in ("data_wait", "visualization") for _, value in values[f"time/{name}_share"])


def test_a_validation_writes_curves_errors_and_images(visualized: tuple[Path, list[float]]) -> None:
    reader, values = events(visualized[0]), scalars(visualized[0])
    assert [step for step, _ in values["errors/Miss"]] == [step for step, _ in values["val/map"]] == [5, 11]
    assert {f"errors/{kind.title}" for kind in ERRORS} <= set(values)
    assert all(0 <= value <= 1 for _, value in values["score/suggested_threshold"])
    tags = reader.Tags()
    assert {"charts/f1_by_threshold", "charts/confusion", "images/1", "images/3", "worst/2"} <= set(tags["images"])
    assert "images/4" not in tags["images"]
    assert "worst/3" not in tags["images"]
    for tag in tags["images"]:
        assert reader.Images(tag)[-1].step == 11
        assert all(0 < len(image.encoded_image_string) <= MAX_IMAGE_BYTES for image in reader.Images(tag))
    assert "precision_recall/all classes" in tags["tensors"]
    assert "custom_scalars__config__" in tags["tensors"]


def test_the_same_images_are_written_after_each_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves are written ten times at most: there are 12 validations in 24 steps."""
    monkeypatch.setattr("ssd.training.tensorboard._MAX_TIME_SHARE", 1.0)
    fit(tmp_path, "epochs=12", "dataset.train=8", "callbacks.visualizer.raw_images=1", "trainer.log_every_n_steps=2")
    reader = events(tmp_path)
    for tag in ("images/1", "images/2", "images/3"):
        assert [event.step for event in reader.Images(tag)] == list(range(1, 24, 2)), tag
    assert len(reader.Tensors("precision_recall/all classes")) <= 11


def test_only_one_image_is_written_if_images_take_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssd.training.tensorboard._MAX_TIME_SHARE", 0.0)
    fit(tmp_path, "epochs=3", "dataset.train=8")
    reader = events(tmp_path)
    assert [event.step for event in reader.Images("images/1")] == [1, 3, 5]
    assert "images/2" not in reader.Tags()["images"]


def test_raw_weights_are_compared_with_their_average(visualized: tuple[Path, list[float]]) -> None:
    """With decay 0 the average equals the raw weights; with all images the mAP equals that of the validation."""
    values = scalars(visualized[0])
    for name in ("map", "map_50"):
        averaged, raw, whole = (values[tag] for tag in (f"ema/{name}_average", f"ema/{name}_raw", f"val/{name}"))
        assert averaged == raw
        assert [value for _, value in raw] == pytest.approx([value for _, value in whole], abs=1e-6)


def test_the_visualizer_does_not_change_the_training(visualized: tuple[Path, list[float]], tmp_path: Path) -> None:
    assert fit(tmp_path, "callbacks.ema.decay=0", without_visualizer=True)[1] == visualized[1]


def test_nothing_is_written_without_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, "epochs=1", without_objects=True)
    tags = events(tmp_path).Tags()
    assert tags["images"] == []
    assert not [tag for tag in tags["scalars"] if tag.startswith(("val/map", "errors/", "score/", "ema/"))]
    assert " loss  mAP AP50 AP75  APs  APm  APl   AR\n" in capsys.readouterr().out


def test_the_terminal_has_a_row_for_each_validation_and_the_time_that_tensorboard_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, "callbacks.visualizer.images=0", "callbacks.visualizer.worst=0")
    lines = capsys.readouterr().out.splitlines()
    header = next(number for number, line in enumerate(lines) if line.lstrip().startswith("epoch   step   loss  mAP"))
    assert [line.split()[:2] for line in lines[header + 1 : header + 3]] == [["1", "6"], ["2", "12"]]
    assert all(len(line) <= 80 for line in lines)
    assert "TensorBoard took" in lines[-1]


class Slow(Dataset[Any]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, position: int) -> int:
        time.sleep(0.02)
        return position


def test_the_loader_measures_the_time_spent_waiting_for_it() -> None:
    loader = TimedLoader(Slow(), batch_size=1)  # type: ignore[arg-type]
    for _ in loader:
        time.sleep(0.05)
    assert 0.06 <= loader.waited < 0.15


def test_advice_names_the_setting(tmp_path: Path) -> None:
    trainer = pl.Trainer(default_root_dir=tmp_path, logger=False, accelerator="cpu")
    throughput = Throughput()
    assert throughput.advice(trainer, cores=4) is None
    throughput.data_wait_share = 0.6
    advice = str(throughput.advice(trainer, cores=4))
    assert "60%" in advice
    assert "num_workers=3 (now 0)" in advice
    assert "augmentation=light" in str(throughput.advice(trainer, cores=1))
