"""Which images of Open Images to fetch: so many at most, at random by a seed, rare classes first.

Only images are chosen: whoever reads a chosen image gets all of its boxes. The order of choice depends on the seed
and the ids alone, so a larger limit adds images to those of a smaller one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from jaxtyping import Int64

from ssd.data.formats.openimages_csv import Rows

_SHARES = {"train": 8, "validation": 1, "test": 1}  # of a limit


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen images of a split; and for each of C classes, [chosen, all]: how many images and boxes."""

    ids: list[str]
    images: Int64[np.ndarray, "C 2"]
    boxes: Int64[np.ndarray, "C 2"]


def share_out(limit: int | None, splits: Sequence[str]) -> dict[str, int | None]:
    """A limit in total, divided 8 : 1 : 1 among train, validation and test; what remains goes to the first split."""
    if limit is None:
        return dict.fromkeys(splits)
    whole = sum(_SHARES[split] for split in splits)
    shares = {split: limit * _SHARES[split] // whole for split in splits}
    return {**shares, splits[0]: limit - sum(shares[split] for split in splits[1:])}


def choose_images(
    rows: Rows,
    *,
    num_classes: int,
    include_depictions: bool,
    limit: int | None,
    limit_per_class: int | None,
    balance: bool,
    seed: int,
) -> Choice:
    """Chooses among the images that have a box of the classes which is not of a group.

    Args:
        limit: images at most; None takes all.
        limit_per_class: an image is chosen for a class only while fewer hold that class.
        balance: the next image is always one of the class that the fewest chosen images hold; else any.
    """
    counted = ~rows.group_of & (include_depictions | ~rows.depiction)
    pairs = np.unique(rows.image[counted].astype(np.int64) * num_classes + rows.labels[counted])
    numbers, position = np.unique(pairs // num_classes, return_inverse=True)
    held = _Held(position, pairs % num_classes)
    order = np.argsort([_key(rows.ids[number], seed) for number in numbers.tolist()], kind="stable")
    if limit is not None or limit_per_class is not None:
        draw = _draw_rarest if balance else _draw_any
        most = np.inf if limit_per_class is None else limit_per_class
        order = draw(held, order, np.zeros(num_classes), most=most, limit=len(order) if limit is None else limit)
    chosen = np.zeros(len(rows.ids), dtype=bool)
    chosen[numbers[order]] = True

    def count(labels: np.ndarray, is_chosen: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(labels[mask], minlength=num_classes) for mask in (is_chosen, slice(None))], axis=1)

    return Choice(
        ids=[rows.ids[number] for number in numbers[order].tolist()],
        images=count(held.label, chosen[numbers[position]]),
        boxes=count(rows.labels[counted], chosen[rows.image[counted]]),
    )


@dataclass(frozen=True, slots=True)
class _Held:
    """Which image holds which class: K pairs, sorted by the image's position."""

    position: Int64[np.ndarray, "K"]
    label: Int64[np.ndarray, "K"]

    def labels(self) -> list[np.ndarray]:
        """The classes of each image."""
        return np.split(self.label, np.flatnonzero(np.diff(self.position)) + 1)

    def images(self, order: np.ndarray, num_classes: int) -> list[Iterator[int]]:
        """The images of each class, in `order`."""
        rows = np.lexsort((np.argsort(order)[self.position], self.label))
        ends = np.searchsorted(self.label[rows], np.arange(1, num_classes))
        return [iter(part.tolist()) for part in np.split(self.position[rows], ends)]


def _draw_any(held: _Held, order: np.ndarray, counts: np.ndarray, *, most: float, limit: int) -> np.ndarray:
    labels = held.labels()
    drawn: list[int] = []
    for position in order.tolist():
        if len(drawn) < limit and (counts[labels[position]] < most).any():
            drawn.append(position)
            counts[labels[position]] += 1
    return np.array(drawn, dtype=np.int64)


def _draw_rarest(held: _Held, order: np.ndarray, counts: np.ndarray, *, most: float, limit: int) -> np.ndarray:
    labels, queues = held.labels(), held.images(order, len(counts))
    drawn: dict[int, None] = {}
    while len(drawn) < limit and counts.min() < most:
        rarest = int(counts.argmin())
        position = next((position for position in queues[rarest] if position not in drawn), None)
        if position is None:  # no more of this class
            counts[rarest] = np.inf
        else:
            drawn[position] = None
            counts[labels[position]] += 1
    return np.array(list(drawn), dtype=np.int64)


def _key(id: str, seed: int) -> int:
    return int.from_bytes(blake2b(id.encode(), digest_size=7, key=str(seed).encode()).digest())
