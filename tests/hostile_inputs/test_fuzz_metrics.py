"""Random mutations of metrics.csv: refused with its name, or the rows before the purged step stay as they are."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import pytest

from hostile_inputs.fuzz_run_folders import mutate_text
from ssd.common.errors import DataError
from ssd.training.csv_logger import CsvLogger

PURGE_STEP = 12
GOOD = "step,epoch,train/loss,val/map\n" + "".join(
    f"{step},{step // 5},{1 / (step + 1)},{'' if step % 5 else 0.5}\n" for step in range(20)
)


def kept(data: bytes) -> list[list[str]]:
    """The rows that a resume at PURGE_STEP keeps."""
    rows = csv.DictReader(io.StringIO(data.decode(), newline=""))
    return [[value or "" for value in row.values()] for row in rows if is_before(row["step"] or "")]


def is_before(step: str) -> bool:
    return step.isascii() and step.isdecimal() and int(step) < PURGE_STEP


def refusal(path: Path) -> str | None:
    try:
        CsvLogger(path=str(path), purge_step=PURGE_STEP)
    except DataError as error:
        return str(error)
    return None


@pytest.mark.parametrize("start", range(0, 1000, 250))
def test_mutations_of_metrics(tmp_path: Path, start: int) -> None:
    path, accepted = tmp_path / "metrics.csv", 0
    for number in range(start, start + 250):
        data = mutate_text(GOOD.encode(), random.Random(number))
        path.write_bytes(data)
        if (message := refusal(path)) is not None:
            assert "metrics.csv:" in message
            assert path.read_bytes() == data
            continue
        accepted += 1
        before = kept(data)
        assert kept(path.read_bytes()) == before, number
        CsvLogger(path=str(path)).log_metrics({"new": 1.0}, step=PURGE_STEP)
        with path.open(newline="", encoding="utf-8") as file:
            assert len(list(csv.DictReader(file))) == len(before) + 1, number
    assert 50 < accepted < 250
