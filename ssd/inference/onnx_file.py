"""An `.onnx` file as a checkpoint: what it says of itself, and how one from a stranger is read.

The graph takes `images`, uint8 [B, S, S, 3], and gives `boxes` [B, D, 4], `scores` [B, D], `labels` [B, D] and `counts`
[B]; the rows of an image after its count are padding. Metadata tell the rest.
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
MAX_BYTES = 2**31 - 1  # of a protobuf message; more would need a second file

_USAGE = (
    "Input: images as uint8 RGB, upright, stretched to {size}x{size} pixels, [B, {size}, {size}, 3]. Outputs: boxes "
    "(x1, y1, x2, y2 as fractions of the image, x right, y down), scores (falling), labels (positions in "
    "class_names), counts (detections of each image; what follows them is padding)."
)
_OWN_DOMAINS = ("", "ai.onnx")
_OLD_NAMES = {"iou_threshold": "nms_threshold", "candidates": "topk_candidates"}  # in files exported by version 0.1


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """The bytes of a checked file and what its metadata say."""

    data: bytes
    class_names: tuple[str, ...]
    image_size: int
    postprocess: dict[str, float]


def describe(model: Any, *, recipe: dict[str, Any], postprocess: dict[str, float]) -> None:
    """Writes the metadata into an onnx.ModelProto; `recipe` is that of the network, see `SSD.recipe`."""
    import onnx

    entries = {
        "recipe": json.dumps(recipe),
        "class_names": json.dumps(recipe["class_names"]),
        "postprocess": json.dumps(postprocess),
        "usage": _USAGE.format(size=recipe["image_size"]),
    }
    onnx.helper.set_model_props(model, entries)


def read(path: str | Path) -> OnnxFile:
    """The file, checked: one graph of standard operators that carries its weights itself, with metadata of ours.

    Raises:
        CheckpointError: missing, damaged, too large, not exported by this program, or pointing to other files.
        ConfigError: the package onnx is missing.
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
        raise CheckpointError(f"{path}: over 2 GB, which no file of this program is")
    data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise CheckpointError(f"{path}: not an ONNX file, or damaged: {error}") from None
    for message in messages(model):
        if isinstance(message, onnx.TensorProto) and message.data_location == onnx.TensorProto.EXTERNAL:
            raise CheckpointError(f"{path}: refused: tensor {message.name!r} lies in another file")
        if isinstance(message, onnx.NodeProto) and message.domain not in _OWN_DOMAINS:
            raise CheckpointError(f"{path}: refused: {message.op_type!r} of {message.domain!r} is no ONNX operator")
    class_names, image_size = _said_of_itself(model, path)
    return OnnxFile(data, class_names, image_size, _postprocess(model))


def messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all those within it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from messages(part)


def _postprocess(model: Any) -> dict[str, float]:
    """The thresholds and limits inside; none where the file does not say."""
    try:
        said = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "postprocess"))
        return {_OLD_NAMES.get(name, str(name)): float(value) for name, value in said.items()}
    except (StopIteration, AttributeError, TypeError, ValueError, RecursionError):
        return {}


def _said_of_itself(model: Any, path: Path) -> tuple[tuple[str, ...], int]:
    """(class names, image size) from the recipe."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    try:
        recipe = json.loads(metadata["recipe"])
        names, size = recipe["class_names"], recipe["image_size"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise CheckpointError(f"{path}: has no recipe, so it was not exported by this program") from None
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise CheckpointError(f"{path}: class_names of the recipe are no list of names")
    inputs = {node.name: [side.dim_value for side in node.type.tensor_type.shape.dim] for node in model.graph.input}
    if list(inputs) != [INPUT] or inputs[INPUT][1:] != [size, size, 3]:
        raise CheckpointError(f"{path}: takes {inputs}, its recipe says {INPUT} of {size}x{size}x3; export it again")
    if tuple(node.name for node in model.graph.output) != OUTPUTS:
        raise CheckpointError(f"{path}: its outputs are not {', '.join(OUTPUTS)}; export it again")
    return tuple(names), size
