"""An `.onnx` file as a checkpoint: its metadata, and safe reading of a file from an unknown source.

The graph maps `images`, uint8 [B, S, S, 3], to `boxes` [B, D, 4], `scores` [B, D], `labels` [B, D] and `counts` [B];
rows after an image's count are padding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd.common.errors import CheckpointError, ConfigError

INPUT = "images"
OUTPUTS = ("boxes", "scores", "labels", "counts")
MAX_BYTES = 2**31 - 1  # of a protobuf message; a larger model would need a second file

_USAGE = (
    "Input: images as uint8 RGB, upright, stretched to {size}x{size} pixels, [B, {size}, {size}, 3]. Outputs: boxes "
    "(x1, y1, x2, y2 as fractions of the image, x right, y down), scores (descending), labels (indices into "
    "class_names), counts (number of detections of each image; rows after it are padding)."
)
_STANDARD_DOMAINS = ("", "ai.onnx")
_OLD_NAMES = {"iou_threshold": "nms_threshold", "candidates": "topk_candidates"}  # in files exported by version 0.1


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """The bytes of a checked file and its metadata."""

    data: bytes
    class_names: tuple[str, ...]
    image_size: int
    postprocess: dict[str, float]


def write_metadata(model: Any, *, recipe: dict[str, Any], postprocess: dict[str, float]) -> None:
    """Sets the metadata of an onnx.ModelProto; `recipe` describes the network, see `SSD.recipe`."""
    import onnx

    entries = {
        "recipe": json.dumps(recipe),
        "class_names": json.dumps(recipe["class_names"]),
        "postprocess": json.dumps(postprocess),
        "usage": _USAGE.format(size=recipe["image_size"]),
    }
    onnx.helper.set_model_props(model, entries)


def read(path: str | Path) -> OnnxFile:
    """Reads and checks a file: standard operators only, all weights inside, metadata of this program.

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
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(f"{path}: larger than 2 GB, the limit for exported files; export it again")
    data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise CheckpointError(f"{path}: not an ONNX file, or damaged: {error}") from None
    for message in walk_messages(model):
        if isinstance(message, onnx.TensorProto) and message.data_location == onnx.TensorProto.EXTERNAL:
            raise CheckpointError(f"{path}: refused: tensor {message.name!r} is stored in another file")
        if isinstance(message, onnx.NodeProto) and message.domain not in _STANDARD_DOMAINS:
            raise CheckpointError(
                f"{path}: refused: {message.op_type!r} of {message.domain!r} is not a standard ONNX operator"
            )
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    class_names, image_size = _read_recipe(metadata, model.graph, path)
    return OnnxFile(data, class_names, image_size, _read_postprocess(metadata))


def walk_messages(message: Any) -> Iterator[Any]:
    """Yields a protobuf message and all messages nested in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from walk_messages(part)


def _read_postprocess(metadata: dict[str, str]) -> dict[str, float]:
    """Thresholds and limits in the graph; empty if the metadata lacks them."""
    try:
        settings = json.loads(metadata["postprocess"])
        return {_OLD_NAMES.get(name, name): float(value) for name, value in settings.items()}
    except (KeyError, AttributeError, TypeError, ValueError, RecursionError):
        return {}


def _read_recipe(metadata: dict[str, str], graph: Any, path: Path) -> tuple[tuple[str, ...], int]:
    """(class names, image size), checked against the graph's inputs and outputs."""
    try:
        recipe = json.loads(metadata["recipe"])
        names, size = recipe["class_names"], recipe["image_size"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise CheckpointError(f"{path}: has no recipe, so it was not exported by this program") from None
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise CheckpointError(f"{path}: class_names in the recipe is not a list of names; export it again")
    inputs = {node.name: [side.dim_value for side in node.type.tensor_type.shape.dim] for node in graph.input}
    if list(inputs) != [INPUT] or inputs[INPUT][1:] != [size, size, 3]:
        raise CheckpointError(
            f"{path}: the graph's input is {inputs}, its recipe has {INPUT} of {size}x{size}x3; export it again"
        )
    if tuple(node.name for node in graph.output) != OUTPUTS:
        raise CheckpointError(f"{path}: its outputs are not {', '.join(OUTPUTS)}; export it again")
    return tuple(names), size
