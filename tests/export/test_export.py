"""An exported file gives the detections of its checkpoint, describes itself, and is not written otherwise."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import jaxtyping
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from composed import CONF, register
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from onnx import numpy_helper
from torchvision.ops import box_iou
from torchvision_ssd import assert_same_in_any_order, rows
from voc_files import add, object_xml

from ssd.cli.benchmark import benchmark, show
from ssd.cli.export import check, export
from ssd.common.errors import ConfigError, DataError, MachineError, SSDError
from ssd.common.images import ImageArray, warp
from ssd.common.structures import PADDING_LABEL, Detections
from ssd.data.formats.shapes import CLASS_NAMES, render
from ssd.export import parity
from ssd.export.onnx_graph import to_onnx
from ssd.inference.onnx_predictor import OnnxPredictor
from ssd.inference.torch_predictor import TorchPredictor
from ssd.model.backbones import MobileNetV1
from ssd.model.postprocess import PostProcess
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD
from ssd.weights import checkpoint

SIZE = 96
Compose = Callable[..., DictConfig]
SETTINGS: dict[str, Any] = {"nms_threshold": 0.45, "topk_candidates": 60, "max_detections": 40}


@pytest.fixture(scope="module")
def model(mobilenet_v1: PriorSpec, images: list[ImageArray]) -> SSD:
    """Random weights; BatchNorm has seen images, otherwise all scores would be similar."""
    torch.manual_seed(3)
    backbone = MobileNetV1(width_multiplier=0.25, mean=[120.0, 110.0, 100.0], std=[50.0, 60.0, 70.0])
    network = SSD(backbone, mobilenet_v1, class_names=CLASS_NAMES, image_size=SIZE)
    batch = torch.from_numpy(np.stack([warp(image, size=SIZE) for image in images])).permute(0, 3, 1, 2)
    with torch.no_grad():
        for _ in range(20):
            network(batch)
    return network.eval()


@pytest.fixture(scope="module")
def images() -> list[ImageArray]:
    return [render(f"test/{number:06d}", side_px=120, seed=0) for number in range(5)]


@pytest.fixture(scope="module")
def predictor(model: SSD) -> TorchPredictor:
    return TorchPredictor(model, PostProcess(score_threshold=0.05, **SETTINGS), device="cpu")


@pytest.fixture(scope="module")
def graph(model: SSD, predictor: TorchPredictor) -> onnx.ModelProto:
    with unchecked():
        return to_onnx(model, predictor.postprocess)


@contextmanager
def unchecked() -> Iterator[None]:
    """Disables the annotation checks: they compare batch sizes, so the exporter would treat the size as fixed."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


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


def with_other_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    return changed(graph, "model.classification_heads.0.weight", lambda weight: weight * np.float32(1.05))


def table(found: Detections) -> torch.Tensor:
    return rows(found.labels, found.scores, found.boxes)


def test_all_three_file_formats_give_the_same_detections(
    model: SSD, predictor: TorchPredictor, exported: Path, images: list[ImageArray], tmp_path: Path
) -> None:
    checkpoint.save_release(model, tmp_path / "model.safetensors")
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "recipe": model.recipe()}, tmp_path / "model.ckpt")
    loaded = (checkpoint.load(tmp_path / name) for name in ("model.safetensors", "model.ckpt"))
    predictors = [
        *(TorchPredictor(each, predictor.postprocess, device="cpu") for each in loaded),
        OnnxPredictor(exported),
    ]
    expected = predictor(images)
    assert sum(map(len, expected)) > 50
    first = expected[0]
    same_place = box_iou(first.boxes, first.boxes) > SETTINGS["nms_threshold"]
    assert (same_place & (first.labels[:, None] != first.labels)).any()  # classes do not suppress each other
    for other in predictors:
        assert other.class_names == model.class_names
        for one, two in zip(expected, other(images), strict=True):
            assert_same_in_any_order(table(one), table(two), atol=1e-5)
    assert predictors[-1]([]) == []


def test_images_without_detections(
    model: SSD, predictor: TorchPredictor, graph: onnx.ModelProto, images: list[ImageArray], tmp_path: Path
) -> None:
    """The threshold lies between the best scores of the images, so some have detections and some have none."""
    best = sorted(float(found.scores[0]) for found in predictor(images))
    threshold = (best[1] + best[2]) / 2
    nms = next(node for node in graph.graph.node if node.op_type == "NonMaxSuppression")
    tampered = changed(graph, nms.input[4], lambda old: np.full_like(old, threshold))
    expected = TorchPredictor(model, PostProcess(score_threshold=threshold, **SETTINGS), device="cpu")(images)
    found = OnnxPredictor(write(tampered, tmp_path))(images)
    assert [len(one) for one in found] == [len(one) for one in expected]
    assert min(map(len, found)) == 0 < max(map(len, found))


def test_batched_equals_single(exported: Path, images: list[ImageArray]) -> None:
    onnx_predictor = OnnxPredictor(exported)
    for alone, batched in zip(images, onnx_predictor(images), strict=True):
        assert_same_in_any_order(table(onnx_predictor([alone])[0]), table(batched), atol=1e-5)


def test_metadata_describes_the_graph(exported: Path, images: list[ImageArray]) -> None:
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == list(CLASS_NAMES)
    assert json.loads(metadata["recipe"])["image_size"] == SIZE
    assert json.loads(metadata["postprocess"])["nms_threshold"] == 0.45
    assert "uint8 RGB" in metadata["usage"]
    assert f"{SIZE}x{SIZE}" in metadata["usage"]
    batch = np.stack([image[:SIZE, :SIZE] for image in images])
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


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compose]:
    """Composes the configuration of a command, in a temporary working folder."""
    monkeypatch.chdir(tmp_path)
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda name, *overrides: hydra.compose(name, overrides=list(overrides))
    GlobalHydra.instance().clear()


# --- comparison and command --------------------------------------------------------------------------------------


def test_tampered_file_disagrees(
    graph: onnx.ModelProto, predictor: TorchPredictor, exported: Path, images: list[ImageArray], tmp_path: Path
) -> None:
    same = parity.compare(predictor, OnnxPredictor(exported), images)
    assert same.agrees
    assert same.detections > 10
    assert 0 < same.largest_difference < 1e-5
    tampered = write(with_other_weights(graph), tmp_path)
    assert not parity.compare(predictor, OnnxPredictor(tampered), images).agrees


def test_nothing_to_compare_is_an_error(predictor: TorchPredictor) -> None:
    blind = TorchPredictor(predictor.model, PostProcess(score_threshold=1.0, **SETTINGS), device="cpu")
    with pytest.raises(ConfigError, match="no detections in 1 images"):
        parity.compare(blind, blind, [np.zeros((9, 9, 3), np.uint8)])


def test_file_that_disagrees_is_not_written(
    graph: onnx.ModelProto, predictor: TorchPredictor, tmp_path: Path, configuration: Compose
) -> None:
    config = configuration("export", "checkpoint=x", "output=model.onnx")

    def write_and_check(temporary: Path) -> None:
        temporary.write_bytes(with_other_weights(graph).SerializeToString())
        check(predictor, temporary, config)

    with pytest.raises(MachineError, match=r"output=model\.onnx: not written: .* \d+%"):
        checkpoint.write_atomically(tmp_path / "model.onnx", write_and_check)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_export_command(
    model: SSD, tmp_path: Path, configuration: Compose, caplog: pytest.LogCaptureFixture, images: list[ImageArray]
) -> None:
    caplog.set_level(logging.INFO)
    checkpoint.save_release(model, tmp_path / "model.safetensors")
    where = [f"checkpoint={tmp_path}/model.safetensors", f"output={tmp_path}/out/int8.onnx"]
    data = ["dataset=shapes", "dataset.train=3", "dataset.val=2", "dataset.side_px=120", "num_workers=0"]
    with unchecked():
        export(configuration("export", *where, *data, "quantize=int8", "calibration_images=2"))
    report = json.loads((tmp_path / "out/int8.onnx.json").read_text())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["int8.onnx", "int8.onnx.json"]
    assert report["parity"]["agrees"]
    assert (report["parity"]["graph"], report["parity"]["images"]) == ("float32", 3)  # of the dataset
    assert report["int8"]["split"] == "val"
    assert set(report["int8"]["map"]) == {"float32", "int8"}
    assert "agrees with PyTorch on" in caplog.text
    int8 = onnx.load(tmp_path / "out/int8.onnx")
    quantized = {name for node in int8.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    convolutions = [node for node in int8.graph.node if node.op_type == "Conv"]
    in_float = [node for node in convolutions if node.input[1] not in quantized]
    assert len(in_float) == 12  # the heads
    assert len(convolutions) == 12 + 27 + 8
    assert all(len(found) <= 200 for found in OnnxPredictor(tmp_path / "out/int8.onnx")(images))


def test_int8_with_a_large_map_drop_is_not_written(
    model: SSD, tmp_path: Path, configuration: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.4])
    monkeypatch.setattr("ssd.evaluation.evaluator.mean_ap", lambda *_, **__: next(scores))
    checkpoint.save_release(model, tmp_path / "model.safetensors")
    where = [f"checkpoint={tmp_path}/model.safetensors", f"output={tmp_path}/out/int8.onnx", "quantize=int8"]
    data = ["dataset=shapes", "dataset.train=3", "dataset.val=2", "dataset.side_px=120", "num_workers=0"]
    with unchecked(), pytest.raises(DataError, match=r"0\.100 mAP on val, .*max_map_drop=0\.05"):
        export(configuration("export", *where, *data, "calibration_images=2"))
    assert list((tmp_path / "out").iterdir()) == []


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
def test_wrong_settings(model: SSD, tmp_path: Path, configuration: Compose, overrides: list[str], message: str) -> None:
    checkpoint.save_release(model, tmp_path / "model.safetensors")
    for number in range(4):
        add(tmp_path / "cats", f"cat{number}", object_xml())
    with pytest.raises(SSDError, match=message):
        export(configuration("export", f"checkpoint={tmp_path}/model.safetensors", *overrides))
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch.compile
@pytest.mark.parametrize("with_data", [False, True])
def test_benchmark_command(
    model: SSD, tmp_path: Path, configuration: Compose, caplog: pytest.LogCaptureFixture, with_data: bool
) -> None:
    caplog.set_level(logging.INFO)
    checkpoint.save_release(model, tmp_path / "model.safetensors")
    data = ["dataset=shapes", "dataset.train=2", "dataset.val=2", "dataset.side_px=120", "num_workers=0"]
    data = data if with_data else []
    where = [f"checkpoint={tmp_path}/model.safetensors", f"output={tmp_path}/out.json"]
    with unchecked():
        benchmark(configuration("benchmark", *where, *data, "rounds=2", "calibration_images=2"))
    measured = json.loads((tmp_path / "out.json").read_text())
    assert list(measured) == ["PyTorch", "PyTorch compiled", "ONNX Runtime", "ONNX Runtime int8", "OpenVINO"]
    for name, row in measured.items():
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["images_per_second"] > 0
        assert (row["map"] is not None) is with_data
        assert name in caplog.text
    assert measured["ONNX Runtime int8"]["megabytes"] < measured["ONNX Runtime"]["megabytes"]


def test_benchmark_table_is_right_aligned(caplog: pytest.LogCaptureFixture) -> None:
    numbers = {"map": None, "p50_ms": 9.5, "p95_ms": 10.0, "images_per_second": 100.0, "megabytes": 5.0}
    with caplog.at_level(logging.INFO, logger="ssd"):
        show({"one": numbers, "two": numbers | {"map": 0.5, "p50_ms": 1234.5}}, title="t")
    assert re.search(r"one +│ +- │ +9\.5 │", caplog.text)
    assert re.search(r"two +│ 0\.500 │ 1234\.5 │", caplog.text)
