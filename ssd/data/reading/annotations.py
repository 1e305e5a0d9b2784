"""Builds the splits of a dataset from the annotations that a reader has parsed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from ssd.common.errors import DataError
from ssd.common.image_header import read_orientation, read_size
from ssd.common.images import read_below
from ssd.data.index import ImageRecord, build_index
from ssd.data.reading.box_units import BoxUnits, check_units
from ssd.data.reading.classes import class_list, class_renamer
from ssd.data.reading.division import divide
from ssd.data.reading.options import ReadOptions
from ssd.data.reading.written_sizes import Frame, to_fractions
from ssd.data.splits import Splits
from ssd.data.validation import Report, check_unreadable, report_extra_frames, validate


class AnnotatedObject(NamedTuple):
    """One object of an annotation file; `line` is its line or its position in the file."""

    class_name: str
    box: tuple[float, float, float, float]  # xyxy, in the units of the format
    ignore: bool
    line: int


@dataclass(slots=True)
class AnnotatedImage:
    """One image of an annotation file.

    Attributes:
        path: of the image, below the root.
        id: unique in the dataset.
        source: the annotation file, and what precedes a line or position in messages: `root/a.xml:`.
        written_size: (H, W) as in the file, which `size_location` names.
    """

    path: str
    id: str
    source: str
    written_size: tuple[object, object] | None = None
    size_location: str = ""
    objects: list[AnnotatedObject] = field(default_factory=list)


def build_splits(
    root: Path,
    images: Mapping[str, Sequence[AnnotatedImage]],
    *,
    options: ReadOptions,
    report: Report,
    units: BoxUnits = BoxUnits(),  # noqa: B008  it is frozen
    defined_classes: Iterable[str] | None = None,
    hold_out_val: bool = True,
) -> Splits:
    """Renames and selects classes, divides the images, reads their sizes, and validates the boxes.

    Args:
        root: folder that the paths of the images are relative to.
        images: of train, val and test, or under UNDIVIDED; with their objects of all classes.
        options: the settings of the reader.
        report: gets every problem and change.
        units: of the boxes in the files.
        defined_classes: the classes that the files define; those of the objects if None.
        hold_out_val: draw validation images if there is no val split.

    Raises:
        ConfigError: a class listed twice.
        DataError: no class, too many unreadable images, or a box that `validate` refuses.
    """
    by_id = {image.id: image for members in images.values() for image in members}
    found = (item.class_name for image in by_id.values() for item in image.objects)
    names = class_renamer(options.class_map, found if defined_classes is None else defined_classes, report=report)
    class_names = class_list(options.classes, names.values(), where=str(root), report=report)
    labels = {name: class_names.index(renamed) for name, renamed in names.items() if renamed in class_names}
    _report_skipped(by_id.values(), labels, report)
    units = _check_units(by_id.values(), units, report)
    reading = _Reading(root, labels, units, report, options.strict)
    ids = {split: [image.id for image in members] for split, members in images.items()}
    indexes = {}
    for split, members in divide(ids, options=options, report=report, hold_out_val=hold_out_val).items():
        if members:
            records = reading.records([by_id[id] for id in members], split)
            index = build_index(records, class_names=class_names, load=partial(read_below, str(root)))
            indexes[split] = validate(index, report, strict=options.strict)
    return Splits(**indexes, report=report)


def _check_units(images: Iterable[AnnotatedImage], units: BoxUnits, report: Report) -> BoxUnits:
    objects = [(image, item) for image in images for item in image.objects]
    boxes = np.array([item.box for _, item in objects], dtype=np.float64).reshape(-1, 4)

    def locate(row: int) -> str:
        image, item = objects[row]
        return f"{image.source}{item.line}"

    return check_units(boxes, units, report, locate=locate)


def _report_skipped(images: Iterable[AnnotatedImage], labels: Mapping[str, int], report: Report) -> None:
    """Counts the objects of other classes, each class at its first object."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for image in images:
        for item in (item for item in image.objects if item.class_name not in labels):
            counts[item.class_name] += 1
            first.setdefault(item.class_name, f"{image.source}{item.line}")
    for name, count in counts.items():
        rule = f"{count} objects of class {name!r} skipped: not in dataset.classes"
        report.add(first[name], rule, skipped_classes=name)


@dataclass(frozen=True, slots=True)
class _Reading:
    """Reads image sizes, and makes fractions of the boxes of `labels`."""

    root: Path
    labels: Mapping[str, int]
    units: BoxUnits
    report: Report
    strict: bool

    def records(self, images: Sequence[AnnotatedImage], split: str) -> list[ImageRecord]:
        """The readable images of a split."""
        records, unreadable = [], []
        for image in images:
            try:
                records.append(self._record(image))
            except DataError as error:
                unreadable.append((image.path, str(error)))
        check_unreadable(unreadable, images=len(images), report=self.report, split=split, strict=self.strict)
        report_extra_frames(self.root, [record.path for record in records], report=self.report, split=split)
        return records

    def _record(self, image: AnnotatedImage) -> ImageRecord:
        size = read_size(self.root / image.path)
        objects = [item for item in image.objects if item.class_name in self.labels]
        boxes = np.array([item.box for item in objects], dtype=np.float64).reshape(-1, 4)
        if self.units.kind == "pixels":
            boxes = self._fractions(image, boxes - self.units.first_pixel, size)
        return ImageRecord(
            path=image.path,
            id=image.id,
            size=size,
            boxes=boxes.tolist(),
            labels=[self.labels[item.class_name] for item in objects],
            ignore=[item.ignore for item in objects],
            source_lines=[item.line for item in objects],
            source=image.source,
        )

    def _fractions(
        self, image: AnnotatedImage, boxes: Float64[np.ndarray, "M 4"], size: tuple[int, int]
    ) -> Float64[np.ndarray, "M 4"]:
        written = _whole_size(image.written_size)
        orientation = partial(read_orientation, self.root / image.path)
        fractions, frame = to_fractions(boxes, written=written, size=size, orientation=orientation)
        if frame != Frame.IMAGE and written is not None:
            value = f"{written[1]} x {written[0]}; {image.path}, {size[1]} x {size[0]} px"
            self.report.add(image.size_location, frame.value, value=value, fatal=frame == Frame.NEITHER)
        return fractions


def _whole_size(written: tuple[object, object] | None) -> tuple[int, int] | None:
    """(H, W) as integers; None for zeros, negative numbers and anything else."""
    try:
        height, width = (int(float(side)) for side in written or ())  # type: ignore[arg-type]  # TypeError is caught
    except (TypeError, ValueError, OverflowError):
        return None
    return (height, width) if min(height, width) > 0 else None
