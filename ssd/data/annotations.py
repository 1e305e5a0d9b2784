"""Builds a validated index from the annotations that a reader has parsed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ssd.common.errors import DataError
from ssd.common.images import IMAGE_SUFFIXES, read_below, read_size
from ssd.data.index import DetectionIndex, ImageRecord, build_index
from ssd.data.validation import Report, check_unreadable, validate


class AnnotatedObject(NamedTuple):
    """One object of an annotation file; `line` is its line or its position in the file."""

    class_name: str
    box_px: tuple[float, float, float, float]  # xyxy; 0 is the left or upper edge of the image
    ignore: bool
    line: int


@dataclass(slots=True)
class AnnotatedImage:
    """One image of an annotation file. `source` is the file and line that `written_size`, (H, W), comes from."""

    path: str  # below the root
    id: str
    source: str
    written_size: tuple[object, object] | None
    objects: list[AnnotatedObject] = field(default_factory=list)


def images_by_stem(folder: Path) -> dict[str, str]:
    """The names of the images in a folder, by name without suffix; empty if there is no such folder."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208  Paths take seconds for each million
    return {name.rpartition(".")[0]: name for name in names if name.lower().endswith(IMAGE_SUFFIXES)}


def index_annotations(
    root: Path,
    images: Sequence[AnnotatedImage],
    *,
    class_names: Sequence[str],
    locate: Callable[[str, int], str],
    report: Report,
    strict: bool,
) -> DetectionIndex:
    """Reads the size of every image and builds a validated index of the objects of `class_names`.

    Args:
        root: folder that the paths of the images are relative to.
        images: with their objects of all classes.
        class_names: the classes to keep, in the order of the labels.
        locate: annotation file and line, from the id of an image and the line of an object.
        strict: the first box that would be changed is an error.

    Raises:
        DataError: too many unreadable images, or a box that `validate` refuses.
    """
    labels = {name: label for label, name in enumerate(class_names)}
    records, unreadable = [], []
    for image in images:
        try:
            records.append(_record(root, image, labels, report))
        except DataError as error:
            unreadable.append((image.path, str(error)))
    check_unreadable(unreadable, images=len(images), report=report)
    index = build_index(records, class_names=class_names, load=partial(read_below, str(root)))
    return validate(index, report, strict=strict, locate=locate)


def _record(root: Path, image: AnnotatedImage, labels: dict[str, int], report: Report) -> ImageRecord:
    height, width = size = read_size(root / image.path)
    if image.written_size is not None and image.written_size != size:
        written = " x ".join(str(side)[:20] for side in reversed(image.written_size))
        rule = "size in the annotation differs from the image's, which is used"
        report.add(image.source, rule, value=f"{written}; {image.path}, {width} x {height} px")
    objects = [item for item in image.objects if item.class_name in labels]
    return ImageRecord(
        path=image.path,
        id=image.id,
        size=size,
        boxes=[(x1 / width, y1 / height, x2 / width, y2 / height) for _, (x1, y1, x2, y2), _, _ in objects],
        labels=[labels[item.class_name] for item in objects],
        ignore=[item.ignore for item in objects],
        source_lines=[item.line for item in objects],
    )
