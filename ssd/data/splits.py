"""The splits of a dataset: what a reader returns, how it divides images that have no splits, and their class list."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Shaped

from ssd.common.errors import ConfigError, DataError
from ssd.data.index import DetectionIndex
from ssd.data.sampler import boxes_per_epoch, repeat_factors
from ssd.data.validation import Report

VALIDATION_SHARE = TEST_SHARE = 0.1


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
            for image_id in sorted({image_id for image_id in larger.ids if image_id in owner}):
                first, second = (split for split, _ in self.items() if split in (owner[image_id], other))
                rule = f"is in the {first} and in the {second} split, so scores would be too high; remove it from one"
                self.report.add(image_id, rule, fatal=True)

    def items(self) -> list[tuple[str, DetectionIndex]]:
        """(name, index) of the splits that exist."""
        pairs = (("train", self.train), ("val", self.val), ("test", self.test))
        return [(name, index) for name, index in pairs if index is not None]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The C class names, in the order of the labels."""
        return self.items()[0][1].class_names

    def check_trainable(self) -> None:
        """Raises DataError if the training images have no object to learn from."""
        if self.train is not None and self.train.ignore.all():
            classes = ", ".join(self.class_names)
            raise DataError(f"no object of {classes} in the {len(self.train)} training images; see dataset.classes")


def describe_data(splits: Splits, *, balance: float | None = None) -> list[str]:
    """Lines for the log: images and boxes of each split, the effect of `balance`, problems, classes without objects."""
    lines = []
    for name, index in splits.items():
        lines.append(f"{name}: {len(index)} images, {len(index.boxes)} boxes ({_counts(index, index.class_counts())})")
    if splits.train is not None and balance is not None:
        per_epoch = boxes_per_epoch(splits.train, repeat_factors(splits.train, balance))
        counts = _counts(splits.train, per_epoch)
        lines.append(f"dataset.balance={balance:g}: boxes in an epoch of training, on average: {counts}")
    lines += [f"data: {line}" for line in splits.report.summary_lines()]
    for name, index in splits.items():
        absent = [label for label, count in zip(index.class_names, index.class_counts(), strict=True) if not count]
        if absent:
            lines.append(f"warning: the {name} split has no object of {', '.join(absent)}")
    return lines


def _counts(index: DetectionIndex, counts: Shaped[np.ndarray, "C"]) -> str:
    return ", ".join(f"{name} {count:.0f}" for name, count in zip(index.class_names, counts, strict=True))


def seeded_split(names: Sequence[str], *, seed: int) -> dict[str, list[str]]:
    """80 % train, 10 % val, 10 % test; at least one name each if there are three or more."""
    train, test = hold_out(names, share=TEST_SHARE, seed=seed)
    train, val = hold_out(train, share=VALIDATION_SHARE * len(names) / max(1, len(train)), seed=seed + 1)
    return {"train": train, "val": val, "test": test}


def hold_out(names: Sequence[str], *, share: float, seed: int) -> tuple[list[str], list[str]]:
    """Draws a seeded `share` (0..1) of `names`: (the rest, the drawn ones), both sorted."""
    ordered = sorted(names)
    count = min(max(1, round(share * len(ordered))), max(0, len(ordered) - 1))
    order = np.random.default_rng(seed).permutation(len(ordered))
    rest, drawn = np.sort(order[count:]), np.sort(order[:count])
    return [ordered[position] for position in rest], [ordered[position] for position in drawn]


def class_list(
    chosen: Sequence[str] | None, found: Iterable[str], *, where: str, report: Report, defined_in: str | None = None
) -> tuple[str, ...]:
    """The chosen classes, or all found ones in alphabetical order; one list for all splits.

    A chosen class without an object is allowed, unless a found class that is not chosen has nearly the same name.

    Args:
        where: the start of messages.
        defined_in: the file that defines all classes, `found`: a chosen one must be among them, in any case.

    Raises:
        ConfigError: a class is chosen twice.
        DataError: no class at all, a misspelled or an undefined one.
    """
    found = sorted(set(found))
    if chosen is None:
        if not found:
            raise DataError(f"{where}: no object in any annotation, so no class to learn; check the folder")
        return tuple(found)
    if defined_in is not None:
        spelling = {name.casefold(): name for name in found}
        chosen = [spelling.get(name.casefold(), name) for name in chosen]
    duplicates = [name for position, name in enumerate(chosen) if name in chosen[:position]]
    if duplicates:
        raise ConfigError(f"dataset.classes={list(chosen)}: {duplicates[0]!r} is listed twice; remove one")
    others = {name.casefold(): name for name in found if name not in chosen}
    for name in (name for name in chosen if name not in found):
        close = difflib.get_close_matches(name.casefold(), others, n=1)
        hint = f"did you mean {others[close[0]]!r}?" if close else f"see {defined_in} for the {len(found)} names"
        if close or defined_in is not None:
            report.add(where, f"no class {name!r}; {hint} (dataset.classes)", fatal=True)
    return tuple(chosen)
