"""Random mutations of a run folder: a resume is refused in one line, or has the result of the good folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from hostile_inputs.cases_run_folders import good_run
from hostile_inputs.fuzz_run_folders import outcomes

BATCH = 50


def check(numbers: range, place: Path) -> None:
    found = [
        outcome
        for start in range(0, len(numbers), BATCH)
        for outcome in outcomes(numbers[start : start + BATCH], good_run("~callbacks.visualizer"), place)
    ]
    print(Counter(outcome.code for outcome in found))
    bad = [outcome for outcome in found if outcome.problem]
    print(*bad, sep="\n")
    assert bad == []
    assert [outcome.number for outcome in found] == list(numbers)


@pytest.mark.timeout(900)
def test_mutations(tmp_path: Path) -> None:
    check(range(30), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("start", range(30, 1030, 100))
def test_a_thousand_mutations(tmp_path: Path, start: int) -> None:
    check(range(start, start + 100), tmp_path)
