"""The splits of a dataset: what a reader returns, and what is printed about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Shaped

from ssd.data.index import DetectionIndex
from ssd.data.sampler import boxes_per_epoch, repeat_factors
from ssd.data.validation import Problem, Report

_MAX_NAMED = 10  # skipped images in one line
_MAX_CLASSES = 12  # in one line
_FEW_OBJECTS = 10
_MANY_NEGATIVES = 0.5  # share of images without an object that is worth a warning


@dataclass(frozen=True, slots=True)
class Splits:
    """The indexes of a dataset with one common class list; a missing split is None.

    Raises:
        DataError: an image is in two splits.
    """

    train: DetectionIndex | None = None
    val: DetectionIndex | None = None
    test: DetectionIndex | None = None
    report: Report = field(default_factory=Report)

    def __post_init__(self) -> None:
        owner: dict[str, str] = {}
        by_size = sorted(self.items(), key=lambda item: len(item[1]))  # the largest may have millions: it is not stored
        for (name, index), (other, larger) in pairwise(by_size):
            owner |= dict.fromkeys(index.ids, name)
            shared = sorted({image_id for image_id in larger.ids if image_id in owner})
            for smaller in dict.fromkeys(owner[image_id] for image_id in shared):
                self._add_overlap(smaller, other, [image_id for image_id in shared if owner[image_id] == smaller])

    def _add_overlap(self, smaller: str, larger: str, shared: Sequence[str]) -> None:
        """Capture tools write one list for all splits; a few images in two splits are a mistake in the lists."""
        first, second = (name for name, _ in self.items() if name in (smaller, larger))
        if len(shared) == len(getattr(self, smaller)):
            rule = f"all {len(shared)} images are in the {larger} split, too: results on {second} are no test"
            problem = Problem(f"{smaller} split", rule)
            if problem not in self.report.problems:  # read from the cache
                self.report.problems.append(problem)
            return
        for image_id in shared:
            rule = f"is in the {first} and in the {second} split, so scores would be too high; remove it from one"
            self.report.add(
                image_id, f"{rule}, or choose lists (dataset.{second}_splits=[] is no {second} split)", fatal=True
            )

    def items(self) -> list[tuple[str, DetectionIndex]]:
        """(name, index) of the splits that exist."""
        pairs = (("train", self.train), ("val", self.val), ("test", self.test))
        return [(name, index) for name, index in pairs if index is not None]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The C class names, in the order of the labels; none if there is no split."""
        return next((index.class_names for _, index in self.items()), ())

    @property
    def validates(self) -> bool:
        """Whether the val split has an object that counts; without one there is no metric to select weights by."""
        return self.val is not None and not self.val.ignore.all()

    def check_trainable(self) -> None:
        """Adds to the report what the objects of the splits are too few for.

        Raises:
            DataError: no image to train on, or no object in the training images; it is added where the report collects.
        """
        train = self.train
        if train is None:
            self.report.add("train split", "no image to train on", fatal=True)
        elif train.ignore.all():
            ignored = (
                f"; all {len(train.ignore)} are ignored (difficult, crowd or group-of)" if len(train.ignore) else ""
            )
            rule = f"no object of {_named(self.class_names)} in the {len(train)} training images{ignored}"
            self.report.add("train split", f"{rule}; see dataset.classes", fatal=True)


def describe_data(splits: Splits, *, balance: float | None = None) -> list[str]:
    """Lines for the log: images and boxes of each split, the effect of `balance`, problems, classes without objects."""
    lines = [f"data: {note}" for note in splits.report.notes]
    for name, index in splits.items():
        lines.append(f"{name}: {len(index)} images, {len(index.boxes)} boxes ({_counts(index, index.class_counts())})")
    if splits.train is not None and balance is not None:
        per_epoch = boxes_per_epoch(splits.train, repeat_factors(splits.train, balance))
        counts = _counts(splits.train, per_epoch)
        lines.append(f"dataset.balance={balance:g}: boxes in an epoch of training, on average: {counts}")
    lines += [f"data: {line}" for line in splits.report.summary_lines()]
    if splits.val is not None and not splits.validates:
        lines.append(
            "warning: the val split has no object that counts, so there is no validation: the last weights are used"
        )
    for name, index in splits.items():
        empty = int((np.diff(index.box_offsets) == 0).sum())
        if empty > _MANY_NEGATIVES * len(index):
            lines.append(f"warning: {empty} of {len(index)} images of the {name} split have no object")
        absent = [label for label, count in zip(index.class_names, index.class_counts(), strict=True) if not count]
        if absent:
            lines.append(f"warning: the {name} split has no object of {_named(absent)}")
    return lines + (_few_objects(splits.train) if splits.train is not None else [])


def _few_objects(train: DetectionIndex) -> list[str]:
    """Warnings about classes, or a training split, that are too small to learn from."""
    counts = zip(train.class_names, train.class_counts().tolist(), strict=True)
    few = [f"{name} {count}" for name, count in counts if 0 < count < _FEW_OBJECTS]
    lines = [f"warning: too few training boxes to learn from (under {_FEW_OBJECTS}): {_named(few)}"] if few else []
    if len(train) < _FEW_OBJECTS:
        lines.append(f"warning: {len(train)} training images: too few to learn from; label more")
    return lines


def describe_skipped(splits: Splits, decoded: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines about the images that were skipped when the dataset was read, and when they were `decoded`, by split."""
    skipped: dict[str, list[str]] = {name: [] for name, _ in splits.items()}
    for problem in splits.report.problems:
        if problem.skipped_from in skipped:
            skipped[problem.skipped_from].append(problem.file)
    lines = []
    for name, paths in skipped.items():
        paths += decoded.get(name, ())
        if paths:
            effect = "" if name == "train" else f"; their objects do not count in the {name} results"
            more = f" and {len(paths) - _MAX_NAMED} more" if len(paths) > _MAX_NAMED else ""
            lines.append(f"skipped images of {name}: {len(paths)}: {', '.join(paths[:_MAX_NAMED])}{more}{effect}")
    return lines


def _counts(index: DetectionIndex, counts: Shaped[np.ndarray, "C"]) -> str:
    """Boxes of each class; of many classes, of the most frequent ones."""
    pairs = list(zip(index.class_names, counts.tolist(), strict=True))
    if len(pairs) <= _MAX_CLASSES:
        return ", ".join(f"{name} {count:.0f}" for name, count in pairs)
    most = sorted(pairs, key=lambda pair: -pair[1])[: _MAX_CLASSES // 2]
    return f"{len(pairs)} classes: {', '.join(f'{name} {count:.0f}' for name, count in most)} ..."


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_CLASSES} more classes" if len(names) > _MAX_CLASSES else ""
    return f"{', '.join(names[:_MAX_CLASSES])}{more}"
