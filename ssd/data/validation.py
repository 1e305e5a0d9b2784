"""Checks an index and mends what can be mended: bad boxes are dropped or clipped, and counted by file.

An inverted box would make log() NaN and kill the weights; it never gets past here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from ssd.common.errors import DataError
from ssd.data.index import DetectionIndex

# For rows of an index's boxes, as the reader made it: the annotation file with line or entry, and what is written there
Places = Callable[[DetectionIndex, Sequence[int]], list[tuple[str, str]]]
MAX_SET_ASIDE = 0.001  # share of unreadable images that training puts up with
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the data: the file (and line), which rule, what was done; the value that breaks it."""

    file: str
    rule: str
    value: str = ""
    stops: bool = False  # training stops at it

    def __str__(self) -> str:
        return f"{self.file}: {self.rule}" + (f": {self.value}" if self.value else "")


@dataclass(slots=True)
class Report:
    """The problems of a dataset, in the order found.

    Reading stops at the first that cannot be mended; with `keep_going` it leaves the part out, and lists all.
    """

    problems: list[Problem] = field(default_factory=list)
    keep_going: bool = False

    def add(self, file: str, rule: str, *, value: str = "", stops: bool = False) -> None:
        self.problems.append(Problem(file, rule, value, stops))

    @contextmanager
    def collect_errors(self) -> Iterator[None]:
        """Around the reading of one part: an error is raised, or with `keep_going` taken down."""
        try:
            yield
        except DataError as error:
            if not self.keep_going:
                raise
            file, _, rule = str(error).partition(": ")
            self.add(file, rule, stops=True)

    def summary_lines(self) -> list[str]:
        """One line a rule: how often, and the first files."""
        counts = Counter(problem.rule for problem in self.problems)
        return [f"{count} x {rule}: {_first(self._files(rule))}" for rule, count in counts.most_common()]

    def _files(self, rule: str) -> list[str]:
        return list(dict.fromkeys(problem.file for problem in self.problems if problem.rule == rule))


def repair(index: DetectionIndex, report: Report, *, strict: bool, places: Places | None = None) -> DetectionIndex:
    """Drops boxes without area and duplicates, clips what reaches outside; what was done goes to `report`.

    A problem is named by the image, but by what `places` finds, which may take a while, where the report is kept
    going or the problem stops the run.

    Raises:
        DataError: with `strict`, at the first box that would have to be mended; a box that is not a number, always.
    """
    images = index.image_of_box()
    boxes = index.boxes
    found: list[tuple[int, str]] = []

    def note(mask: np.ndarray, rule: str) -> None:
        found.extend((row, rule) for row in np.flatnonzero(mask).tolist())

    not_numbers = ~np.isfinite(boxes).all(axis=1)
    for row in np.flatnonzero(not_numbers).tolist():
        with report.collect_errors():
            raise DataError(f"{index.paths[int(images[row])]}: box {boxes[row]}: not a number")
    empty = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    note(empty, "box without area (x2 <= x1 or y2 <= y1) dropped")

    clipped = boxes.clip(0, 1)
    gone = ~empty & ((clipped[:, 2] <= clipped[:, 0]) | (clipped[:, 3] <= clipped[:, 1]))
    note(gone, "box outside the image dropped")
    reaching = ~empty & ~gone & (boxes != clipped).any(axis=1)
    outside_px = np.abs(boxes - clipped)[reaching] * index.sizes[images[reaching]][:, [1, 0, 1, 0]]
    reaching[reaching] = outside_px.max(axis=1, initial=0) > 1.001
    note(reaching, "box reaching outside the image clipped")

    duplicate = _duplicates(images, clipped, index.labels) & ~empty & ~gone
    note(duplicate, "duplicate box dropped")
    stops = strict and not report.keep_going
    found = found[:1] if stops else found
    where = (places or _in_pixels) if strict or report.keep_going else _in_pixels
    for (_, rule), (file, value) in zip(found, where(index, [row for row, _ in found]), strict=True):
        if stops:
            raise DataError(f"{file}: {rule}: {value} (dataset.strict=true)")
        report.add(file, rule, value=value, stops=strict)
    keep = ~(not_numbers | empty | gone | duplicate)
    return replace(index, boxes=clipped).keep_boxes(keep)


def check_set_aside(broken: Iterable[tuple[str, str]], *, images: int, report: Report) -> None:
    """Puts up with a few unreadable images, which goes to `report`; stops at more.

    Raises:
        DataError: over MAX_SET_ASIDE of the images are unreadable; names the first ones.
    """
    broken = list(broken)
    too_many = len(broken) > MAX_SET_ASIDE * images
    for path, reason in broken:
        report.add(path, reason.partition(": ")[2], stops=too_many)
    if too_many and not report.keep_going:
        raise too_many_set_aside(len(broken), images, [reason for _, reason in broken])


def too_many_set_aside(count: int, images: int, reasons: list[str]) -> DataError:
    """The error for more unreadable images than training puts up with."""
    return DataError(
        f"{count} of {images} images cannot be used (at most {MAX_SET_ASIDE:.1%} may be set aside): "
        + "; ".join(reasons[:_NAMED])
        + (" ..." if len(reasons) > _NAMED else "")
    )


def describe_image(index: DetectionIndex, image: int) -> str:
    """Its name and size, to judge a box by."""
    height, width = index.sizes[image].tolist()
    return f"{index.paths[image]}, {width} x {height} px"


def _in_pixels(index: DetectionIndex, rows: Sequence[int]) -> list[tuple[str, str]]:
    """By the images, as the boxes are held."""
    places = []
    for row, image in zip(rows, index.images_of(rows), strict=True):
        value = ", ".join(f"{edge:.4g}" for edge in index.boxes[row] * index.sizes[image][[1, 0, 1, 0]])
        places.append((index.paths[image], f"({value}) px"))
    return places


def _duplicates(images: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """True for all but the first of equal rows; a sum with random factors finds the few that may be equal."""
    columns = (images, labels, *boxes.view(np.int32).T)
    sums = np.zeros(len(boxes), dtype=np.uint64)
    for column, factor in zip(columns, np.random.default_rng(0).integers(2**63, size=6, dtype=np.uint64), strict=True):
        sums += column.astype(np.uint64) * factor
    order = np.argsort(sums)
    same = np.diff(sums[order]) == 0
    candidates = np.union1d(order[1:][same], order[:-1][same])
    rows = np.column_stack([column[candidates] for column in columns])
    _, first = np.unique(rows, axis=0, return_index=True)
    duplicate = np.zeros(len(boxes), dtype=bool)
    duplicate[candidates] = True
    duplicate[candidates[first]] = False
    return duplicate


def _first(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
