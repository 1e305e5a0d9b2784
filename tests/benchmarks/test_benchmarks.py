"""The benchmark scripts run from end to end, at a size too small for meaningful numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from voc_files import add, add_list, object_xml

pytestmark = pytest.mark.slow


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
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


def test_own_data(tmp_path: Path) -> None:
    for split, names in {"train": ["a", "b"], "val": ["c"], "test": ["d"]}.items():
        for name in names:
            add(tmp_path / "data", name, object_xml())
        add_list(tmp_path / "data", split, names)
    tiny = ["image_size=96", "steps=1", "num_workers=0", "backbone.width_multiplier=0.1"]
    options = ["--seeds", "0", "1", "--change", "light", "augmentation=light", "--output", str(tmp_path / "runs")]
    for _ in range(2):  # the second time from the results of the first
        output = run("own_data.py", str(tmp_path / "data"), *options, "--", *tiny)
        rows = [line.split(" | ") for line in output.splitlines()[2:]]
        assert [row[1] for row in rows] == ["plan", "light"]
        assert all("±" in row[3] for row in rows)
    assert len(list((tmp_path / "runs/data").iterdir())) == 4
