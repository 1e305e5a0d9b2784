"""Which images of Open Images to download: up to a limit, in a seeded random order, rare classes first.

The unit of selection is the image: whoever reads a selected image gets all of its boxes. The order depends on the seed
and the image ids only, so a larger limit adds images to those of a smaller one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

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
    labels = pairs % num_classes  # of the classes in each image, image by image
    numbers, position = np.unique(pairs // num_classes, return_inverse=True)
    order = np.argsort([_random_key(rows.ids[number], seed) for number in numbers.tolist()], kind="stable")
    if limit is not None or limit_per_class is not None:
        labels_of = np.split(labels, np.flatnonzero(np.diff(position)) + 1)
        candidates = _rarest_first if balance else _in_order
        most = np.inf if limit_per_class is None else limit_per_class
        chosen = islice(candidates(order.tolist(), labels_of, np.zeros(num_classes), most), limit)
        order = np.fromiter(chosen, dtype=np.int64)
    selected = np.zeros(len(rows.ids), dtype=bool)
    selected[numbers[order]] = True

    def count(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(labels[part], minlength=num_classes) for part in (mask, slice(None))], axis=1)

    return Selection(
        ids=[rows.ids[number] for number in numbers[order].tolist()],
        images=count(labels, selected[numbers[position]]),
        boxes=count(rows.labels[counted], selected[rows.image[counted]]),
    )


def _in_order(order: list[int], labels_of: list[np.ndarray], counts: np.ndarray, most: float) -> Iterator[int]:
    for position in order:
        labels = labels_of[position]
        if (counts[labels] < most).any():
            counts[labels] += 1
            yield position


def _rarest_first(order: list[int], labels_of: list[np.ndarray], counts: np.ndarray, most: float) -> Iterator[int]:
    images_of: list[list[int]] = [[] for _ in counts]
    for position in order:
        for label in labels_of[position].tolist():
            images_of[label].append(position)
    queues = [iter(images) for images in images_of]
    selected: set[int] = set()
    while counts.min() < most:
        rarest = int(counts.argmin())
        position = next((position for position in queues[rarest] if position not in selected), -1)
        if position < 0:  # no image of this class is left
            counts[rarest] = np.inf
        else:
            selected.add(position)
            counts[labels_of[position]] += 1
            yield position


def _random_key(id: str, seed: int) -> int:
    return int.from_bytes(blake2b(id.encode(), digest_size=7, key=str(seed).encode()).digest())
