"""Small ONNX graphs in the form of an exported detector, and hostile ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ssd.inference import onnx_file

SIZE = 8
RECIPE = {"class_names": ["cat", "dog"], "image_size": SIZE}
ONE_DOG = {
    "boxes": np.array([[[0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0]]], np.float32),
    "scores": np.array([[0.9, 0]], np.float32),
    "labels": np.array([[1, -1]]),
    "counts": np.array([1]),
}


def constant(**changes: np.ndarray) -> onnx.ModelProto:
    """A graph that returns one dog for any image, or other outputs."""
    found = ONE_DOG | changes
    outputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in found.items()
    ]
    nodes = [helper.make_node("Identity", [f"{name}_value"], [name]) for name in found]
    values = [numpy_helper.from_array(value, f"{name}_value") for name, value in found.items()]
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])]
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(helper.make_graph(nodes, "dog", inputs, outputs, values), opset_imports=opset)
    model.ir_version = 10
    onnx_file.write_metadata(model, recipe=RECIPE, postprocess={})
    return model


def with_nodes(nodes: Sequence[NodeProto], **values: Any) -> onnx.ModelProto:
    """A graph that computes something else first; `values` are its constants."""
    model = constant()
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in values.items())
    return model


def _loop() -> onnx.ModelProto:
    count = helper.make_tensor_value_info("count", TensorProto.INT64, [])
    condition = helper.make_tensor_value_info("condition", TensorProto.BOOL, [])
    same = helper.make_tensor_value_info("same", TensorProto.BOOL, [])
    body = helper.make_graph([helper.make_node("Identity", ["condition"], ["same"])], "b", [count, condition], [same])
    return with_nodes([helper.make_node("Loop", ["times", "true"], [], body=body)], times=np.int64(2**62), true=True)


def _if() -> onnx.ModelProto:
    output = helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [1])
    node = helper.make_node("Constant", [], ["chosen"], value_floats=[1.0])
    body = helper.make_graph([node], "b", [], [output])
    return with_nodes([helper.make_node("If", ["true"], ["out"], then_branch=body, else_branch=body)], true=True)


def _function() -> onnx.ModelProto:
    model = constant()
    opset = helper.make_opsetid("", 18)
    model.functions.append(
        helper.make_function("mine", "F", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], [opset])
    )
    return model


def _opset(version: int) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        model = constant()
        model.opset_import[0].version = version
        return model

    return make


def _grow(operator: str, inputs: list[str], **values: Any) -> Callable[[], onnx.ModelProto]:
    return lambda: with_nodes([helper.make_node(operator, inputs, ["grown"])], **values)


def _hidden_shape() -> onnx.ModelProto:
    """The shape is computed with floats, which shape inference does not follow."""
    nodes = [
        helper.make_node("Exp", ["thirty"], ["many"]),
        helper.make_node("Cast", ["many"], ["sides"], to=TensorProto.INT64),
        helper.make_node("Expand", ["one", "sides"], ["grown"]),
    ]
    return with_nodes(nodes, thirty=np.float32([27.0]), one=np.float32([1.0]))


def _doubling() -> onnx.ModelProto:
    nodes = [helper.make_node("Concat", [f"x{level}"] * 2, [f"x{level + 1}"], axis=0) for level in range(45)]
    return with_nodes(nodes, x0=np.float32([1.0]))


def _products() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["square", "square"], ["y0"])]
    nodes += [helper.make_node("MatMul", [f"y{level}", "square"], [f"y{level + 1}"]) for level in range(200)]
    return with_nodes(nodes, square=np.ones((1000, 1000), np.float32))


def _pooling() -> onnx.ModelProto:
    node = helper.make_node("MaxPool", ["image"], ["y"], kernel_shape=[2**20, 2**20], pads=[2**19] * 4)
    return with_nodes([node], image=np.ones((1, 1, 64, 64), np.float32))


def _nms() -> onnx.ModelProto:
    node = helper.make_node("NonMaxSuppression", ["all_boxes", "all_scores"], ["kept"])
    boxes, scores = np.zeros((1, 50_000, 4), np.float32), np.zeros((1, 100, 50_000), np.float32)
    return with_nodes([node], all_boxes=boxes, all_scores=scores)


def _external() -> onnx.ModelProto:
    model = constant()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    return model


def _metadata(**entries: str) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        model = constant()
        helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | entries)
        return model

    return make


def _names(*names: str) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        model = constant()
        onnx_file.write_metadata(model, recipe=RECIPE | {"class_names": list(names)}, postprocess={})
        return model

    return make


def _declared(name: str, sides: list[Any], kind: int) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        model = constant()
        for item in (*model.graph.input, *model.graph.output):
            if item.name == name:
                item.CopyFrom(helper.make_tensor_value_info(name, kind, sides))
        return model

    return make


def _metadata_twice() -> onnx.ModelProto:
    model = constant()
    model.metadata_props.append(model.metadata_props[0])
    return model


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {  # before a runtime sees them
    "a Loop of 2^62": (_loop, "'Loop'"),
    "an If": (_if, "'If'"),
    "local functions": (_function, "local functions"),
    "opset 2^40": (_opset(2**40), "opset"),
    "opset 1": (_opset(1), "opset"),
    "opset -1": (_opset(-1), "opset"),
    "Expand to 2^40": (_grow("Expand", ["a", "b"], a=np.float32([1]), b=[2**40]), "too large"),
    "Tile to 2^40": (_grow("Tile", ["a", "b"], a=np.float32([1]), b=[2**40]), "too large"),
    "ConstantOfShape 2^20 x 2^20": (_grow("ConstantOfShape", ["a"], a=[2**20, 2**20]), "too large"),
    "Range to 2^40": (_grow("Range", ["a", "b", "c"], a=np.int64(0), b=np.int64(2**40), c=np.int64(1)), "too large"),
    "Pad by 2^40": (_grow("Pad", ["a", "b"], a=np.float32([1]), b=[2**40, 0]), "too large"),
    "Resize": (_grow("Resize", ["a", "", "b"], a=np.ones((1, 1, 2, 2), np.float32), b=np.float32([1e6] * 4)), "Resize"),
    "a shape computed with floats": (_hidden_shape, "does not follow"),
    "Concat that doubles 45 times": (_doubling, "too large"),
    "2 * 10^11 products": (_products, "more to compute"),
    "a pooling window of 2^40": (_pooling, "Pool"),
    "NMS of 50,000 boxes of 100 classes": (_nms, "too many candidates"),
    "weights in /etc/passwd": (_external, "another file"),
    "a class listed five times": (_names(*["cat"] * 5), "twice"),
    "a class name with ESC": (_names("cat\x1b[2J", "dog"), r"\x1b[2J"),
    "a class name that is a lone surrogate": (_names("\ud800", "dog"), r"\ud800"),
    "20,000 classes": (_names(*map(str, range(20_000))), "20000 classes"),
    "a recipe nested 50,000 levels": (_metadata(recipe="[" * 50_000), "deeply"),
    "a recipe with a key twice": (_metadata(recipe='{"a": 1, "a": 2}'), "twice"),
    "an image size of 10^9": (_metadata(recipe='{"class_names": ["a"], "image_size": 1000000000}'), "image_size"),
    "an image size of NaN": (_metadata(recipe='{"class_names": ["a"], "image_size": NaN}'), "image_size"),
    "thresholds of Infinity": (_metadata(postprocess='{"nms_threshold": Infinity}'), "postprocess"),
    "thresholds in a list": (_metadata(postprocess="[1]"), "postprocess"),
    "a wrong checksum": (_metadata(sha256="1" * 64), "damaged"),
    "an empty checksum": (_metadata(sha256=""), "damaged"),
    "metadata twice": (_metadata_twice, "same name"),
    "images of floats": (_declared("images", ["batch", SIZE, SIZE, 3], TensorProto.FLOAT), "element type"),
    "images of three sides": (_declared("images", [SIZE, SIZE, 3], TensorProto.UINT8), "images"),
    "labels of floats": (_declared("labels", ["batch", 2], TensorProto.FLOAT), "element type"),
    "boxes of two sides": (_declared("boxes", ["batch", 2], TensorProto.FLOAT), "shape"),
    "2^40 detections": (_declared("scores", ["batch", 2**40], TensorProto.FLOAT), "shape"),
}
WRONG_OUTPUTS: dict[str, tuple[dict[str, Any], str]] = {  # known when they run
    "counts -1": ({"counts": np.array([-1])}, "counts"),
    "counts above the rows": ({"counts": np.array([3])}, "counts"),
    "counts of 2^62": ({"counts": np.array([2**62])}, "counts"),
    "counts of two images": ({"counts": np.array([1, 1])}, "shapes"),
    "boxes of NaN": ({"boxes": np.full((1, 2, 4), np.nan, np.float32)}, "NaN"),
    "boxes of infinity": ({"boxes": np.full((1, 2, 4), np.inf, np.float32)}, "infinite"),
    "boxes outside": ({"boxes": np.full((1, 2, 4), 7, np.float32)}, "fractions"),
    "boxes turned round": ({"boxes": np.array([[[0.9, 0.9, 0.1, 0.1]] * 2], np.float32)}, "fractions"),
    "boxes of five numbers": ({"boxes": np.zeros((1, 2, 5), np.float32)}, "shapes"),
    "scores of NaN": ({"scores": np.full((1, 2), np.nan, np.float32)}, "NaN"),
    "scores above 1": ({"scores": np.full((1, 2), 2, np.float32)}, "scores"),
    "scores of another number": ({"scores": np.full((1, 7), 0.5, np.float32)}, "shapes"),
    "scores that ascend": ({"scores": np.array([[0.1, 0.9]], np.float32), "counts": np.array([2])}, "scores|label"),
    "a label without a name": ({"labels": np.array([[2, -1]])}, "label"),
    "a label of -1": ({"labels": np.array([[-1, -1]])}, "label"),
}
