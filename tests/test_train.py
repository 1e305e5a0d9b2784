"""train.py and predict.py as a user runs them."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import run
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from voc_files import add, object_xml, write_voc

from ssd.data.shapes import save_pictures

ROOT = Path(__file__).parents[1]
TINY = [
    "backbone.width_multiplier=0.25",
    "image_size=96",
    "dataset.train=16",
    "trainer.log_every_n_steps=1",
    "dataset.val=8",
    "dataset.test=8",
    "epochs=1",
    "num_workers=0",
    "postprocess.candidates=100",
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
    assert OmegaConf.load(folder / ".hydra/config.yaml").trainer.max_epochs == 1


def test_a_run_says_data_results_files_and_next_commands(trained: tuple[Path, str]) -> None:
    _, output = trained
    for part in (
        "train: 16 pictures",
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
        for name in ("command", "overrides", "code", "data", "configuration")
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


def test_predict_writes_jsonl_and_pictures(trained: tuple[Path, str], tmp_path: Path) -> None:
    save_pictures(str(tmp_path / "pictures"), 3)
    arguments = [f"checkpoint={trained[0]}/model.safetensors", "source=pictures", "output=out"]
    done = run_afresh(tmp_path, "predict.py", *arguments, "postprocess.score_threshold=0.1")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [Path(line["source"]).name for line in lines] == [f"shapes_00{number}.png" for number in range(3)]
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {Path(line["source"]).name for line in lines}


def test_both_kinds_of_checkpoint_predict_the_same(trained: tuple[Path, str], tmp_path: Path) -> None:
    save_pictures(str(tmp_path / "pictures"), 2)
    texts = []
    for name in ("model.safetensors", "checkpoints/best.ckpt"):
        run(tmp_path, "predict.py", f"checkpoint={trained[0]}/{name}", "source=pictures", f"output={name}")
        texts.append((tmp_path / name / "predictions.jsonl").read_text())
    assert texts[0] == texts[1] != ""


@pytest.mark.parametrize(
    ("arguments", "code", "start"),
    [
        (["optimizer.lr=abc"], 2, "error: optimizer.lr=abc: Value 'abc'"),
        (["epoch=3"], 2, "error: epoch: no such setting; did you mean epochs?"),
        (["backbone=vgg"], 2, "error: backbone=vgg: no such option; did you mean vgg16?"),
        (["priors=vgg16_512"], 2, "error: 7 levels of priors, 6 feature maps"),
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


def test_resume_goes_on_in_the_same_folder_with_the_saved_settings(tmp_path: Path) -> None:
    first = run(tmp_path, "train.py", *TINY, "hydra.run.dir=run", "epochs=2")
    assert first.returncode == 0, first.stderr
    more = run(tmp_path, "train.py", "resume=run", "epochs=3")
    assert more.returncode == 0, more.stderr
    assert "changed on resume: epochs: 2 -> 3" in more.stdout
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()
    steps = [int(row.split(",")[0]) for row in rows[1:]]
    assert max(steps) == 6
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_resume_refuses_another_seed(trained: tuple[Path, str]) -> None:
    done = run(trained[0].parent, "train.py", "resume=run", "seed=7")
    assert done.returncode == 2
    assert "error: resume: " in done.stderr
    assert "seed was 0 and cannot become 7" in done.stderr


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs; it stays as it is."""
    folder = tmp_path_factory.mktemp("resume")
    done = run(folder, "train.py", *TINY, "dataset.train=4", "epochs=4", "hydra.run.dir=ended")
    assert done.returncode == 0, done.stderr
    return folder / "ended"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["epochs=2"], "error: epochs=2: the run has ended 3 epochs already; give more"),
        (["image_size=64", "backbone.width_multiplier=0.2"], "error: resume: backbone.width_multiplier was 0.25 and "),
        (["priors.clip=all"], "error: resume: priors.clip was sizes and cannot become all; start a new run"),
        (["priors.scales=[0.1,0.2,0.3,0.4,0.5,0.6,0.7]"], "error: resume: priors.scales was [0.2, 0.35, 0.5, 0.65, "),
        (["optimizer=sgd"], "error: resume: optimizer._target_ was torch.optim.AdamW and cannot become torch.optim."),
        (["module.freeze=base"], "error: resume: module.freeze was nothing and cannot become base; start a new run"),
    ],
)
def test_a_resume_that_cannot_work_is_told(ended: Path, changes: list[str], message: str) -> None:
    saved = [(ended / ".hydra" / name).read_text() for name in ("config.yaml", "overrides.yaml")]
    again = run(ended.parent, "train.py", "resume=ended", *changes)
    assert again.returncode == 2
    assert saved == [(ended / ".hydra" / name).read_text() for name in ("config.yaml", "overrides.yaml")]
    assert again.stderr.startswith(message)


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


def test_a_resume_with_other_classes_is_refused(tmp_path: Path) -> None:
    write_voc(tmp_path / "data", {"train": ["a", "b"], "val": ["c"]})
    settings = ["dataset=voc", "dataset.root=data", "dataset.cache=false", "backbone=mobilenet_v1", "batch_size=2"]
    small = ["backbone.width_multiplier=0.1", "image_size=96", "num_workers=0", "hydra.run.dir=run", "epochs=1"]
    first = run(tmp_path, "train.py", *settings, *small)
    assert first.returncode == 0, first.stderr
    asked = run(tmp_path, "train.py", "resume=run", "dataset.classes=[dog]")
    assert asked.stderr == "error: resume: dataset.classes was None and cannot become ['dog']; start a new run\n"
    add(tmp_path / "data", "b", object_xml("dog"))
    found = run(tmp_path, "train.py", "resume=run", "epochs=2")
    assert found.stderr == "error: resume: the run has classes ['cat'], the data ['cat', 'dog']\n"
    assert (asked.returncode, found.returncode) == (2, 2)


@pytest.mark.parametrize("place", ["here", "moved", "without best.ckpt"])
def test_the_best_weights_stay_the_best_wherever_the_run_is_resumed(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "run"
    first = run(tmp_path, "train.py", *TINY, "dataset.train=4", "hydra.run.dir=run")
    assert first.returncode == 0, first.stderr
    content = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    best = next(state for name, state in content["callbacks"].items() if name.startswith("BestCheckpoint"))
    score = torch.tensor(0.99)
    best |= {"best_model_score": score, "kth_value": score}
    best["best_k_models"] = dict.fromkeys(best["best_k_models"], score)
    torch.save(content, folder / "checkpoints/last.ckpt")
    before = (folder / "checkpoints/best.ckpt").read_bytes()
    if place == "moved":
        folder = folder.rename(tmp_path / "elsewhere")
    elif place == "without best.ckpt":
        (folder / "checkpoints/best.ckpt").unlink()
    done = run(tmp_path, "train.py", f"resume={folder.name}", "epochs=2")
    assert done.returncode == 0, done.stderr
    assert "dirpath" not in done.stderr
    assert "logger" not in done.stdout  # its paths are no change of the settings
    kept = (folder / "checkpoints/best.ckpt").read_bytes() == before
    assert kept is (place != "without best.ckpt")


def _without_most_weights(content: dict[str, Any]) -> None:
    content["state_dict"] = dict(list(content["state_dict"].items())[:5])


def _set(part: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update({part: value})


def _poison(part: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[part]["model.localization_heads.3.weight"].fill_(float("nan"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_poison("state_dict"), "localization_heads.3.weight holds NaN"),
        (_poison("raw_state_dict"), "raw_state_dict: localization_heads.3.weight holds NaN"),
        (lambda content: content["optimizer_states"][0]["state"][3]["exp_avg"].fill_(np.inf), "optimizer: exp_avg of"),
        (_set("optimizer_states", []), "a part is missing"),
        (_set("optimizer_states", [3]), "not those of an optimizer"),
        (_set("epoch", "two"), "a part is missing"),
        (_set("raw_state_dict", {}), "raw_state_dict: "),
        (lambda content: content.pop("loops"), "a part is missing"),
        (lambda content: content.pop("recipe"), "a part is missing"),
        (_without_most_weights, "has shape None"),
    ],
)
def test_a_damaged_recovery_point_is_refused(
    ended: Path, tmp_path: Path, damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    folder = shutil.copytree(ended, tmp_path / "run")
    content = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    damage(content)
    torch.save(content, folder / "checkpoints/last.ckpt")
    done = run(tmp_path, "train.py", "resume=run", "epochs=6")
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


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
