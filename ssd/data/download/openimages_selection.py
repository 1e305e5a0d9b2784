"""Which images of Open Images to download: up to a limit, in a seeded random order, rare classes first.

The unit of selection is the image: whoever reads a selected image gets all of its boxes. The order depends on the seed
and the image ids only, so a larger limit adds images to those of a smaller one.
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
class Selection:
    """The selected images of a split, and counts for each of C classes: images and boxes, each as [selected, all]."""

    ids: list[str]
    images: Int64[np.ndarray, "C 2"]
    boxes: Int64[np.ndarray, "C 2"]


def split_limit(limit: int | None, splits: Sequence[str]) -> dict[str, int | None]:
    """Divides a total limit 8 : 1 : 1 among train, validation and test; the first split gets the remainder."""
    if limit is None:
        return dict.fromkeys(splits)
    whole = sum(_SHARES[split] for split in splits)
    shares = {split: limit * _SHARES[split] // whole for split in splits}
    return {**shares, splits[0]: limit - sum(shares[split] for split in splits[1:])}


def select_images(
    rows: Rows,
    *,
    num_classes: int,
    include_depictions: bool,
    limit: int | None,
    limit_per_class: int | None,
    balance: bool,
    seed: int,
) -> Selection:
    """Selects among the images that have at least one box (group-of boxes do not count) of the classes.

    Args:
        limit: the maximum number of images; None for all.
        limit_per_class: an image is selected for a class only while fewer selected images contain that class.
        balance: always select the next image for the class that is in the fewest selected images; otherwise take the
            images in random order.
    """
    counted = ~rows.group_of & (include_depictions | ~rows.depiction)
    pairs = np.unique(rows.image[counted].astype(np.int64) * num_classes + rows.labels[counted])
    numbers, position = np.unique(pairs // num_classes, return_inverse=True)
    classes = _ImageClasses(position, pairs % num_classes)
    order = np.argsort([_random_key(rows.ids[number], seed) for number in numbers.tolist()], kind="stable")
    if limit is not None or limit_per_class is not None:
        select = _select_rarest if balance else _select_in_order
        most = np.inf if limit_per_class is None else limit_per_class
        order = select(classes, order, np.zeros(num_classes), most=most, limit=len(order) if limit is None else limit)
    selected = np.zeros(len(rows.ids), dtype=bool)
    selected[numbers[order]] = True

    def count(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(labels[part], minlength=num_classes) for part in (mask, slice(None))], axis=1)

    return Selection(
        ids=[rows.ids[number] for number in numbers[order].tolist()],
        images=count(classes.label, selected[numbers[position]]),
        boxes=count(rows.labels[counted], selected[rows.image[counted]]),
    )


@dataclass(frozen=True, slots=True)
class _ImageClasses:
    """Which image contains which class: K pairs, sorted by the position of the image."""

    position: Int64[np.ndarray, "K"]
    label: Int64[np.ndarray, "K"]

    def of_images(self) -> list[np.ndarray]:
        """The classes of each image."""
        return np.split(self.label, np.flatnonzero(np.diff(self.position)) + 1)

    def queues(self, order: np.ndarray, num_classes: int) -> list[Iterator[int]]:
        """The images of each class, in `order`."""
        rows = np.lexsort((np.argsort(order)[self.position], self.label))
        ends = np.searchsorted(self.label[rows], np.arange(1, num_classes))
        return [iter(part.tolist()) for part in np.split(self.position[rows], ends)]


def _select_in_order(
    classes: _ImageClasses, order: np.ndarray, counts: np.ndarray, *, most: float, limit: int
) -> np.ndarray:
    labels = classes.of_images()
    selected: list[int] = []
    for position in order.tolist():
        if len(selected) < limit and (counts[labels[position]] < most).any():
            selected.append(position)
            counts[labels[position]] += 1
    return np.array(selected, dtype=np.int64)


def _select_rarest(
    classes: _ImageClasses, order: np.ndarray, counts: np.ndarray, *, most: float, limit: int
) -> np.ndarray:
    labels, queues = classes.of_images(), classes.queues(order, len(counts))
    selected: dict[int, None] = {}
    while len(selected) < limit and counts.min() < most:
        rarest = int(counts.argmin())
        position = next((position for position in queues[rarest] if position not in selected), None)
        if position is None:  # no image of this class is left
            counts[rarest] = np.inf
        else:
            selected[position] = None
            counts[labels[position]] += 1
    return np.array(list(selected), dtype=np.int64)


def _random_key(id: str, seed: int) -> int:
    return int.from_bytes(blake2b(id.encode(), digest_size=7, key=str(seed).encode()).digest())
