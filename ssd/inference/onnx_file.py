"""An `.onnx` file as a checkpoint: its metadata, and safe reading of a file from an unknown source.

The graph maps `images`, uint8 [B, S, S, 3], to `boxes` [B, D, 4], `scores` [B, D], `labels` [B, D] and `counts` [B];
rows after an image's count are padding.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd.common.class_names import check_class_names
from ssd.common.errors import CheckpointError, ConfigError, DataError
from ssd.common.image_size import ImageSize, height_width, is_image_size, simplest
from ssd.common.text import one_line
from ssd.common.untrusted_files import read_untrusted
from ssd.common.untrusted_text import parse_json
from ssd.inference import onnx_limits
from ssd.model.ssd import read_thresholds

INPUT = "images"
OUTPUTS = ("boxes", "scores", "labels", "counts")
MAX_BYTES = 2**31 - 1  # of a protobuf message; a larger model would need a second file

_USAGE = (
    "Input: images as uint8 RGB, upright, stretched to {height}x{width} pixels, [B, {height}, {width}, 3]. Outputs: "
    "boxes (x1, y1, x2, y2 as fractions of the image, x right, y down), scores (descending), labels (indices into "
    "class_names), counts (number of detections of each image; rows after it are padding)."
)
_RANKS = {"boxes": 3, "scores": 2, "labels": 2, "counts": 1}
_MAX_IMAGE_SIZE = 4096
_MAX_DETECTIONS = 1_000_000  # per image
_SHA256, _UNSEALED = "sha256", "0" * 64
_MAX_LINE = 400
_OLD_NAMES = {"iou_threshold": "nms_threshold", "candidates": "topk_candidates"}  # in files exported by version 0.1


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """The bytes of a checked file and its metadata."""

    data: bytes
    class_names: tuple[str, ...]
    image_size: int | tuple[int, int]
    postprocess: dict[str, float]
    thresholds: tuple[float, ...] | None = None  # see `SSD`


def write_metadata(model: Any, *, recipe: dict[str, Any], postprocess: dict[str, float]) -> None:
    """Sets the metadata of an onnx.ModelProto; `recipe` describes the network, see `SSD.recipe`."""
    import onnx

    height, width = height_width(recipe["image_size"])
    entries = {
        "recipe": json.dumps(recipe),
        "class_names": json.dumps(recipe["class_names"]),
        "postprocess": json.dumps(postprocess),
        "usage": _USAGE.format(height=height, width=width),
    }
    onnx.helper.set_model_props(model, entries)


def seal(model: Any) -> bytes:
    """The bytes of an onnx.ModelProto with their checksum in its metadata, so that damage to weights is noticed."""
    import onnx

    metadata = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, metadata | {_SHA256: _UNSEALED})
    data: bytes = model.SerializeToString()
    return data.replace(_UNSEALED.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def read(path: str | Path) -> OnnxFile:
    """Reads and checks a file: standard operators only, all weights inside, metadata of this program, bounded size.

    Raises:
        CheckpointError: missing, damaged, too large, not exported by this program, or with references to other files.
        ConfigError: the package onnx is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise ConfigError(f"{path}: needs onnx: pip install 'ssd-detector[export]'") from None
    path = Path(path)
    try:
        data = read_untrusted(path, max_bytes=MAX_BYTES, what="file")
        model = onnx.load_model_from_string(data)
        metadata = _read_metadata(model, data, path)
        class_names, image_size, thresholds = _read_recipe(metadata, path)
        _check_interface(model.graph, image_size)
        _check_tensors(model)
        onnx_limits.check_graph(model, batch=1, pixels=math.prod(height_width(image_size)))
        return OnnxFile(data, class_names, image_size, _read_postprocess(metadata, path), thresholds)
    except DecodeError as error:
        raise CheckpointError(f"{path}: not an ONNX file, or damaged: {error}") from None
    except DataError as error:
        raise CheckpointError(one_line(str(error))[: _MAX_LINE + len(str(path))]) from error
    except Exception as error:  # onnx raises many types without a common base
        reason = one_line(" ".join(str(error).split()) or type(error).__name__)[:_MAX_LINE]
        raise CheckpointError(f"{path}: refused: {reason}; export it again") from error


def walk_messages(message: Any) -> Iterator[Any]:
    """Yields a protobuf message and all messages nested in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from walk_messages(part)


def _read_metadata(model: Any, data: bytes, path: Path) -> dict[str, str]:
    """The metadata; raises CheckpointError if the file is not as it was written."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if len(metadata) < len(model.metadata_props):
        raise CheckpointError(f"{path}: two entries of its metadata have the same name; export it again")
    checksum = metadata.get(_SHA256)  # missing in files of earlier versions
    if checksum is not None:
        unsealed = data.replace(checksum.encode(), _UNSEALED.encode(), 1) if checksum else data
        if hashlib.sha256(unsealed).hexdigest() != checksum:
            raise CheckpointError(f"{path}: damaged, or changed after its export; copy or export it again")
    return metadata


def _read_recipe(
    metadata: dict[str, str], path: Path
) -> tuple[tuple[str, ...], int | tuple[int, int], tuple[float, ...] | None]:
    """(class names, image size, thresholds)."""
    recipe = parse_json(metadata.get("recipe", "null"), name=f"{path}: recipe")
    if not isinstance(recipe, dict) or not {"class_names", "image_size"} <= recipe.keys():
        raise CheckpointError(f"{path}: has no recipe, so it was not exported by this program")
    names, size = recipe["class_names"], recipe["image_size"]
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise CheckpointError(f"{path}: class_names in the recipe is not a list of names; export it again")
    try:
        check_class_names(names)
    except DataError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not is_image_size(size, low=1, high=_MAX_IMAGE_SIZE):
        raise CheckpointError(
            f"{path}: image_size {str(size)[:40]}: must be from 1 to {_MAX_IMAGE_SIZE}; export it again"
        )
    try:
        return tuple(names), simplest(size), read_thresholds(recipe)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; export it again") from error


def _read_postprocess(metadata: dict[str, str], path: Path) -> dict[str, float]:
    """Thresholds and limits in the graph; empty if the metadata lacks them."""
    settings = parse_json(metadata.get("postprocess", "{}"), name=f"{path}: postprocess")
    numbers = settings.values() if isinstance(settings, dict) else [None]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
        raise CheckpointError(f"{path}: postprocess in its metadata is not a table of numbers; export it again")
    return {_OLD_NAMES.get(name, name): float(value) for name, value in settings.items()}


def _check_interface(graph: Any, size: ImageSize) -> None:
    """Checks names, types and shapes of the inputs and outputs."""
    import onnx

    inputs = {node.name: [side.dim_value for side in node.type.tensor_type.shape.dim] for node in graph.input}
    if list(inputs) != [INPUT] or len(inputs[INPUT]) != 4 or inputs[INPUT][1:] != [*height_width(size), 3]:
        raise ValueError(f"the graph's input is {inputs}, its recipe has {INPUT} of image_size {size}")
    outputs = {node.name: node.type.tensor_type for node in graph.output}
    if tuple(outputs) != OUTPUTS or len(graph.output) != len(OUTPUTS):
        raise ValueError(f"its outputs are not {', '.join(OUTPUTS)}")
    float32, int64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    types = {INPUT: onnx.TensorProto.UINT8, "boxes": float32, "scores": float32, "labels": int64, "counts": int64}
    for item in (*graph.input, *graph.output):
        if item.type.tensor_type.elem_type != types[item.name]:
            raise ValueError(f"{item.name} has the element type {item.type.tensor_type.elem_type}")
    for name, rank in _RANKS.items():
        sides = [side.dim_value for side in outputs[name].shape.dim]
        if len(sides) != rank or max(sides) > _MAX_DETECTIONS or min(sides) < 0:
            raise ValueError(f"the output {name} has the shape {sides}: {rank} sides are needed")


def _check_tensors(model: Any) -> None:
    """Checks that all weights are inside the file, and of the size that it says."""
    import onnx

    for message in walk_messages(model):
        if isinstance(message, onnx.SparseTensorProto):
            raise ValueError("it has sparse tensors")
        if not isinstance(message, onnx.TensorProto):
            continue
        if message.data_location == onnx.TensorProto.EXTERNAL or message.external_data:
            raise ValueError(f"tensor {message.name!r} is stored in another file")
        if any(side < 0 for side in message.dims) or math.prod(message.dims) > 8 * MAX_BYTES:
            raise ValueError(f"tensor {message.name!r} has the shape {list(message.dims)}")
