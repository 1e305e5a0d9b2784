"""Graphs that compute for ever, fill the memory, or return what no detector returns, are refused."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_graphs
import pytest

from ssd.common.errors import CheckpointError
from ssd.inference import onnx_file, onnx_limits
from ssd.inference.onnx_predictor import OnnxPredictor


def refused(path: Path, model: onnx.ModelProto, message: str, *, runs: bool) -> None:
    path.write_bytes(model.SerializeToString())
    start = time.monotonic()
    if runs:
        predictor = OnnxPredictor(path)
    with pytest.raises(CheckpointError) as error:
        predictor([np.zeros((9, 9, 3), np.uint8)]) if runs else onnx_file.read(path)
    text = str(error.value)
    assert text.startswith(str(path))
    assert any(part in text for part in message.split("|")), text
    assert text.isprintable()
    assert len(text) < 1000
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", onnx_graphs.REFUSED)
def test_graphs_are_refused_before_a_runtime_sees_them(tmp_path: Path, name: str) -> None:
    make, message = onnx_graphs.REFUSED[name]
    refused(tmp_path / "a.onnx", make(), message, runs=False)


@pytest.mark.parametrize("name", onnx_graphs.WRONG_OUTPUTS)
def test_outputs_that_are_not_detections_are_refused(tmp_path: Path, name: str) -> None:
    values, message = onnx_graphs.WRONG_OUTPUTS[name]
    refused(tmp_path / "a.onnx", onnx_graphs.constant(**values), message, runs=True)


def test_a_sealed_file_is_read_and_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    data = onnx_file.seal(onnx_graphs.constant())
    path = tmp_path / "a.onnx"
    path.write_bytes(data)
    assert onnx_file.read(path).class_names == ("cat", "dog")
    place = data.index(np.float32(0.9).tobytes())
    path.write_bytes(data[:place] + b"\x01" + data[place + 1 :])
    with pytest.raises(CheckpointError, match="damaged, or changed after its export"):
        onnx_file.read(path)


def test_an_exported_detector_is_far_from_the_limits() -> None:
    onnx_limits.check_graph(onnx_graphs.constant(), batch=1, pixels=64)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.onnx")
    with pytest.raises(CheckpointError, match="a FIFO, not a regular file"):
        onnx_file.read(tmp_path / "a.onnx")
