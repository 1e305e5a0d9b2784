"""Hyperparameters for every logger, and the identity of code and data."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from composed import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from pytorch_lightning.loggers.logger import DummyLogger

from ssd.cli.build import build_logger
from ssd.cli.train import run_config
from ssd.data.formats.shapes import read_shapes
from ssd.training.csv_logger import CsvLogger
from ssd.training.run_metadata import fingerprint, git_state, log_start


class Recorder(DummyLogger):
    """Any other logger of Lightning."""

    def log_hyperparams(self, params: dict[str, Any], *_: Any, **__: Any) -> None:
        self.recorded = params


@pytest.fixture(autouse=True)
def _clean_hydra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    GlobalHydra.instance().clear()


def test_every_logger_gets_the_hyperparameters(tmp_path: Path) -> None:
    config = compose("optimizer.lr=0.002", "loss.negative_ratio=2", "~callbacks.ema")
    recorder = Recorder()
    trainer = pl.Trainer(default_root_dir=tmp_path, logger=[recorder], accelerator="cpu")
    log_start(trainer, run_config(config), read_shapes(train=2, val=1, test=0, side_px=64, seed=1), step=0)
    assert recorder.recorded["optimizer.lr"] == 0.002
    assert recorder.recorded["loss.negative_ratio"] == 2
    assert recorder.recorded["optimizer"] == "adamw"
    assert "callbacks.ema" not in recorder.recorded


def test_a_logger_gets_the_first_step_if_its_yaml_has_purge_step(tmp_path: Path) -> None:
    """So a logger of any class needs no code here."""
    target = {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": str(tmp_path)}
    assert build_logger(OmegaConf.create(target), 5).save_dir == str(tmp_path)
    path = tmp_path / "metrics.csv"
    path.write_text("step,epoch,loss\n4,,1.0\n5,,2.0\n")
    ours = {"_target_": f"{CsvLogger.__module__}.CsvLogger", "path": str(path), "purge_step": None}
    build_logger(OmegaConf.create(ours), 5)
    assert path.read_text().splitlines() == ["step,epoch,loss", "4,,1.0"]


def test_the_fingerprint_depends_on_the_content_only() -> None:
    read = partial(read_shapes, train=3, val=1, test=0, side_px=64)
    assert fingerprint(read(seed=1)) == fingerprint(read(seed=1))
    changed = read(seed=1)
    changed.train.boxes[0, 0] += 0.001  # type: ignore[union-attr]
    assert len({fingerprint(splits) for splits in (read(seed=1), read(seed=2), changed)}) == 3


def test_the_state_of_the_code_names_the_commit_and_the_changes(tmp_path: Path) -> None:
    assert git_state(tmp_path) == "not in a git repository"
    (tmp_path / "a.py").write_text("1\n")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
    for arguments in (["init", "-q"], ["add", "a.py"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    assert git_state(tmp_path).endswith("first\nno changes")
    (tmp_path / "a.py").write_text("2\n")
    assert "a.py" in git_state(tmp_path).splitlines()[-1]
