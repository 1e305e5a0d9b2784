"""Runs written by version 0.1 resume exactly: renamed keys, moved classes, and the state of renamed callbacks.

`tests/fixtures/run_v0_1` is a run that version 0.1 stopped at step 40 of 48, `run_v0_1_metrics.csv` has the metrics of
the same run without a stop, and `config_v0_1` resolved configurations of that version.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hydra
import pytest
import yaml
from composed import CONF
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from omegaconf import OmegaConf

from ssd.cli import build
from ssd.cli.app import register_resolvers
from ssd.cli.saved_overrides import with_saved_overrides
from ssd.common.saved_config import RENAMED_KEYS, RENAMED_TARGETS, current_key, upgrade_overrides
from ssd.training.resume import changes
from ssd.weights import checkpoint

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
STOPPED_AT = 40


@pytest.fixture(autouse=True)
def _clean_hydra() -> Iterator[None]:
    register_resolvers()
    yield
    GlobalHydra.instance().clear()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_an_old_run_ends_like_the_uninterrupted_one(tmp_path: Path) -> None:
    run = shutil.copytree(FIXTURES / "run_v0_1", tmp_path / "run")
    environment = os.environ | {"OMP_NUM_THREADS": "2"}  # as in the run of version 0.1
    strict = ["-W", "error:Be aware"]  # Lightning's warning of callbacks whose state finds no callback
    command = [sys.executable, *strict, str(ROOT / "train.py"), "resume=run"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "changed on resume" not in done.stdout
    resumed, expected = (
        [row for row in rows(path) if int(row["step"]) >= STOPPED_AT]
        for path in (run / "metrics.csv", FIXTURES / "run_v0_1_metrics.csv")
    )
    for name in ("train/loss", "train/gradient_norm", "val/loss", "val/map", "test/map"):
        ours, theirs = ([float(row[name]) for row in table if row.get(name)] for table in (resumed, expected))
        assert len(ours) == len(theirs) > 0, name
        if "map" not in name:  # each kind of CPU rounds in its own way, and the steps add to the difference
            assert ours[0] == pytest.approx(theirs[0], rel=1e-4), name
            assert ours == pytest.approx(theirs, rel=0.02), name
    assert checkpoint.safe_load(run / "checkpoints/last.ckpt")["global_step"] == 48
    saved = OmegaConf.load(run / ".hydra/config.yaml")
    assert (saved.postprocess.topk_candidates, saved.loss.match_threshold) == (50, 0.45)
    assert saved.callbacks.visualizer.images == 4


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("shapes", ["dataset=shapes"]),
        ("voc", ["dataset=voc"]),
        ("coco", ["dataset=coco"]),
        ("openimages", ["dataset=openimages"]),
        ("bccd", ["experiment=bccd_mobilenet_v1"]),
        ("vgg16_512", ["dataset=voc", "backbone=vgg16_512", "image_size=512", "priors=vgg16_512"]),
        (
            "other_priors",
            [
                "dataset=coco",
                "backbone=vgg16",
                "priors=mobilenet_v1",
                "optimizer=adamw",
                "callbacks.watch.pictures=3",
                "~callbacks.ema",
            ],
        ),
    ],
)
def test_old_settings_are_those_of_the_resumed_run(name: str, old: list[str]) -> None:
    """Also where an option of `dataset` chose the optimizer, the schedule or the number of epochs."""
    saved = yaml.safe_load((FIXTURES / "config_v0_1" / f"{name}.yaml").read_text())
    overrides = upgrade_overrides(old, config=saved)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", overrides=overrides)
    build.fill_auto(config)
    config.logger = {}  # refers to the folder of a run
    assert changes(saved, OmegaConf.to_container(config, resolve=True)) == {}


def test_saved_overrides_are_upgraded_and_replaced_by_those_given(tmp_path: Path) -> None:
    run = shutil.copytree(FIXTURES / "run_v0_1", tmp_path / "run")
    line = with_saved_overrides([f"resume={run}", "batch_size=4", "callbacks.visualizer.images=2"])
    assert "postprocess.topk_candidates=50" in line
    assert "postprocess.nms_threshold=0.5" in line
    assert "loss.match_threshold=0.45" in line
    assert "augmentation=none" in line  # chosen by the default dataset of version 0.1
    assert [item for item in line if "images" in item or "pictures" in item] == ["callbacks.visualizer.images=2"]
    assert [item for item in line if item.startswith("batch_size")] == ["batch_size=4"]


def test_priors_of_a_file_are_taken_from_the_saved_configuration(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    shutil.copy(FIXTURES / "config_v0_1" / "other_priors.yaml", tmp_path / ".hydra" / "config.yaml")
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- dataset=coco\n- priors=mine\n")
    lines = [line for line in with_saved_overrides([f"resume={tmp_path}", "dataset=coco"]) if line.startswith("priors")]
    assert lines == [
        "priors.scales=[0.2,0.35,0.5,0.65,0.8,0.95,1.1]",
        "priors.aspect_ratios=[[2,3],[2,3],[2,3],[2,3],[2,3],[2,3]]",
        "priors.steps_px={300:[16,32,64,100,150,300]}",
        "priors.clip=sizes",
    ]


def test_keys_are_renamed_with_their_nodes_and_signs() -> None:
    assert current_key("callbacks.watch.side_px") == "callbacks.visualizer.side_px"
    assert current_key("callbacks.watcher") == "callbacks.watcher"
    old = ["~callbacks.watch", "+callbacks.pace.x=1=2", "~callbacks.ema", "dataset.classes=[a=b]"]
    new = ["~callbacks.visualizer", "+callbacks.throughput.x=1=2", "~callbacks.ema", "dataset.classes=[a=b]"]
    assert upgrade_overrides(old, config=None) == new


def test_an_experiment_or_an_override_replaces_what_the_dataset_implied() -> None:
    old = {"postprocess": {"candidates": 400}}
    assert upgrade_overrides(["dataset=voc", "experiment=x"], config=old) == ["dataset=voc", "experiment=x"]
    lines = upgrade_overrides(["dataset=coco", "optimizer=adamw", "epochs=3"], config=old)
    assert lines == ["scheduler=multistep", "image_size=300", "batch_size=32", *lines[3:]]
    assert lines[3:] == ["dataset=coco", "optimizer=adamw", "epochs=3"]


def test_new_runs_and_damaged_configurations_imply_nothing() -> None:
    for config in (None, 3, [], {"postprocess": None}, {"postprocess": {"topk_candidates": 400}}):
        assert upgrade_overrides(["dataset=voc"], config=config) == ["dataset=voc"]


def test_renamed_things_exist_under_their_new_names() -> None:
    for target in RENAMED_TARGETS.values():
        assert callable(get_object(target)), target
    known = {key for key in RENAMED_KEYS.values() if "." in key and not key.startswith("download")}
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train")
    assert [key for key in known if OmegaConf.select(config, key) is None] == []
