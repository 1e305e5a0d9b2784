"""The benchmark scripts run from end to end, at a size too small for meaningful numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def run(script: str, argument: str) -> str:
    command = [sys.executable, str(Path(__file__).with_name(script)), argument]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_scale() -> None:
    output = run("scale.py", "20000")
    assert output.startswith("made 20,000 rows")
    assert output.count("started from the cache") == 2
    assert "loader worker, private MB over 2,300 samples" in output


def test_latency() -> None:
    lines = run("latency.py", "1").splitlines()
    assert sum("ONNX Runtime" in line for line in lines) == 4
    assert sum("1.00x" in line for line in lines) >= 4  # the eager runs
