"""train.py and predict.py as a user runs them."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from forked import run
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from voc_files import add, object_xml, write_voc

from ssd.data.formats.shapes import save_images

ROOT = Path(__file__).parents[2]
TINY = [
    "backbone.width_multiplier=0.25",
    "image_size=96",
    "dataset.train=16",
    "trainer.log_every_n_steps=1",
    "dataset.val=8",
    "dataset.test=8",
    "epochs=1",
    "num_workers=0",
    "postprocess.topk_candidates=100",
]


def run_afresh(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process that imports everything itself, as a user's does."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "150"}
    command = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished tiny run and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    done = run_afresh(folder, "train.py", *TINY, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def test_a_run_leaves_the_files_of_the_design(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    for name in (
        ".hydra/config.yaml",
        ".hydra/overrides.yaml",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "model.safetensors",
        "metrics.csv",
        "train.log",
    ):
        assert (folder / name).stat().st_size > 0, name
    assert list((folder / "tensorboard").glob("events*"))
    assert OmegaConf.load(folder / ".hydra/config.yaml").epochs == 1


def test_a_run_says_data_results_files_and_next_commands(trained: tuple[Path, str]) -> None:
    _, output = trained
    for part in (
        "train: 16 images",
        "mAP@0.5",
        "AP circle",
        "run:",
        "model.safetensors",
        "python predict.py checkpoint=",
    ):
        assert part in output, part


def test_metrics_csv_has_losses_and_map(trained: tuple[Path, str]) -> None:
    header = (trained[0] / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"step", "epoch", "train/loss", "val/loss", "val/map", "val/map_50", "test/map", "test/map_50"} <= set(
        header
    )


def test_tensorboard_has_the_text_and_a_row_of_hyperparameters_with_metrics(trained: tuple[Path, str]) -> None:
    events = EventAccumulator(str(trained[0] / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    text = {
        name: events.Tensors(f"run/{name}/text_summary")[-1].tensor_proto.string_val[0].decode()
        for name in ("command", "code", "data", "configuration")
    }
    assert "python train.py backbone.width_multiplier=0.25 image_size=96" in text["command"]
    assert "fingerprint" in text["data"]
    assert "width_multiplier: 0.25" in text["configuration"]
    experiment, start, _ = (
        metadata.parse_experiment_plugin_data(events.summary_metadata[metadata.EXPERIMENT_TAG].plugin_data.content),
        metadata.parse_session_start_info_plugin_data(
            events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
        ),
        events.summary_metadata[metadata.SESSION_END_INFO_TAG],
    )
    assert start.hparams["backbone"].string_value == "mobilenet_v1_half"
    assert start.hparams["dataset.train"].number_value == 16
    metrics = {info.name.tag for info in experiment.metric_infos}
    assert metrics <= set(events.Tags()["scalars"])
    assert {"best/map", "test/map"} <= metrics


def test_a_folder_with_a_run_is_not_overwritten(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    before = (folder / "metrics.csv").read_bytes()
    again = run(folder.parent, "train.py", *TINY, "hydra.run.dir=run")
    assert again.returncode == 2
    assert "run holds a run; choose another hydra.run.dir" in again.stderr.splitlines()[-1]
    assert (folder / "metrics.csv").read_bytes() == before


def test_predict_writes_jsonl_and_images(trained: tuple[Path, str], tmp_path: Path) -> None:
    save_images(str(tmp_path / "images"), 3)
    arguments = [f"checkpoint={trained[0]}/model.safetensors", "source=images", "output=out"]
    done = run_afresh(tmp_path, "predict.py", *arguments, "postprocess.score_threshold=0.1")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [Path(line["source"]).name for line in lines] == [f"shapes_00{number}.png" for number in range(3)]
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {Path(line["source"]).name for line in lines}


def test_both_kinds_of_checkpoint_predict_the_same(trained: tuple[Path, str], tmp_path: Path) -> None:
    save_images(str(tmp_path / "images"), 2)
    texts = []
    for name in ("model.safetensors", "checkpoints/best.ckpt"):
        run(tmp_path, "predict.py", f"checkpoint={trained[0]}/{name}", "source=images", f"output={name}")
        texts.append((tmp_path / name / "predictions.jsonl").read_text())
    assert texts[0] == texts[1] != ""


@pytest.mark.parametrize(
    ("arguments", "code", "start"),
    [
        (["optimizer.lr=abc"], 2, "error: optimizer.lr=abc: must be a valid number"),
        (["epoch=3"], 2, "error: epoch: no such setting; did you mean epochs?"),
        (["backbone=vgg"], 2, "error: backbone=vgg: no such option; did you mean vgg16?"),
        (
            ["priors.aspect_ratios=[[2],[2]]", "priors.scales=[0.1,0.5,0.9]", "priors.steps_px={}"],
            2,
            "error: 2 levels of priors, 6 feature maps",
        ),
        (["resume=nowhere"], 2, "error: resume=nowhere: no run there"),
        (["dataset=voc", "dataset.root=nowhere"], 3, "error: dataset.root=nowhere: no such folder"),
        (["backbone.weights=nothing.pth"], 3, "error: backbone.weights=nothing.pth: no such file"),
        ([*TINY, "optimizer.lr=1e30", "trainer.gradient_clip_val=null"], 3, "error: step "),
    ],
)
def test_mistakes_get_one_line_and_the_right_exit_code(
    tmp_path: Path, arguments: list[str], code: int, start: str
) -> None:
    done = run(tmp_path, "train.py", *arguments)
    assert done.returncode == code, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(start)
    assert "Traceback" not in done.stderr


def test_a_run_that_blew_up_leaves_no_poisoned_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, "train.py", *TINY, "optimizer.lr=1e30", "trainer.gradient_clip_val=null", "hydra.run.dir=run")
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_a_class_that_a_split_has_not_is_absent_and_not_0(tmp_path: Path) -> None:
    write_voc(tmp_path / "data", {"train": ["a", "b"], "val": ["c"], "test": ["d"]})
    for name in ("a", "c"):
        add(tmp_path / "data", name, object_xml("dog"), object_xml("cat"))
    settings = ["dataset=voc", "dataset.root=data", "dataset.cache=false", "backbone=mobilenet_v1", "batch_size=2"]
    small = ["backbone.width_multiplier=0.1", "image_size=96", "num_workers=0", "hydra.run.dir=run", "epochs=1"]
    done = run(tmp_path, "train.py", *settings, *small)
    assert done.returncode == 0, done.stderr
    assert re.search(r"AP dog +│ +no objects", done.stdout), done.stdout
    assert re.search(r"AP cat +│ +\d\.\d+", done.stdout), done.stdout
    header, *rows = csv.reader((tmp_path / "run/metrics.csv").read_text().splitlines())
    filled = {name for name, *values in zip(header, *rows, strict=True) if any(values)}
    assert {"val/map_class/cat", "val/map_class/dog", "test/map_class/cat"} <= filled
    assert "test/map_class/dog" not in filled


def test_a_sweep_gives_each_job_a_folder_and_returns_the_objective(tmp_path: Path) -> None:
    more = ["optimizer.lr=1e-3,2e-3", "dataset.cache=false", "hydra.sweep.dir=sweep"]
    done = run(tmp_path, "train.py", "-m", *TINY, *more)
    assert done.returncode == 0, done.stderr
    for job, lr in (("0", 1e-3), ("1", 2e-3)):
        assert OmegaConf.load(tmp_path / "sweep" / job / ".hydra/config.yaml").optimizer.lr == lr
        assert (tmp_path / "sweep" / job / "model.safetensors").exists()
        events = EventAccumulator(str(tmp_path / "sweep" / job / "tensorboard")).Reload()
        content = events.summary_metadata[metadata.EXPERIMENT_TAG].plugin_data.content
        columns = metadata.parse_experiment_plugin_data(content).hparam_infos
        assert [column.name for column in columns if column.differs] == ["optimizer.lr"]


def test_help_imports_nothing_that_is_slow(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=True)
    assert "dataset" in done.stdout
    imported = {line.rsplit("|", 1)[1].split(".")[0].strip() for line in done.stderr.splitlines() if "|" in line}
    assert {"hydra", "ssd"} <= imported
    assert imported.isdisjoint(
        {"torch", "lightning", "numpy", "cv2", "PIL", "albumentations", "pyarrow", "tensorboard"}
    )


@pytest.mark.slow
def test_gradients_can_be_accumulated(tmp_path: Path) -> None:
    done = run(tmp_path, "train.py", *TINY, "trainer.accumulate_grad_batches=2", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    steps = np.loadtxt((tmp_path / "run/metrics.csv"), delimiter=",", skiprows=1, usecols=0, dtype=str)
    assert max(int(step) for step in steps) == 1


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["base", "all_but_heads"])
def test_vgg16_trains_and_freezes(tmp_path: Path, freeze: str) -> None:
    small = ["dataset.train=4", "dataset.val=2", "dataset.test=2", "epochs=1", "num_workers=0", "batch_size=2"]
    done = run(tmp_path, "train.py", "backbone=vgg16", "image_size=96", f"module.freeze={freeze}", *small)
    assert done.returncode == 0, done.stderr


def test_images_without_an_object_of_the_classes_are_nothing_to_train_on(tmp_path: Path) -> None:
    write_voc(tmp_path / "data", {"train": ["a", "b"], "val": ["c"]})
    settings = ["dataset=voc", "dataset.root=data", "dataset.cache=false", "dataset.classes=[quagga]"]
    done = run(tmp_path, "train.py", *settings, "backbone=mobilenet_v1", "image_size=96", "hydra.run.dir=run")
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "no object of quagga in the 2 training images; see dataset.classes" in done.stderr
