"""metrics.csv: rows are appended, new metrics add columns, and a resumed run drops the steps that it repeats."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from ssd.common.errors import DataError
from ssd.training.csv_logger import CsvLogger


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_new_metric_adds_a_column_to_all_rows(tmp_path: Path) -> None:
    logger = CsvLogger(path=str(tmp_path / "metrics.csv"))
    logger.log_metrics({"b": 0.5, "epoch": 0.0}, step=0)
    logger.log_metrics({"b": 0.25}, step=1)
    logger.log_metrics({"a": 1.0}, step=1)
    assert [list(row.values()) for row in rows(tmp_path / "metrics.csv")] == [
        ["0", "0", "", "0.5"],
        ["1", "", "", "0.25"],
        ["1", "", "1.0", ""],
    ]


def test_purge_step_drops_the_steps_that_are_repeated(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    for step in range(4):
        CsvLogger(path=str(path)).log_metrics({"loss": float(step)}, step=step)
    with path.open("a") as file:
        file.write("garb")  # a row cut off by a full disk
    CsvLogger(path=str(path), purge_step=2).log_metrics({"loss": 7.0}, step=2)
    assert [(row["step"], row["loss"]) for row in rows(path)] == [("0", "0.0"), ("1", "1.0"), ("2", "7.0")]


def test_purging_a_missing_file_writes_nothing(tmp_path: Path) -> None:
    CsvLogger(path=str(tmp_path / "metrics.csv"), purge_step=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"epoch,loss\n0,1\n", 1),
        (b"step,loss\n0,1\n1,\xff\n", 1),
        (b"step,loss,loss\n0,1,2\n", 1),
        (b"step,loss\n0,1\n1,1,2\n", 3),
        (b"step,loss\n0,1\n1," + b"1" * 200_000, 2),
        (b"step," + b",".join(b"%d" % number for number in range(20_000)), 1),
    ],
)
def test_a_file_that_is_not_of_this_logger_is_refused(tmp_path: Path, content: bytes, line: int) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"metrics\.csv:{line}: "):
        CsvLogger(path=str(path), purge_step=5)
    assert path.read_bytes() == content


def test_steps_that_are_no_numbers_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(f"loss,step\n1,\u00b2\n2\n3,{'9' * 5000}\n4,-1\n5,1\n")
    CsvLogger(path=str(path), purge_step=5)
    assert rows(path) == [{"loss": "5", "step": "1"}]


def test_a_folder_or_a_fifo_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name in ("folder", "fifo"):
        with pytest.raises(DataError, match=name):
            CsvLogger(path=str(tmp_path / name), purge_step=1)
