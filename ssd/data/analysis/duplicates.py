"""Decodes every image of a dataset: finds unreadable images, and images that are in two splits (leaks)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import cv2
import numpy as np
from jaxtyping import Float16, Float32, Int64

from ssd.common.errors import DataError
from ssd.common.images import ImageArray
from ssd.common.progress import tracked
from ssd.data.index import DetectionIndex
from ssd.data.splits import Splits
from ssd.data.validation import Report, check_unreadable

MIN_SIMILARITY = 0.95  # of two images that are nearly the same
_THUMBNAIL_PX = 16
_MIN_CONTRAST = 3.0  # of 255: flatter thumbnails are similar by chance
_BLOCK_ROWS = 2048


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """The N readable images of a split: their positions, a digest of the pixels, and a gray thumbnail of K pixels.

    Thumbnails have mean 0 and norm 1, so that the dot product of two is their correlation, the similarity.
    """

    positions: Int64[np.ndarray, "N"]
    digests: list[bytes]
    thumbnails: Float16[np.ndarray, "N K"]


@dataclass(frozen=True, slots=True)
class Leak:
    """An image (split, position) that is the same or nearly the same as one in an earlier split.

    Similarity 1 means the same pixels.
    """

    image: tuple[str, int]
    other: tuple[str, int]
    similarity: float


def fingerprint_images(split: str, index: DetectionIndex, report: Report, *, strict: bool = False) -> Fingerprints:
    """Decodes all images of a split; unreadable ones go to the report."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(partial(_fingerprint, index), range(len(index)))
        results = list(tracked(found, f"images: {split}", total=len(index)))
    readable = [(position, *item) for position, item in enumerate(results) if not isinstance(item, str)]
    unreadable = [(index.paths[position], item) for position, item in enumerate(results) if isinstance(item, str)]
    check_unreadable(unreadable, images=len(index), report=report, split=split, strict=strict)
    return Fingerprints(
        positions=np.array([position for position, _, _ in readable], dtype=np.int64),
        digests=[digest for _, digest, _ in readable],
        thumbnails=np.array([copy for _, _, copy in readable], dtype=np.float16).reshape(-1, _THUMBNAIL_PX**2),
    )


def _fingerprint(index: DetectionIndex, position: int) -> tuple[bytes, Float32[np.ndarray, "K"]] | str:
    """Digest and thumbnail of an image, or why it is unreadable."""
    try:
        image = index.load(index.paths[position])
    except DataError as error:
        return str(error)
    return hashlib.blake2b(image.tobytes() + repr(image.shape).encode(), digest_size=16).digest(), _thumbnail(image)


def _thumbnail(image: ImageArray) -> Float32[np.ndarray, "K"]:
    small = cv2.resize(image, (_THUMBNAIL_PX, _THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32).ravel()
    gray -= gray.mean()
    return gray / max(float(np.linalg.norm(gray)), _MIN_CONTRAST * _THUMBNAIL_PX)


def find_leaks(fingerprints: Mapping[str, Fingerprints]) -> list[Leak]:
    """For each image the most similar one of each earlier split, if they are the same or nearly so."""
    leaks = []
    for earlier, split in combinations(fingerprints, 2):
        ours, theirs = fingerprints[split], fingerprints[earlier]
        best, similarity = _most_similar(ours.thumbnails, theirs.thumbnails)
        row_of_digest = {digest: row for row, digest in enumerate(theirs.digests)}
        for row, digest in enumerate(ours.digests):
            same = row_of_digest.get(digest)
            if same is not None or similarity[row] >= MIN_SIMILARITY:
                match = int(best[row]) if same is None else same
                score = min(float(similarity[row]), 0.999) if same is None else 1.0
                leaks.append(Leak((split, int(ours.positions[row])), (earlier, int(theirs.positions[match])), score))
    return sorted(leaks, key=lambda leak: -leak.similarity)


def _most_similar(
    images: Float16[np.ndarray, "N K"], others: Float16[np.ndarray, "M K"]
) -> tuple[Int64[np.ndarray, "N"], Float32[np.ndarray, "N"]]:
    """(row of the most similar of `others`, similarity) for each image; in blocks, to bound memory."""
    best = np.zeros(len(images), dtype=np.int64)
    similarity = np.full(len(images), -1.0, dtype=np.float32)
    for start in range(0, len(others), _BLOCK_ROWS):
        block = others[start : start + _BLOCK_ROWS].astype(np.float32).T
        for row in range(0, len(images), _BLOCK_ROWS):
            rows = slice(row, row + _BLOCK_ROWS)
            scores = images[rows].astype(np.float32) @ block
            top = scores.argmax(axis=1)
            value = scores[np.arange(len(top)), top]
            better = value > similarity[rows]
            best[rows][better] = top[better] + start
            similarity[rows][better] = value[better]
    return best, similarity


def report_leaks(leaks: Sequence[Leak], splits: Splits) -> None:
    """Adds the leaks to the report of `splits`, by file."""
    paths = {split: index.paths for split, index in splits.items()}
    for leak in leaks:
        (split, position), (other, other_position) = leak.image, leak.other
        same = "the same image" if leak.similarity == 1 else "nearly the same image"
        rule = f"{same} in the {split} and in the {other} split"
        splits.report.add(paths[split][position], rule, value=paths[other][other_position])


def report_absent_classes(splits: Splits) -> None:
    """Adds the classes without an object in a split to the report of `splits`."""
    for split, index in splits.items():
        absent = [label for label, count in zip(index.class_names, index.class_counts(), strict=True) if not count]
        if absent:
            splits.report.add(f"{split} split", "classes without an object", value=", ".join(absent))
