"""Looks at every image of a dataset: what cannot be decoded, what is damaged, and what lies in two splits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import cv2
import numpy as np
from jaxtyping import Float16, Float32, Int64
from rich.console import Console
from rich.progress import track

from ssd.common.errors import DataError
from ssd.common.images import ImageArray
from ssd.data.index import DetectionIndex
from ssd.data.splits import Splits
from ssd.data.validation import Report, check_unreadable

ALIKE = 0.95  # likeness from which two images are called nearly the same
_THUMBNAIL = 16  # sides of the copies that are compared, in pixels
_LEAST_CONTRAST = 3.0  # of 255: flatter copies are alike by chance
_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class Looks:
    """The N images of a split that could be decoded: their positions, a digest of the pixels, and small gray copies.

    The copies have mean 0 and length 1, so that the product of two is their correlation, the likeness.
    """

    positions: Int64[np.ndarray, "N"]
    digests: list[bytes]
    copies: Float16[np.ndarray, "N K"]


@dataclass(frozen=True, slots=True)
class Leak:
    """An image of a split (name, position) that is nearly one of an earlier split; likeness 1: the same pixels."""

    image: tuple[str, int]
    other: tuple[str, int]
    likeness: float


def look(name: str, index: DetectionIndex, report: Report) -> Looks:
    """Decodes all images of the split `name`."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(partial(_look_at, index), range(len(index)))
        quiet = not Console().is_terminal
        seen = list(track(found, f"images: {name}", len(index), transient=True, disable=quiet))
    good = [(position, *item) for position, item in enumerate(seen) if not isinstance(item, str)]
    broken = [(index.paths[position], item) for position, item in enumerate(seen) if isinstance(item, str)]
    check_unreadable(broken, images=len(index), report=report)
    return Looks(
        positions=np.array([position for position, _, _ in good], dtype=np.int64),
        digests=[digest for _, digest, _ in good],
        copies=np.array([copy for _, _, copy in good], dtype=np.float16).reshape(-1, _THUMBNAIL**2),
    )


def _look_at(index: DetectionIndex, position: int) -> tuple[bytes, Float32[np.ndarray, "K"]] | str:
    """Digest and copy of an image, or what is wrong with it."""
    path = index.paths[position]
    try:
        image = index.load(path)
    except DataError as error:
        return str(error)
    return hashlib.blake2b(image.tobytes() + repr(image.shape).encode(), digest_size=16).digest(), _small_copy(image)


def _small_copy(image: ImageArray) -> Float32[np.ndarray, "K"]:
    small = cv2.resize(image, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32).ravel()
    gray -= gray.mean()
    return gray / max(float(np.linalg.norm(gray)), _LEAST_CONTRAST * _THUMBNAIL)


def find_leaks(looks: dict[str, Looks]) -> list[Leak]:
    """For each image the most similar one of each earlier split, where they are alike."""
    leaks = []
    for other, name in combinations(looks, 2):
        ours, theirs = looks[name], looks[other]
        best, likeness = _most_similar(ours.copies, theirs.copies)
        where = {digest: row for row, digest in enumerate(theirs.digests)}
        for row, digest in enumerate(ours.digests):
            same = where.get(digest)
            if same is not None or likeness[row] >= ALIKE:
                match = int(best[row]) if same is None else same
                score = min(float(likeness[row]), 0.999) if same is None else 1.0
                leaks.append(Leak((name, int(ours.positions[row])), (other, int(theirs.positions[match])), score))
    return sorted(leaks, key=lambda leak: -leak.likeness)


def _most_similar(
    some: Float16[np.ndarray, "N K"], others: Float16[np.ndarray, "M K"]
) -> tuple[Int64[np.ndarray, "N"], Float32[np.ndarray, "N"]]:
    """The row of `others` that is most like each of `some`, and how much; block by block."""
    best = np.zeros(len(some), dtype=np.int64)
    likeness = np.full(len(some), -1.0, dtype=np.float32)
    for start in range(0, len(others), _BLOCK):
        block = others[start : start + _BLOCK].astype(np.float32).T
        for row in range(0, len(some), _BLOCK):
            rows = slice(row, row + _BLOCK)
            scores = some[rows].astype(np.float32) @ block
            top = scores.argmax(axis=1)
            value = scores[np.arange(len(top)), top]
            better = value > likeness[rows]
            best[rows][better] = top[better] + start
            likeness[rows][better] = value[better]
    return best, likeness


def note_leaks(leaks: Sequence[Leak], splits: Splits, report: Report) -> None:
    """Takes the leaks down by file."""
    paths = {name: index.paths for name, index in splits.items()}
    for leak in leaks:
        (name, position), (other, other_position) = leak.image, leak.other
        rule = "the same image" if leak.likeness == 1 else "nearly the same image"
        report.add(
            paths[name][position], f"{rule} in the {name} and in the {other} split", value=paths[other][other_position]
        )


def note_classes(splits: Splits, report: Report) -> None:
    """Takes down the classes without an object in a split."""
    for name, index in splits.items():
        absent = [label for label, count in zip(index.class_names, index.class_counts(), strict=True) if not count]
        if absent:
            report.add(f"{name} split", "classes without an object", value=", ".join(absent))
