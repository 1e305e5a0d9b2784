"""Names the program that wrote a JSON file which is not in COCO format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssd.common.errors import DataError
from ssd.common.untrusted_files import open_untrusted
from ssd.common.untrusted_text import parse_json

_MAX_BYTES = 1 << 20  # larger files are judged by their beginning and end
_COCO_KEYS = ("images", "annotations", "categories")


def is_coco(path: Path) -> bool:
    """Whether a JSON file holds images, annotations and categories; only the ends of a large file are read."""
    with open_untrusted(path) as file:
        start = file.read(_MAX_BYTES)
        if file.read(1):
            file.seek(-_MAX_BYTES // 4, 2)
            text = start + file.read()
            return text.lstrip()[:1] == b"{" and sum(f'"{key}"'.encode() in text for key in _COCO_KEYS) >= 2
    content = _parsed(start)
    if content is None:  # damaged: named when it is read
        return sum(f'"{key}"'.encode() in start for key in _COCO_KEYS) >= 2
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in _COCO_KEYS)


def foreign_format(path: Path) -> str | None:
    """The program or format whose annotations a JSON file holds; None for anything else."""
    with open_untrusted(path) as file:
        content = _parsed(file.read(_MAX_BYTES))
    first = content[0] if isinstance(content, list) and content else content
    keys = set(first) if isinstance(first, dict) else set()
    if "shapes" in keys and keys & {"imagePath", "imageData", "flags"}:
        return "LabelMe"
    if isinstance(content, list) and {"image", "annotations"} <= keys:
        return "CreateML"
    if "_via_img_metadata" in keys or _has_regions(first):
        return "VIA"
    if isinstance(content, list) and "data" in keys and keys & {"annotations", "completions", "predictions"}:
        return "Label Studio"
    if {"asset", "regions"} <= keys or {"assets", "tags"} <= keys:
        return "VoTT"
    if "objects" in keys and "size" in keys:
        return "Supervisely"
    if isinstance(content, list) and {"image_id", "category_id", "bbox"} <= keys:
        return "COCO results (detections)"
    if keys & {"images", "annotations"} and not keys >= set(_COCO_KEYS):
        return "COCO without boxes or categories"
    return None


def refuse(files: Sequence[Path], *, root: Path) -> None:
    """Explains how to bring the annotations of another format, if some of the JSON files hold such.

    Raises:
        DataError: they do.
    """
    for path in files[:20]:
        if (name := foreign_format(path)) is not None:
            more = f" (and {len(files) - 1} more JSON files)" if len(files) > 1 else ""
            raise DataError(
                f"{path}{more}: {name} JSON, which is not read; export the annotations as COCO, YOLO or PASCAL VOC "
                f"with the labelling program, or convert them, and give that folder instead of dataset.root={root}"
            )


def _has_regions(content: object) -> bool:
    values = list(content.values())[:5] if isinstance(content, dict) else []
    return bool(values) and all(isinstance(item, dict) and {"filename", "regions"} <= item.keys() for item in values)


def _parsed(data: bytes) -> object:
    try:
        return parse_json(data, name="")
    except DataError:
        return None
