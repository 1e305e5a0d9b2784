"""Recovery points of hostile shape are refused before anything is built from them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ssd.common.errors import CheckpointError
from ssd.model.backbones import MobileNetV1
from ssd.model.ssd import SSD
from ssd.training.ema import RAW_STATE_DICT
from ssd.training.resume import read_recovery_point


@pytest.fixture
def content() -> dict[str, Any]:
    backbone = MobileNetV1(width_multiplier=0.05)
    model = SSD(backbone, backbone.default_priors, class_names=["cat"], image_size=96)
    return {
        "recipe": model.recipe(),
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []}],
        "lr_schedulers": [{"last_epoch": 1}],
        "loops": {"fit_loop": {}},
        "callbacks": {},
        "epoch": 1,
        "global_step": 7,
    }


def test_a_complete_one_is_read(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    assert read_recovery_point(tmp_path / "last.ckpt", epochs=3).step == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": torch.ones(3)}, "not a recovery point"),
        ({"state_dict": torch.ones(3)}, "not a recovery point"),
        ({"optimizer_states": torch.ones(3)}, "not a recovery point"),
        ({"loops": [1]}, "not a recovery point"),
        ({"callbacks": None}, "not a recovery point"),
        ({"epoch": -1}, "not a recovery point"),
        ({"global_step": 2**70}, "not a recovery point"),
        ({"optimizer_states": [{"state": [1]}]}, "not the state of an optimizer"),
        ({"optimizer_states": [{"state": {0: {"a": torch.tensor(float("nan"))}}}]}, "NaN"),
        ({"optimizer_states": [{"state": {0: {"a": torch.zeros(()).expand(2**40)}}}]}, "repeats its elements"),
        ({RAW_STATE_DICT: 3}, "not a table of weights"),
    ],
)
def test_wrong_parts_are_refused(tmp_path: Path, content: dict[str, Any], change: Any, message: str) -> None:
    torch.save(content | change, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=message):
        read_recovery_point(tmp_path / "last.ckpt", epochs=3)


def test_times_of_any_kind_are_read(tmp_path: Path, content: dict[str, Any]) -> None:
    for elapsed in (None, "x", float("nan"), [1], 2**80):
        torch.save(content | {"callbacks": {"Timer": {"time_elapsed": {"train": elapsed}}}}, tmp_path / "last.ckpt")
        assert read_recovery_point(tmp_path / "last.ckpt", epochs=3, max_time="00:01:00:00").step == 7
    torch.save(content | {"callbacks": {"Timer": 3}}, tmp_path / "last.ckpt")
    assert read_recovery_point(tmp_path / "last.ckpt", epochs=3, max_time="00:01:00:00").step == 7


def test_a_fifo_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="a FIFO"):
        read_recovery_point(tmp_path / "last.ckpt", epochs=3)
