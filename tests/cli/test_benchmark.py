"""ssd benchmark: the runtimes, their figures and the table."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from composed import compose
from shapes_detector import shapes_detector, unchecked

from ssd.cli.benchmark import benchmark, show
from ssd.model.priors import PriorSpec
from ssd.weights import checkpoint

SHAPES = ["dataset=shapes", "dataset.train=2", "dataset.val=2", "dataset.side_px=120"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch.compile
@pytest.mark.parametrize("data", [[], SHAPES], ids=["rendered", "dataset"])
def test_every_runtime_is_measured(
    mobilenet_v1: PriorSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    data: list[str],
) -> None:
    caplog.set_level(logging.INFO)
    checkpoint.save_release(shapes_detector(mobilenet_v1), tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    settings = ["checkpoint=model.safetensors", "output=out.json", "rounds=2", "calibration_images=2"]
    with unchecked():
        benchmark(compose(*settings, *data, name="benchmark"))
    measured = json.loads((tmp_path / "out.json").read_text())
    assert list(measured) == ["PyTorch", "PyTorch compiled", "ONNX Runtime", "ONNX Runtime int8", "OpenVINO"]
    for name, row in measured.items():
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["images_per_second"] > 0
        assert (row["map"] is not None) is bool(data)
        assert name in caplog.text
    assert measured["ONNX Runtime int8"]["megabytes"] < measured["ONNX Runtime"]["megabytes"]


def test_table_is_right_aligned(caplog: pytest.LogCaptureFixture) -> None:
    numbers = {"map": None, "p50_ms": 9.5, "p95_ms": 10.0, "images_per_second": 100.0, "megabytes": 5.0}
    with caplog.at_level(logging.INFO, logger="ssd"):
        show({"one": numbers, "two": numbers | {"map": 0.5, "p50_ms": 1234.5}}, title="t")
    assert re.search(r"one +│ +- │ +9\.5 │", caplog.text)
    assert re.search(r"two +│ 0\.500 │ 1234\.5 │", caplog.text)
