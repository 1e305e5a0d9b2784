"""Bounds what an ONNX graph can compute, before a runtime sees it: its operators, its memory and its time.

The graph of a detector has neither loops nor branches, and the shapes of its tensors follow from that of its input.
Only the number of boxes that NMS keeps is not known before it runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_OPERATORS = frozenset(
    re.findall(
        r"\w+",
        """
        Abs Add And Cast CastLike Ceil Clip Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid
        HardSwish Identity LeakyRelu Less LessOrEqual Log LogSoftmax Max Min Mish Mod Mul Neg Not Or PRelu Pow
        Reciprocal Relu Round Sigmoid Sign Softmax Softplus Sqrt Sub Sum Tanh Where Xor ArgMax ArgMin Concat
        Constant ConstantOfShape CumSum Expand Flatten Gather GatherElements GatherND Pad Range Reshape
        ScatterElements ScatterND Shape Size Slice Split Squeeze Tile TopK Transpose Unsqueeze AveragePool
        BatchNormalization Conv Dropout Gemm GlobalAveragePool InstanceNormalization LayerNormalization
        LpNormalization MatMul MaxPool NonMaxSuppression ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd
        ReduceSum ReduceSumSquare ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv
        QLinearMatMul QuantizeLinear
        """,
    )
)
_STANDARD_DOMAINS = ("", "ai.onnx")
_OPSETS = range(11, 31)
_MAX_NODES = 20_000
_MAX_CONSTANT = 4096  # numbers of a constant that can be a shape; larger ones are weights
_AFTER_NMS = {"NonMaxSuppression", "Gather", "Cast", "Identity", "Slice", "Squeeze", "Transpose", "Unsqueeze", "Expand"}
_COUNTED = {"Add", "Cast", "Div", "Gather", "Identity", "Max", "Min", "Mul", "Slice", "Squeeze", "Sub", "Unsqueeze"}
_MAX_COUNTED = 100_000  # numbers of which shapes are computed
_MAX_RANK = 64
_MAX_GATHERED = 1000  # rows taken of each of a number that is not known
_MAX_ELEMENTS, _ELEMENTS_PER_PIXEL = 2**28, 128  # of one tensor; VGG16 has 64 per pixel of the input
_MAX_SUM, _SUM_PER_PIXEL = 2**30, 2048  # of all; VGG16 has 500
_PRODUCTS_PER_PIXEL = 2**22  # VGG16 has 2**18.4
_MAX_NMS = 2**36  # comparisons

Shape = tuple[int | None, ...] | None  # None: not known before it runs


@dataclass(frozen=True, slots=True)
class _Graph:
    shapes: dict[str, Shape]
    makers: dict[str, Any]  # tensor -> the node whose output it is


def check_graph(model: Any, *, batch: int, pixels: int) -> None:
    """Checks an onnx.ModelProto.

    Args:
        model: its first input is a batch of images.
        batch: number of images, for which the bounds hold.
        pixels: of an image.

    Raises:
        ValueError: an operator that no detector needs, or a graph that needs too much memory or time.
    """
    _check_operators(model)
    _check_order(model.graph)
    shapes = _infer_shapes(model, batch)
    graph = _Graph(shapes, {output: node for node in model.graph.node for output in node.output})
    limit, total = max(_MAX_ELEMENTS, _ELEMENTS_PER_PIXEL * pixels), max(_MAX_SUM, _SUM_PER_PIXEL * pixels)
    elements = products = 0
    for node in model.graph.node:
        for output in filter(None, node.output):
            shape = shapes.get(output)
            size = _size(shape)
            if size is None:
                _check_unknown(node, graph)
            elif size > limit * batch or (elements := elements + size) > total * batch:
                raise ValueError(f"{node.op_type} {output!r} has the shape {list(shape or ())}: too large a graph")
        products += _products(node, shapes)
        if products > _PRODUCTS_PER_PIXEL * max(pixels, 64 * 64) * batch:
            raise ValueError(f"{node.op_type} {node.output[0]!r}: the graph has more to compute than any detector")


def _check_operators(model: Any) -> None:
    import onnx

    nodes = model.graph.node
    versions = [item.version for item in model.opset_import if item.domain in _STANDARD_DOMAINS]
    if len(versions) != 1 or versions[0] not in _OPSETS:
        raise ValueError(f"opset {versions}: versions {_OPSETS[0]} to {_OPSETS[-1]} are read")
    if model.functions or model.training_info or len(nodes) > _MAX_NODES:
        raise ValueError(
            f"it has local functions, training steps, or {len(nodes)} nodes; at most {_MAX_NODES} are read"
        )
    with_graph = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    for node in nodes:
        if node.domain not in _STANDARD_DOMAINS:
            raise ValueError(f"{node.op_type!r} of {node.domain!r} is not a standard ONNX operator")
        inner = any(item.type in with_graph or item.HasField("g") or item.graphs for item in node.attribute)
        if node.op_type not in _OPERATORS or inner:
            raise ValueError(f"the operator {node.op_type!r} is not one of a detector: no loops, branches or texts")
    names = [name for node in nodes for name in node.output if name]
    names += [item.name for item in (*model.graph.initializer, *model.graph.input)]
    if len(set(names)) < len(names):
        raise ValueError("two of its tensors have the same name")


def _check_order(graph: Any) -> None:
    """Checks that a node comes after those that it needs, and that shape inference has few numbers to compute.

    It computes the values of small tensors, as they can be shapes: Concat could double those 45 times.
    """
    lengths = {item.name: math.prod(item.dims) for item in graph.initializer}
    lengths = {name: length if length <= _MAX_CONSTANT else 0 for name, length in lengths.items()}
    lengths |= {"": 0} | {item.name: 0 for item in graph.input}
    for node in graph.node:
        if not lengths.keys() >= set(node.input):
            raise ValueError(
                f"{node.op_type} needs {min(set(node.input) - lengths.keys())!r}, which no node before gives"
            )
        given = [lengths[name] for name in node.input]
        length = 0
        if node.op_type == "Concat":
            length = sum(given)
        elif node.op_type in _COUNTED:
            length = max(given, default=0)
        elif node.op_type in ("Constant", "Shape", "Size"):
            length = _MAX_CONSTANT if node.op_type == "Constant" else _MAX_RANK
        if length > _MAX_COUNTED:
            raise ValueError(f"{node.op_type} {node.output[0]!r}: too large a graph")
        lengths |= dict.fromkeys(node.output, length)


def _infer_shapes(model: Any, batch: int) -> dict[str, Shape]:
    """The shapes that follow from that of the images; what the file says about those in between is not used."""
    import onnx

    copy = onnx.ModelProto(ir_version=model.ir_version)
    copy.opset_import.extend(model.opset_import)
    copy.graph.node.extend(model.graph.node)
    copy.graph.input.extend(model.graph.input)
    copy.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    copy.graph.output.extend(onnx.ValueInfoProto(name=item.name) for item in model.graph.output)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _MAX_CONSTANT:
            copy.graph.initializer.append(tensor)
        else:
            copy.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    inferred = onnx.shape_inference.infer_shapes(copy, strict_mode=True, data_prop=True).graph
    shapes: dict[str, Shape] = {item.name: tuple(item.dims) for item in model.graph.initializer}
    for item in (*inferred.input, *inferred.value_info, *inferred.output):
        if item.type.tensor_type.HasField("shape"):
            dims = item.type.tensor_type.shape.dim
            shapes[item.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
    return shapes


def _size(shape: Shape) -> int | None:
    """Number of elements."""
    known = [side for side in shape or () if side is not None]
    if shape is None or len(known) < len(shape):
        return None
    if min(known, default=0) < 0:
        raise ValueError(f"a tensor has the shape {list(shape)}")
    return math.prod(known)


def _check_unknown(node: Any, graph: _Graph) -> None:
    """Checks that a tensor of unknown shape has at most a few numbers for each box that NMS keeps."""
    problem = f"the shape of {node.op_type} {node.output[0]!r} does not follow from that of the images"
    if node.op_type not in _AFTER_NMS:
        raise ValueError(problem)
    if node.op_type == "Gather":
        indices = _size(graph.shapes.get(node.input[1]))
        if indices is None or indices > _MAX_GATHERED:
            raise ValueError(problem)
    if node.op_type == "Expand":
        maker = graph.makers.get(node.input[1])
        if maker is None or maker.op_type != "Shape" or _size(graph.shapes.get(node.input[0])) != 1:
            raise ValueError(problem)
    if node.op_type == "NonMaxSuppression":
        scores = graph.shapes.get(node.input[1])
        size = _size(scores)
        if scores is None or len(scores) != 3 or size is None or size * (scores[2] or 0) > _MAX_NMS:
            raise ValueError(f"NonMaxSuppression of scores of the shape {scores}: too many candidates")


def _products(node: Any, shapes: Mapping[str, Shape]) -> int:
    """Multiplications, or comparisons of a pooling layer."""
    size = sum(_size(shapes.get(output)) or 0 for output in node.output)
    if node.op_type in ("MaxPool", "AveragePool"):
        kernel: Sequence[int] = next((item.ints for item in node.attribute if item.name == "kernel_shape"), ())
        return size * math.prod(map(abs, kernel))
    operands = [shape for shape in map(shapes.get, node.input) if shape is not None]
    if node.op_type in ("Conv", "ConvInteger", "QLinearConv"):
        weight = next((shape for shape in operands[1:] if len(shape) > 2), ())
        return size * math.prod(side or 1 for side in weight[1:])
    if node.op_type in ("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul") and operands:
        return size * max((side or 1 for side in operands[0]), default=1)
    return size
