"""The rank of a process, with and without Lightning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssd.common.runtime import is_first_process

ROOT = Path(__file__).parents[2]
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"RANK": "0", "LOCAL_RANK": "1"}, True),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_before_lightning_is_imported_the_environment_decides(
    variables: dict[str, str], first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "lightning_utilities.core.rank_zero", raising=False)
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first


def test_lightning_sets_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert not is_first_process()


def test_the_question_imports_no_framework() -> None:
    code = "import sys; from ssd.common.runtime import *; print(is_first_process(), 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name not in RANKS}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "True False\n"
