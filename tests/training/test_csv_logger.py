"""metrics.csv: rows are appended, new metrics add columns, and a resumed run drops the steps that it repeats."""

from __future__ import annotations

import csv
from pathlib import Path

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
