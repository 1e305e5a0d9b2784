"""Splits: what a reader returns, and seeded ones for datasets that come without."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ssd.data.index import DetectionIndex
from ssd.data.repair import Report
from ssd.errors import ConfigError, DataError

VALIDATION_SHARE = 0.1
TEST_SHARE = 0.1


def place_of(name: str, class_names: Sequence[str]) -> int | None:
    """Where a class is in a list: spelt alike, or else the only one that differs in upper and lower case."""
    if name in class_names:
        return class_names.index(name)
    places = [place for place, other in enumerate(class_names) if other.casefold() == name.casefold()]
    return places[0] if len(places) == 1 else None


@dataclass(frozen=True, slots=True)
class Splits:
    """The indexes of a dataset; a split may be missing, and all have the same class list."""

    train: DetectionIndex | None
    val: DetectionIndex | None
    test: DetectionIndex | None
    report: Report = field(default_factory=Report)

    def __post_init__(self) -> None:
        owner: dict[str, str] = {}
        by_size = sorted(self.named(), key=lambda item: len(item[1]))  # the largest, of millions perhaps, is not stored
        for (name, index), (other, larger) in pairwise(by_size):
            owner |= dict.fromkeys(index.ids, name)
            if owner.keys().isdisjoint(larger.ids):
                continue
            for twice in sorted(owner.keys() & set(larger.ids)):
                first, second = (split for split, _ in self.named() if split in (owner[twice], other))
                with self.report.leaving_out():
                    raise DataError(
                        f"{twice}: is in the {first} and in the {second} split, so results would be too good;"
                        " remove it from one"
                    )

    def named(self) -> list[tuple[str, DetectionIndex]]:
        """(name, index) of the splits that are there."""
        pairs = (("train", self.train), ("val", self.val), ("test", self.test))
        return [(name, index) for name, index in pairs if index is not None]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class list, from any split."""
        return self.named()[0][1].class_names

    def check_trainable(self) -> None:
        """Raises DataError where the training pictures show nothing to learn."""
        if self.train is not None and not (~self.train.ignore).any():
            classes = ", ".join(self.class_names)
            raise DataError(f"no object of {classes} in the {len(self.train)} training pictures; see dataset.classes")


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
            with report.leaving_out():
                if close:
                    raise DataError(
                        f"{where}: no object of class {name!r}; did you mean {alike[close[0]]!r}?"
                        f" (dataset.classes; found: {', '.join(found)})"
                    )
    return tuple(wanted)
