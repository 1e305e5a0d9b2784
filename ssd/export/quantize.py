"""Quantizes an exported graph to int8 with ONNX Runtime, calibrated on images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

from ssd.common.images import ImageArray, warp
from ssd.inference import onnx_file

_OPERATORS = ["Conv", "Relu", "MaxPool"]
_PREPROCESSED = {"onnx.quant.pre_process": "onnxruntime.quant"}  # our graph needs none; without it ONNX Runtime warns


def quantize_int8(model: onnx.ModelProto, target: Path, *, images: Iterable[ImageArray]) -> None:
    """Writes `model` to `target` with its backbone in int8; heads, decoding and NMS remain in float32.

    `images` calibrate the activation ranges. Weights have 7 bits and one scale per channel: with 8 bits, processors
    without VNNI would overflow.
    """
    size = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    inputs = ({onnx_file.INPUT: warp(image, size=size)[None]} for image in images)
    model = onnx.ModelProto.FromString(model.SerializeToString())
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | _PREPROCESSED)
    heads = [node.name for node in model.graph.node if node.op_type == "Conv" and "_heads." in node.input[1]]
    quantize_static(
        model,
        target,
        SimpleNamespace(get_next=lambda: next(inputs, None)),  # as ONNX Runtime's CalibrationDataReader
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=_OPERATORS,
        nodes_to_exclude=heads,
        extra_options={"CalibMovingAverage": True},  # the extremes of all images would halve MobileNetV1's mAP
    )
    target.write_bytes(onnx_file.seal(onnx.load(target)))
