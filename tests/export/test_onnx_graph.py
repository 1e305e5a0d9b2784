"""An exported file gives the detections of its checkpoint, and describes itself; the comparison of both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from shapes_detector import IMAGES, SETTINGS, SIZE, shapes_detector, unchecked
from torchvision.ops import box_iou
from torchvision_ssd import assert_same_in_any_order, rows

from ssd.common.errors import ConfigError
from ssd.common.structures import PADDING_LABEL, Detections
from ssd.data.formats.shapes import CLASS_NAMES
from ssd.export import parity
from ssd.export.onnx_graph import to_onnx
from ssd.inference.onnx_predictor import OnnxPredictor
from ssd.inference.torch_predictor import TorchPredictor
from ssd.model.postprocess import PostProcess
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD
from ssd.weights import checkpoint


@pytest.fixture(scope="module")
def model(mobilenet_v1: PriorSpec) -> SSD:
    return shapes_detector(mobilenet_v1)


@pytest.fixture(scope="module")
def predictor(model: SSD) -> TorchPredictor:
    return TorchPredictor(model, PostProcess(score_threshold=0.05, **SETTINGS), device="cpu")


@pytest.fixture(scope="module")
def graph(model: SSD, predictor: TorchPredictor) -> onnx.ModelProto:
    with unchecked():
        return to_onnx(model, predictor.postprocess)


@pytest.fixture(scope="module")
def exported(graph: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(graph, tmp_path_factory.mktemp("exported"))


def write(graph: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(graph.SerializeToString())
    return path


def changed(graph: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    """The graph with a changed tensor."""
    copy = onnx.ModelProto.FromString(graph.SerializeToString())
    tensor = next(tensor for tensor in copy.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    return copy


def table(found: Detections) -> torch.Tensor:
    return rows(found.labels, found.scores, found.boxes)


def test_all_three_file_formats_give_the_same_detections(
    model: SSD, predictor: TorchPredictor, exported: Path, tmp_path: Path
) -> None:
    checkpoint.save_release(model, tmp_path / "model.safetensors")
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "recipe": model.recipe()}, tmp_path / "model.ckpt")
    loaded = (checkpoint.load(tmp_path / name) for name in ("model.safetensors", "model.ckpt"))
    predictors = [
        *(TorchPredictor(each, predictor.postprocess, device="cpu") for each in loaded),
        OnnxPredictor(exported),
    ]
    expected = predictor(IMAGES)
    assert sum(map(len, expected)) > 50
    first = expected[0]
    same_place = box_iou(first.boxes, first.boxes) > SETTINGS["nms_threshold"]
    assert (same_place & (first.labels[:, None] != first.labels)).any()  # classes do not suppress each other
    for other in predictors:
        assert other.class_names == model.class_names
        for one, two in zip(expected, other(IMAGES), strict=True):
            assert_same_in_any_order(table(one), table(two), atol=1e-5)
    assert predictors[-1]([]) == []


def test_images_without_detections(
    model: SSD, predictor: TorchPredictor, graph: onnx.ModelProto, tmp_path: Path
) -> None:
    """The threshold lies between the best scores of the images, so some have detections and some have none."""
    best = sorted(float(found.scores[0]) for found in predictor(IMAGES))
    threshold = (best[1] + best[2]) / 2
    nms = next(node for node in graph.graph.node if node.op_type == "NonMaxSuppression")
    tampered = changed(graph, nms.input[4], lambda old: np.full_like(old, threshold))
    expected = TorchPredictor(model, PostProcess(score_threshold=threshold, **SETTINGS), device="cpu")(IMAGES)
    found = OnnxPredictor(write(tampered, tmp_path))(IMAGES)
    assert [len(one) for one in found] == [len(one) for one in expected]
    assert min(map(len, found)) == 0 < max(map(len, found))


def test_batched_equals_single(exported: Path) -> None:
    onnx_predictor = OnnxPredictor(exported)
    for alone, batched in zip(IMAGES, onnx_predictor(IMAGES), strict=True):
        assert_same_in_any_order(table(onnx_predictor([alone])[0]), table(batched), atol=1e-5)


def test_metadata_describes_the_graph(exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == list(CLASS_NAMES)
    assert json.loads(metadata["recipe"])["image_size"] == SIZE
    assert json.loads(metadata["postprocess"])["nms_threshold"] == 0.45
    assert "uint8 RGB" in metadata["usage"]
    assert f"{SIZE}x{SIZE}" in metadata["usage"]
    batch = np.stack([image[:SIZE, :SIZE] for image in IMAGES])
    boxes, scores, labels, counts = session.run(["boxes", "scores", "labels", "counts"], {"images": batch})
    assert boxes.shape == (5, 40, 4)
    for row, count in enumerate(counts):
        assert (np.diff(scores[row, :count]) <= 0).all()
        assert (boxes[row, count:] == 0).all()
        assert (scores[row, count:] == 0).all()
        assert (labels[row, count:] == PADDING_LABEL).all()
        assert (labels[row, :count] >= 0).all()


def test_file_contains_no_local_path(exported: Path) -> None:
    assert str(Path(torch.__file__).parent).encode() not in exported.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in exported.read_bytes()


def test_tampered_file_disagrees(
    graph: onnx.ModelProto, predictor: TorchPredictor, exported: Path, tmp_path: Path
) -> None:
    same = parity.compare(predictor, OnnxPredictor(exported), IMAGES)
    assert same.agrees
    assert same.detections > 10
    assert 0 < same.largest_difference < 1e-5
    tampered = changed(graph, "model.classification_heads.0.weight", lambda weight: weight * np.float32(1.05))
    assert not parity.compare(predictor, OnnxPredictor(write(tampered, tmp_path)), IMAGES).agrees


def test_nothing_to_compare_is_an_error(predictor: TorchPredictor) -> None:
    blind = TorchPredictor(predictor.model, PostProcess(score_threshold=1.0, **SETTINGS), device="cpu")
    with pytest.raises(ConfigError, match="no detections in 1 images"):
        parity.compare(blind, blind, [np.zeros((9, 9, 3), np.uint8)])
