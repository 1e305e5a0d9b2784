"""Splits: what a reader returns, and seeded ones for datasets that come without."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ssd.common.errors import ConfigError, DataError
from ssd.data.index import DetectionIndex
from ssd.data.sampler import boxes_per_epoch, repeat_factors
from ssd.data.validation import Report


def describe_data(splits: Splits, *, balance: float | None = None) -> list[str]:
    """Images and boxes of each split, what balance changes, what was mended, and classes without an object."""
    lines = []
    for name, index in splits.items():
        counts = ", ".join(
            f"{label} {count}" for label, count in zip(index.class_names, index.class_counts(), strict=True)
        )
        lines.append(f"{name}: {len(index)} images, {len(index.boxes)} boxes ({counts})")
    if splits.train is not None and balance is not None:
        seen = boxes_per_epoch(splits.train, repeat_factors(splits.train, balance))
        counts = ", ".join(f"{label} {count:.0f}" for label, count in zip(splits.class_names, seen, strict=True))
        lines.append(f"dataset.balance={balance:g}: boxes seen in an epoch of training, on average: {counts}")
    lines += [f"data: {line}" for line in splits.report.summary_lines()]
    for name, index in splits.items():
        absent = [label for label, count in zip(index.class_names, index.class_counts(), strict=True) if not count]
        if absent:
            lines.append(f"warning: the {name} split has no object of {', '.join(absent)}")
    return lines


VALIDATION_SHARE = 0.1
TEST_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Splits:
    """The indexes of a dataset; a split may be missing, and all have the same class list."""

    train: DetectionIndex | None
    val: DetectionIndex | None
    test: DetectionIndex | None
    report: Report = field(default_factory=Report)

    def __post_init__(self) -> None:
        owner: dict[str, str] = {}
        by_size = sorted(self.items(), key=lambda item: len(item[1]))  # the largest, of millions perhaps, is not stored
        for (name, index), (other, larger) in pairwise(by_size):
            owner |= dict.fromkeys(index.ids, name)
            if owner.keys().isdisjoint(larger.ids):
                continue
            for twice in sorted(owner.keys() & set(larger.ids)):
                first, second = (split for split, _ in self.items() if split in (owner[twice], other))
                with self.report.collect_errors():
                    raise DataError(
                        f"{twice}: is in the {first} and in the {second} split, so results would be too good;"
                        " remove it from one"
                    )

    def items(self) -> list[tuple[str, DetectionIndex]]:
        """(name, index) of the splits that are there."""
        pairs = (("train", self.train), ("val", self.val), ("test", self.test))
        return [(name, index) for name, index in pairs if index is not None]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class list, from any split."""
        return self.items()[0][1].class_names

    def check_trainable(self) -> None:
        """Raises DataError where the training images show nothing to learn."""
        if self.train is not None and not (~self.train.ignore).any():
            classes = ", ".join(self.class_names)
            raise DataError(f"no object of {classes} in the {len(self.train)} training images; see dataset.classes")


def seeded_split(names: Sequence[str], *, seed: int) -> dict[str, list[str]]:
    """80 % train, 10 % val, 10 % test; at least one each where there are three or more."""
    train, test = hold_out(names, share=TEST_SHARE, seed=seed)
    train, val = hold_out(train, share=VALIDATION_SHARE * len(names) / max(1, len(train)), seed=seed + 1)
    return {"train": train, "val": val, "test": test}


def hold_out(names: Sequence[str], *, share: float, seed: int) -> tuple[list[str], list[str]]:
    """Takes a seeded share of `names` away: (what stays, what was taken), each in sorted order."""
    ordered = sorted(names)
    count = min(max(1, round(share * len(ordered))), max(0, len(ordered) - 1))
    taken = set(np.random.default_rng(seed).permutation(len(ordered))[:count].tolist())
    return (
        [name for position, name in enumerate(ordered) if position not in taken],
        [name for position, name in enumerate(ordered) if position in taken],
    )


def class_list(wanted: Sequence[str] | None, found: Iterable[str], *, where: str, report: Report) -> tuple[str, ...]:
    """The classes asked for, or all those found, sorted; one list for all splits.

    Raises:
        ConfigError: a class is asked for twice.
        DataError: no class at all; or a class that is asked for is not there while one of almost the same name is,
            for which nobody asks.
    """
    found = sorted(set(found))
    if wanted is None:
        if not found:
            raise DataError(f"{where}: no object in any annotation, so no class to learn; check the folder")
        return tuple(found)
    duplicates = [name for position, name in enumerate(wanted) if name in wanted[:position]]
    if duplicates:
        raise ConfigError(f"dataset.classes={list(wanted)}: {duplicates[0]!r} is listed twice")
    for name in wanted:
        if name not in found:
            alike = {other.casefold(): other for other in found if other not in wanted}
            close = difflib.get_close_matches(name.casefold(), alike, n=1)
            with report.collect_errors():
                if close:
                    raise DataError(
                        f"{where}: no object of class {name!r}; did you mean {alike[close[0]]!r}?"
                        f" (dataset.classes; found: {', '.join(found)})"
                    )
    return tuple(wanted)
