"""Files from unknown sources: foreign, damaged or unsafe files are refused with one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphs
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import RECIPE, SIZE
from PIL import Image

from ssd.common.errors import CheckpointError, ConfigError
from ssd.inference import onnx_file
from ssd.inference.detector import open_predictor
from ssd.inference.onnx_predictor import OnnxPredictor
from ssd.model.postprocess import PostProcess


@pytest.fixture
def graph() -> onnx.ModelProto:
    """Returns one dog for any image."""
    return onnx_graphs.constant()


def write(graph: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(graph.SerializeToString())
    return path


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        OnnxPredictor(path)([np.zeros((9, 9, 3), np.uint8)])
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_valid_file(graph: onnx.ModelProto, tmp_path: Path) -> None:
    predictor = OnnxPredictor(write(graph, tmp_path))
    (found,) = predictor([np.zeros((9, 9, 3), np.uint8)])
    assert predictor.class_names == ("cat", "dog")
    assert found.labels.tolist() == [1]
    assert found.boxes.shape == (1, 4)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 half a zip"])
def test_files_of_other_formats_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert_refused(tmp_path / "model.onnx", "damaged|recipe")
    assert_refused(tmp_path, "a folder, not a regular file")
    assert_refused(tmp_path / "none.onnx", "no such file")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused(graph: onnx.ModelProto, tmp_path: Path, share: float) -> None:
    data = graph.SerializeToString()
    (tmp_path / "model.onnx").write_bytes(data[: int(len(data) * share)])
    assert_refused(tmp_path / "model.onnx", "damaged|recipe|rejects")


@pytest.mark.parametrize("hidden", [False, True])
def test_weights_in_another_file_are_refused(graph: onnx.ModelProto, tmp_path: Path, hidden: bool) -> None:
    weight = numpy_helper.from_array(np.zeros(2, np.float32), "secret")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")
    if hidden:  # in an attribute of a node
        graph.graph.node.append(helper.make_node("Constant", [], ["secret"], value=weight))
    else:
        graph.graph.initializer.append(weight)
    assert_refused(write(graph, tmp_path), "refused: .*'secret'")


def test_custom_operators_are_refused(graph: onnx.ModelProto, tmp_path: Path) -> None:
    graph.graph.node.append(helper.make_node("Run", [], ["x"], domain="evil"))
    assert_refused(write(graph, tmp_path), "refused: 'Run' of 'evil'")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (RECIPE | {"image_size": 64}, "image_size 64"),
        (RECIPE | {"image_size": "8"}, "image_size 8"),
        (RECIPE | {"class_names": "cat"}, "class_names"),
        (RECIPE | {"class_names": []}, "class_names"),
        (RECIPE | {"class_names": [1, 2]}, "class_names"),
        (RECIPE | {"class_names": ["cat"]}, "no class name"),
        ({"image_size": SIZE}, "no recipe"),
        ([1, 2], "no recipe"),
        (None, "no recipe"),
    ],
)
def test_inconsistent_metadata_is_refused(graph: onnx.ModelProto, tmp_path: Path, recipe: Any, message: str) -> None:
    helper.set_model_props(graph, {"recipe": json.dumps(recipe)})
    assert_refused(write(graph, tmp_path), message)


def test_other_outputs_are_refused(graph: onnx.ModelProto, tmp_path: Path) -> None:
    del graph.graph.output[0]
    assert_refused(write(graph, tmp_path), "outputs are not boxes")


def test_graph_that_the_runtime_rejects_is_refused(graph: onnx.ModelProto, tmp_path: Path) -> None:
    graph.graph.node.append(helper.make_node("Relu", ["nothing"], ["x"]))
    assert_refused(write(graph, tmp_path), "needs 'nothing'")


def test_too_large_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(onnx_file.MAX_BYTES + 1)  # sparse
    assert_refused(tmp_path / "model.onnx", "larger than the 2147483647 bytes")


def test_explicit_override_of_an_exported_setting_is_an_error(graph: onnx.ModelProto, tmp_path: Path) -> None:
    """Through the command line; the file has its own non-maximum suppression."""
    exported = {"score_threshold": 0.01, "nms_threshold": 0.45, "topk_candidates": 2000, "max_detections": 200}
    onnx_file.write_metadata(graph, recipe=RECIPE, postprocess=exported)
    path = write(graph, tmp_path)
    command = [sys.executable, "predict.py", f"checkpoint={path}", f"source={tmp_path}", f"output={tmp_path / 'out'}"]
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")

    def predict(*overrides: str) -> tuple[int, str]:
        done = subprocess.run([*command, *overrides], cwd=Path(__file__).parents[2], capture_output=True, text=True)
        return done.returncode, done.stderr

    code, message = predict("postprocess.nms_threshold=0.6")
    assert code == 2
    assert re.search("nms_threshold=0.45.* 0.6", message)
    assert predict("postprocess.nms_threshold=0.45", "postprocess.score_threshold=0.2")[0] == 0


def test_default_setting_yields_to_the_exported_one(graph: onnx.ModelProto, tmp_path: Path) -> None:
    onnx_file.write_metadata(graph, recipe=RECIPE, postprocess={"nms_threshold": 0.5, "topk_candidates": 100})
    postprocess = PostProcess(score_threshold=0.01, nms_threshold=0.45, topk_candidates=2000, max_detections=200)
    path = write(graph, tmp_path)
    assert open_predictor(path, postprocess).class_names == ("cat", "dog")
    with pytest.raises(ConfigError, match=r"topk_candidates=100.* 2000"):
        open_predictor(path, postprocess, explicit_overrides=["topk_candidates"])


def test_setting_names_of_version_0_1_are_read(graph: onnx.ModelProto, tmp_path: Path) -> None:
    old = {"score_threshold": 0.01, "iou_threshold": 0.5, "candidates": 100, "max_detections": 200}
    onnx_file.write_metadata(graph, recipe=RECIPE, postprocess=old)
    path = write(graph, tmp_path)
    expected = {"score_threshold": 0.01, "nms_threshold": 0.5, "topk_candidates": 100, "max_detections": 200}
    assert onnx_file.read(path).postprocess == expected
    with pytest.raises(ConfigError, match=r"nms_threshold=0\.5.* 0\.45"):
        open_predictor(path, PostProcess(), explicit_overrides=["nms_threshold"])
