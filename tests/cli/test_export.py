"""ssd export: the file, its report, and what is not written."""

from __future__ import annotations

import json
import logging
from copy import deepcopy
from pathlib import Path

import onnx
import pytest
import torch
from composed import compose
from shapes_detector import IMAGES, shapes_detector, unchecked
from voc_files import add, object_xml

from ssd.cli.config import check
from ssd.cli.export import export
from ssd.common.errors import DataError, MachineError, SSDError
from ssd.export import onnx_graph
from ssd.inference.onnx_predictor import OnnxPredictor
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD
from ssd.weights import checkpoint

SHAPES = ["dataset=shapes", "dataset.train=3", "dataset.val=2", "dataset.side_px=120"]


@pytest.fixture(scope="module")
def model(mobilenet_v1: PriorSpec) -> SSD:
    return shapes_detector(mobilenet_v1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: SSD) -> Path:
    """With a checkpoint, as the current folder."""
    checkpoint.save_release(model, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*overrides: str) -> None:
    config = compose("checkpoint=model.safetensors", *overrides, name="export")
    check(config, command="export")
    with unchecked():
        export(config)


def test_int8_file_and_report(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run("output=out/int8.onnx", *SHAPES, "quantize=int8", "calibration_images=2")
    report = json.loads((folder / "out/int8.onnx.json").read_text())
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["int8.onnx", "int8.onnx.json"]
    assert report["parity"]["agrees"]
    assert (report["parity"]["graph"], report["parity"]["images"]) == ("float32", 3)  # of the dataset
    assert report["int8"]["split"] == "val"
    assert set(report["int8"]["map"]) == {"float32", "int8"}
    assert "agrees with PyTorch on" in caplog.text
    int8 = onnx.load(folder / "out/int8.onnx")
    quantized = {name for node in int8.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    convolutions = [node for node in int8.graph.node if node.op_type == "Conv"]
    in_float = [node for node in convolutions if node.input[1] not in quantized]
    assert len(in_float) == 12  # the heads
    assert len(convolutions) == 12 + 27 + 8
    assert all(len(found) <= 200 for found in OnnxPredictor(folder / "out/int8.onnx")(IMAGES))


def test_file_that_disagrees_is_not_written(folder: Path, model: SSD, monkeypatch: pytest.MonkeyPatch) -> None:
    other, to_onnx = deepcopy(model), onnx_graph.to_onnx
    with torch.no_grad():
        other.classification_heads[0].weight *= 1.05
    monkeypatch.setattr(onnx_graph, "to_onnx", lambda _, postprocess: to_onnx(other, postprocess))
    with pytest.raises(MachineError, match=r"output=out/model\.onnx: not written: .* \d+%"):
        run("output=out/model.onnx")
    assert list((folder / "out").iterdir()) == []


def test_int8_with_a_large_map_drop_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.4])
    monkeypatch.setattr("ssd.evaluation.evaluator.mean_ap", lambda *_, **__: next(scores))
    with pytest.raises(DataError, match=r"0\.100 mAP on val, .*max_map_drop=0\.05"):
        run("output=out/int8.onnx", *SHAPES, "quantize=int8", "calibration_images=2")
    assert list((folder / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["output=model.pt"], r"output=model\.pt: .*\.onnx"),
        (["output=model.onnx", "quantize=int4"], "quantize=int4: .*int8"),
        (["output=model.onnx", "quantize=int8"], "give dataset=voc"),
        (["output=model.onnx", "quantize=int8", "dataset=shapes", "split=train"], "split=train: choose val"),
        (["output=model.onnx", "quantize=int8", "dataset=voc", "dataset.root=cats"], "no class in common"),
    ],
)
def test_wrong_settings(folder: Path, overrides: list[str], message: str) -> None:
    for number in range(4):
        add(folder / "cats", f"cat{number}", object_xml())
    with pytest.raises(SSDError, match=message):
        run(*overrides)
    assert not (folder / "model.onnx").exists()
