"""Every hostile input ends with the right exit code and one line; nothing outside its folder changes.

`pytest -n 0 -s -m "slow or not slow" tests/hostile_inputs` prints the table of all inputs; by default every fifth one
is run.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import fork

from hostile_inputs.harness import HostileCase, Outcome, problems, run_case

CASES: list[HostileCase] = [
    case
    for path in sorted(Path(__file__).parent.glob("cases_*.py"))
    for case in importlib.import_module(f"hostile_inputs.{path.stem}").CASES
]


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[HostileCase, Outcome]]]:
    rows: list[tuple[HostileCase, Outcome]] = []
    fork(int).join()  # the first one imports everything, which may take a minute
    yield rows
    print(f"\n{'input':70} {'code':>4} {'s':>6} {'MiB':>6}  changed outside  requests")
    for case, outcome in rows:
        measures = f"{outcome.code!s:>4} {outcome.seconds:6.1f} {outcome.memory_mib:6.0f}"
        print(f"{case.name[:70]:70} {measures}  {len(outcome.changed):15}  {len(outcome.connections):8}")
    print(f"{len(rows)} inputs")


def test_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


SHARE = 5  # of the inputs, in the default run


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if number % SHARE else [])
        for number, case in enumerate(CASES)
    ],
)
def test_hostile_input(case: HostileCase, tmp_path: Path, table: list[tuple[HostileCase, Outcome]]) -> None:
    outcome = run_case(case, tmp_path)
    table.append((case, outcome))
    assert problems(case, outcome) == []
