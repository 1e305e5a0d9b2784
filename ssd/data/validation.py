"""Validates the boxes of an index: drops or clips bad ones and reports each with its file and line.

An inverted box would make log() NaN and destroy the weights, so no such box may get past this module.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from ssd.common.animations import extra_frames
from ssd.common.errors import DataError
from ssd.common.image_formats import JPEG_SUFFIXES
from ssd.data.index import DetectionIndex

_SKIPPED_IMAGES, _SKIPPED_SHARE, _MAX_SKIPPED_SHARE = 10, 0.01, 0.2  # unreadable images that training skips
_MAX_NAMED = 5  # files in one message
_MAX_RULES = 30  # in a summary
_TOLERANCE_PX = 1.001  # up to one pixel outside the image is clipped without a report


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem in the data: file (and line), the violated rule and what was done, the offending value."""

    file: str
    rule: str
    value: str = ""
    fatal: bool = False  # training stops
    skipped_classes: str = ""  # of objects that are skipped because their class was not chosen
    skipped_from: str = ""  # the split of an unreadable image

    def __str__(self) -> str:
        return f"{self.file}: {self.rule}" + (f": {self.value}" if self.value else "")


@dataclass(slots=True)
class Report:
    """The problems of a dataset, in the order in which they were found.

    Reading stops at the first fatal one; with `collect_all` it skips the affected part and lists all of them. Notes are
    no problems, but worth a line at the start of a training.
    """

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    collect_all: bool = False

    def note(self, line: str) -> None:
        """Adds a line about how the dataset was read, such as the list that gave a split."""
        self.notes.append(line)

    def add(
        self,
        file: str,
        rule: str,
        *,
        value: str = "",
        fatal: bool = False,
        skipped_classes: str = "",
        skipped_from: str = "",
    ) -> None:
        """Adds a problem; for the arguments see Problem.

        Raises:
            DataError: it is fatal, and the report does not collect all.
        """
        problem = Problem(file, rule, value, fatal, skipped_classes, skipped_from)
        if fatal and not self.collect_all:
            raise DataError(str(problem))
        self.problems.append(problem)

    @contextmanager
    def collect_errors(self) -> Iterator[None]:
        """Context for reading one part: raises its DataError or, with `collect_all`, adds it to the problems."""
        try:
            yield
        except DataError as error:
            if not self.collect_all:
                raise
            file, _, rule = str(error).partition(": ")
            self.add(file, rule, fatal=True)

    def summary_lines(self) -> list[str]:
        """One line for each of the commonest rules: number of problems and the first files."""
        files: dict[str, dict[str, None]] = defaultdict(dict)
        for problem in self.problems:
            files[problem.rule][problem.file] = None
        counts = Counter(problem.rule for problem in self.problems).most_common()
        lines = []
        for rule, count in counts[:_MAX_RULES]:
            more = f" and {len(files[rule]) - _MAX_NAMED} more" if len(files[rule]) > _MAX_NAMED else ""
            lines.append(f"{count} x {rule}: {', '.join(islice(files[rule], _MAX_NAMED))}{more}")
        rest = sum(count for _, count in counts[_MAX_RULES:])
        return [*lines, *([f"{rest} other problems, which ssd inspect lists"] if rest else [])]


def validate(index: DetectionIndex, report: Report, *, strict: bool) -> DetectionIndex:
    """Drops boxes without area and duplicates, clips boxes to the image, and reports every change.

    With `strict` the first box that would be changed is an error.

    Raises:
        DataError: with `strict`, at the first box that would be changed; always for a coordinate that is not finite.
    """
    images = index.image_of_box()
    boxes, clipped = index.boxes, index.boxes.clip(0, 1)
    not_finite = ~np.isfinite(boxes).all(axis=1)
    empty = ~not_finite & _without_area(boxes)
    outside = ~not_finite & ~empty & _without_area(clipped)
    bad = not_finite | empty | outside
    duplicate = ~bad & _duplicates(images, clipped, index.labels)
    rules = {
        "box coordinate not finite; correct or remove the box": not_finite,
        "box without area (x2 <= x1 or y2 <= y1) dropped": empty,
        "box outside the image dropped": outside,
        "box reaching outside the image clipped": ~bad & _reaches_outside(index, images, clipped),
        "duplicate box dropped": duplicate,
    }
    for rule, rows in rules.items():
        hint = " (dataset.strict=true)" if strict and rows is not not_finite else ""
        for row in np.flatnonzero(rows).tolist():
            image, fatal = int(images[row]), strict or rows is not_finite
            report.add(index.location(image, row), rule, value=_describe(index, image, row) + hint, fatal=fatal)
    return replace(index, boxes=clipped).keep_boxes(~(bad | duplicate))


def _without_area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])


def _reaches_outside(index: DetectionIndex, images: np.ndarray, clipped: np.ndarray) -> np.ndarray:
    """True for boxes that clipping shortens by more than a pixel."""
    reaches = (index.boxes != clipped).any(axis=1)
    outside_px = np.abs(index.boxes - clipped)[reaches] * index.sizes[images[reaches]][:, [1, 0, 1, 0]]
    reaches[reaches] = outside_px.max(axis=1, initial=0) > _TOLERANCE_PX
    return reaches


def _duplicates(images: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """True for all but the first of equal rows; a hash of 64 bits sorts five times as fast as the six columns."""
    columns = (images, labels, *boxes.view(np.int32).T)
    factors = np.random.default_rng(0).integers(2**63, size=len(columns), dtype=np.uint64)
    hashes = sum(column.astype(np.uint64) * factor for column, factor in zip(columns, factors, strict=True))
    order = np.argsort(hashes, kind="stable")
    same = np.logical_and.reduce([np.diff(column[order]) == 0 for column in columns])
    duplicate = np.zeros(len(boxes), dtype=bool)
    duplicate[order[1:][same]] = True
    return duplicate


def _describe(index: DetectionIndex, image: int, row: int) -> str:
    """The box in pixels, and the image with its size to compare it with."""
    height, width = index.sizes[image].tolist()
    box_px = ", ".join(f"{edge:.6g}" for edge in index.boxes[row] * (width, height, width, height))
    return f"({box_px}) px; {index.paths[image]}, {width} x {height} px"


def max_unreadable(images: int, *, strict: bool) -> int:
    """How many of the images of a split may be unreadable: training skips them."""
    limit = max(_SKIPPED_IMAGES, int(_SKIPPED_SHARE * images))
    return 0 if strict else min(limit, int(_MAX_SKIPPED_SHARE * images))


def check_unreadable(
    unreadable: Sequence[tuple[str, str]], *, images: int, report: Report, split: str = "", strict: bool = False
) -> None:
    """Adds the unreadable images (path, error message) of a split to `report`; fails if they are too many to skip.

    Raises:
        DataError: more than `max_unreadable` of the images are unreadable; names the first ones.
    """
    too_many = len(unreadable) > max_unreadable(images, strict=strict)
    if too_many and not report.collect_all:
        raise too_many_unreadable([message for _, message in unreadable], images=images, strict=strict)
    for path, message in unreadable:
        report.add(path, f"{message.partition(': ')[2]}; skipped", fatal=too_many, skipped_from=split)


def report_extra_frames(root: Path, paths: Iterable[str], *, report: Report, split: str) -> None:
    """Counts what is left out of the animations and multi-page files of a split; a JPEG has a single image."""
    counts = {path: extra_frames(root / path) for path in paths if not path.lower().endswith(JPEG_SUFFIXES)}
    several = [path for path, count in counts.items() if count]
    if several:
        total = f"{sum(counts.values())} frames or pages of {len(several)} images in {split} left out"
        report.add(several[0], f"{total}: only the first of each is used", value=", ".join(several[:_MAX_NAMED]))


def too_many_unreadable(messages: Sequence[str], *, images: int, strict: bool) -> DataError:
    """The error for more unreadable images than training skips."""
    limit = "dataset.strict=true" if strict else f"training skips at most {max_unreadable(images, strict=False)}"
    return DataError(
        f"{len(messages)} of {images} images cannot be read ({limit}): "
        + "; ".join(messages[:_MAX_NAMED])
        + (" ..." if len(messages) > _MAX_NAMED else "")
    )
