"""YOLO format: a text file for each image, a line for each object: class number, then box centre and size as fractions.

The names of the classes are in data.yaml (`names`), classes.txt, obj.names or a similar file. The splits are those of
data.yaml, lists train.txt and val.txt, or folders (images/train or train/images); otherwise they are drawn. A line of
more numbers is the outline of a mask, whose box is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Unpack

from ssd.common.errors import DataError
from ssd.common.text import read_text
from ssd.data.formats.yolo_files import YoloFolder
from ssd.data.reading.annotations import AnnotatedImage, AnnotatedObject, build_splits
from ssd.data.reading.box_units import BoxUnits
from ssd.data.reading.folder import stem_of
from ssd.data.reading.options import CommonOptions, ReadOptions
from ssd.data.splits import Splits
from ssd.data.validation import Report

_BOX, _BOX_AND_SCORE, _MIN_OUTLINE = 5, 6, 7  # numbers in a line


def read_yolo(
    root: str, *, data_yaml: str | None = None, report: Report | None = None, **options: Unpack[CommonOptions]
) -> Splits:
    """Reads a folder in YOLO format.

    Args:
        root: the folder of the dataset.
        data_yaml: the file with `names`, `train`, `val` and `test`, below root; searched for if None.
        report: gets every problem.
        options: see ReadOptions.

    Raises:
        ConfigError: `data_yaml` does not exist, or there are several.
        DataError: an unusable folder or file; names file, line and fix.
    """
    if not Path(root).is_dir():
        raise DataError(f"dataset.root={root}: no such folder; give a folder of images and label files")
    report = report or Report()
    folder = YoloFolder(root, data_yaml)
    images: dict[str, list[AnnotatedImage]] = {}
    reader = _LabelReader(folder, report)
    for split, paths in folder.splits(report).items():
        images[split] = []
        for path in paths:
            with report.collect_errors():
                images[split].append(reader.read(path))
    reader.report_changes()
    return build_splits(
        folder.root,
        images,
        options=ReadOptions(**options),
        report=report,
        units=BoxUnits("fractions"),
        defined_classes=folder.class_names.values() or None,
    )


class _LabelReader:
    """Reads the label files of images."""

    def __init__(self, folder: YoloFolder, report: Report) -> None:
        self._folder, self._report = folder, report
        self._without_file = 0
        self._outlines = 0
        self._scores = 0

    def read(self, image: str) -> AnnotatedImage:
        """Wrong lines go to the report.

        Raises:
            DataError: a wrong line where the report does not collect, or an unreadable file.
        """
        name = self._folder.label_file(image)
        path = self._folder.root / (name or f"{stem_of(image)}.txt")
        found = AnnotatedImage(image, stem_of(image), f"{path}:")
        if name is None:
            self._without_file += 1
            return found
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            if line.strip():
                with self._report.collect_errors():
                    found.objects.append(self._object(line.replace(",", " ").split(), f"{path}:{number}", number))
        return found

    def report_changes(self) -> None:
        """Notes and warnings about all files together."""
        if self._without_file:
            self._report.note(f"{self._without_file} images have no label file, so they have no object")
        if self._outlines:
            self._report.note(f"{self._outlines} lines are outlines of masks; their boxes are used")
        if self._scores:
            rule = f"{self._scores} lines end in a score, as predictions do; it is ignored"
            self._report.add(str(self._folder.root), rule)

    def _object(self, cells: Sequence[str], location: str, number: int) -> AnnotatedObject:
        try:
            values = [float(cell) for cell in cells]
        except ValueError:
            raise DataError(
                f"{location}: {' '.join(cells)[:80]!r} is not a class and numbers; correct the line"
            ) from None
        if len(values) < _BOX or not all(map(math.isfinite, values)):
            what = f"{' '.join(cells)[:80]!r}"
            raise DataError(f"{location}: {what} is not class, x, y, width and height; correct the line")
        self._scores += len(values) == _BOX_AND_SCORE
        if len(values) >= _MIN_OUTLINE:
            if len(values) % 2 == 0:
                raise DataError(
                    f"{location}: an outline of {len(values) - 1} numbers; it must have x and y of each point"
                )
            self._outlines += 1
            box = _around(values[1::2], values[2::2])
        else:
            x, y, width, height = values[1:_BOX]
            box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        return AnnotatedObject(self._class_name(values[0], location), box, False, number)

    def _class_name(self, value: float, location: str) -> str:
        names = self._folder.class_names
        if not value.is_integer() or value < 0:
            raise DataError(f"{location}: class {value:g}; it must be a number from 0; correct the line")
        if not names:
            return f"class_{value:.0f}"
        if value not in names:
            raise DataError(
                f"{location}: class {value:.0f} has no name in {self._folder.names_file}; correct the line, or add it"
            )
        return names[int(value)]


def _around(xs: Iterable[float], ys: Iterable[float]) -> tuple[float, float, float, float]:
    xs, ys = list(xs), list(ys)
    return min(xs), min(ys), max(xs), max(ys)
