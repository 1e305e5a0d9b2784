"""Data sets that do harm, or mean to."""

from __future__ import annotations

import os
from pathlib import Path

from hostile_inputs.harness import HostileCase


def _fifo_as_data_yaml(folder: Path) -> list[str]:
    (folder / "data/images/train").mkdir(parents=True)
    (folder / "data/labels/train").mkdir(parents=True)
    os.mkfifo(folder / "data/data.yaml")
    return ["inspect", "dataset=yolo", "dataset.root=data"]


def _deep_data_yaml(folder: Path) -> list[str]:
    (folder / "data/images/train").mkdir(parents=True)
    (folder / "data/labels/train").mkdir(parents=True)
    (folder / "data/data.yaml").write_text("names: " + "[" * 100_000 + "]" * 100_000)
    return ["inspect", "dataset=yolo", "dataset.root=data"]


CASES = [
    HostileCase("a FIFO in the place of data.yaml", _fifo_as_data_yaml, text="data.yaml"),
    HostileCase("data.yaml nested 100,000 levels deep", _deep_data_yaml, text="data.yaml"),
]
