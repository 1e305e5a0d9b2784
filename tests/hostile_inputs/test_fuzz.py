"""Mutations of good files: each is refused in one line, or read without a silent change of the result.

`pytest -n 0 -s -m slow tests/hostile_inputs/test_fuzz.py` reads 1,000 of each and prints the outcomes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hostile_inputs import fuzz_datasets, fuzz_models, fuzzing

TARGETS = [(module.__name__, name) for module in (fuzz_models, fuzz_datasets) for name in module.TARGETS]
FEW, MANY = 8, 1000


@pytest.mark.parametrize(("module", "name"), TARGETS)
def test_few_mutations(tmp_path: Path, module: str, name: str) -> None:
    counts, problems = fuzzing.run(module, name, tmp_path, count=FEW, seed=MANY)
    assert problems == []
    assert counts["refused"] > 0 or name == "cache"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("module", "name"), TARGETS)
def test_many_mutations(tmp_path: Path, module: str, name: str) -> None:
    counts, problems = fuzzing.run(module, name, tmp_path, count=MANY)
    print(f"{name}: {dict(counts)}")
    assert problems == []
