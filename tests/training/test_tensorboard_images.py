"""What a run writes into TensorBoard, and that watching changes nothing."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import pytorch_lightning as pl
from hydra.core.global_hydra import GlobalHydra
from pytorch_lightning.callbacks import ModelCheckpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import Dataset

from ssd.cli import build
from ssd.cli.config import CONF, register
from ssd.data.datamodule import TimedLoader
from ssd.data.formats.shapes import read_shapes
from ssd.evaluation.tide import ERRORS
from ssd.training.progress_bar import Pace
from ssd.training.run_metadata import fingerprint
from ssd.training.tensorboard_images import MAX_BYTES

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
    "callbacks.watch.images=3",
    "callbacks.watch.worst=2",
    "~logger.csv",
]


def fit(
    folder: Path, *overrides: str, without_objects: bool = False, without_watching: bool = False
) -> tuple[pl.Trainer, list[float]]:
    """The trainer after a tiny run, and the loss of each step."""
    register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", overrides=[*TINY, *overrides])
    config.logger.tensorboard.save_dir = str(folder)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data = build.build_datamodule(config)
    if without_objects:
        splits = data.splits
        object.__setattr__(splits, "val", splits.val.keep_boxes(np.zeros(len(splits.val.boxes), dtype=bool)))
    module = build.build_module(config, build.build_model(config, data.class_names))
    if without_watching:
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
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssd.training.tensorboard._MOST_TIME", 1.0)  # a run of seconds has no time for all images
        return folder, fit(folder, "callbacks.ema.decay=0", "callbacks.watch.raw_images=99")[1]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    reader = events(folder)
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_numbers_come_with_the_logged_steps(watched: tuple[Path, list[float]]) -> None:
    values = scalars(watched[0])
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
    assert all(0 <= value <= 1 for name in ("data_wait", "watching") for _, value in values[f"time/{name}_share"])


def test_a_validation_shows_curves_errors_and_images(watched: tuple[Path, list[float]]) -> None:
    reader, values = events(watched[0]), scalars(watched[0])
    assert [step for step, _ in values["errors/Miss"]] == [step for step, _ in values["val/map"]] == [5, 11]
    assert {f"errors/{kind.title}" for kind in ERRORS} <= set(values)
    assert all(0 <= value <= 1 for _, value in values["score/suggested_threshold"])
    tags = reader.Tags()
    assert {"charts/f1_by_threshold", "charts/confusion", "images/1", "images/3", "worst/2"} <= set(tags["images"])
    assert "images/4" not in tags["images"]
    assert "worst/3" not in tags["images"]
    for tag in tags["images"]:
        assert reader.Images(tag)[-1].step == 11
        assert all(0 < len(image.encoded_image_string) <= MAX_BYTES for image in reader.Images(tag))
    assert "precision_recall/all classes" in tags["tensors"]
    assert "custom_scalars__config__" in tags["tensors"]


def test_the_same_images_come_with_each_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves come only ten times: there are 12 validations in 24 steps."""
    monkeypatch.setattr("ssd.training.tensorboard._MOST_TIME", 1.0)
    fit(tmp_path, "epochs=12", "dataset.train=8", "callbacks.watch.raw_images=1", "trainer.log_every_n_steps=2")
    reader = events(tmp_path)
    for tag in ("images/1", "images/2", "images/3"):
        assert [event.step for event in reader.Images(tag)] == list(range(1, 24, 2)), tag
    assert len(reader.Tensors("precision_recall/all classes")) <= 11


def test_where_images_take_too_long_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssd.training.tensorboard._MOST_TIME", 0.0)
    fit(tmp_path, "epochs=3", "dataset.train=8")
    reader = events(tmp_path)
    assert [event.step for event in reader.Images("images/1")] == [1, 3, 5]
    assert "images/2" not in reader.Tags()["images"]


def test_raw_weights_are_those_in_training(watched: tuple[Path, list[float]]) -> None:
    """An average that forgets at once is the weights in training; all images are as many as a validation has."""
    values = scalars(watched[0])
    for name in ("map", "map_50"):
        averaged, raw, whole = (values[tag] for tag in (f"ema/{name}_average", f"ema/{name}_raw", f"val/{name}"))
        assert averaged == raw
        assert [value for _, value in raw] == pytest.approx([value for _, value in whole], abs=1e-6)


def test_watching_changes_nothing(watched: tuple[Path, list[float]], tmp_path: Path) -> None:
    assert fit(tmp_path, "callbacks.ema.decay=0", without_watching=True)[1] == watched[1]


def test_nothing_is_shown_without_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, "epochs=1", without_objects=True)
    tags = events(tmp_path).Tags()
    assert tags["images"] == []
    assert not [tag for tag in tags["scalars"] if tag.startswith(("val/map", "errors/", "score/", "ema/"))]
    assert " loss  mAP AP50 AP75  APs  APm  APl   AR\n" in capsys.readouterr().out


def test_the_terminal_has_a_row_for_each_validation_and_the_cost_of_watching(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, "callbacks.watch.images=0", "callbacks.watch.worst=0")
    lines = capsys.readouterr().out.splitlines()
    header = next(number for number, line in enumerate(lines) if line.lstrip().startswith("epoch   step   loss  mAP"))
    assert [line.split()[:2] for line in lines[header + 1 : header + 3]] == [["1", "6"], ["2", "12"]]
    assert all(len(line) <= 80 for line in lines)
    assert "watching (TensorBoard) took" in lines[-1]


class Slow(Dataset[Any]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, position: int) -> int:
        time.sleep(0.02)
        return position


def test_the_loader_counts_the_time_that_it_is_waited_for() -> None:
    loader = TimedLoader(Slow(), batch_size=1)  # type: ignore[arg-type]
    for _ in loader:
        time.sleep(0.05)
    assert 0.06 <= loader.waited < 0.15


def test_advice_names_the_setting(tmp_path: Path) -> None:
    trainer, pace = pl.Trainer(default_root_dir=tmp_path, logger=False, accelerator="cpu"), Pace()
    assert pace.advice(trainer, cores=4) is None
    pace.wait_share = 0.6
    assert pace.advice(trainer, cores=4) == "waiting for images takes 60% of the time: try num_workers=3 (now 0)"
    assert "augmentation=light" in str(pace.advice(trainer, cores=1))


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    read = partial(read_shapes, train=3, val=1, test=0, side_px=64)
    assert fingerprint(read(seed=1)) == fingerprint(read(seed=1))
    changed = read(seed=1)
    changed.train.boxes[0, 0] += 0.001  # type: ignore[union-attr]
    assert len({fingerprint(splits) for splits in (read(seed=1), read(seed=2), changed)}) == 3
