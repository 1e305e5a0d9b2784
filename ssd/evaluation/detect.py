"""Runs a detector on a split of a dataset: original images in, detections out, classes matched by name."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Int

from ssd.common.class_names import class_index
from ssd.common.console import log
from ssd.common.errors import ConfigError, DataError
from ssd.common.images import ImageArray
from ssd.common.progress import tracked
from ssd.common.structures import Detections, Predict
from ssd.data.index import DetectionIndex
from ssd.data.splits import Splits
from ssd.data.validation import max_unreadable, too_many_unreadable

_BATCHES_AHEAD = 2
_MAX_THREADS = 8


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds spent on `images`; `waiting` of them for images to be read, the rest in the detector."""

    images: int
    seconds: float
    waiting: float


@dataclass(frozen=True, slots=True)
class Detected:
    """The readable images of an index, and the detections in each."""

    index: DetectionIndex
    detections: list[Detections]
    speed: Speed


def select_split(splits: Splits, name: str, class_names: Sequence[str]) -> DetectionIndex:
    """The split `name` of a dataset, with the labels of a detector that knows `class_names`.

    Classes are matched by name, in any case if that is unambiguous. Boxes of other classes are skipped, which is
    logged.

    Raises:
        ConfigError: the dataset has no such split, or no class in common with the detector.
    """
    indexes = dict(splits.items())
    if name not in indexes:
        raise ConfigError(f"split={name}: the dataset has no such split; choose from {', '.join(indexes)}")
    known = [label for label in splits.class_names if class_index(label, class_names) is not None]
    others = [label for label in splits.class_names if label not in known]
    # readers that were given the classes skip other objects themselves and report it
    skipped = sorted({problem.skipped_classes for problem in splits.report.problems} - {""})
    if not known or (skipped and not any(len(index.boxes) for index in indexes.values())):
        present = ", ".join(skipped or others)
        raise ConfigError(
            f"no class in common: the checkpoint knows {', '.join(class_names)}; the dataset has {present}"
        )
    if others:
        log(f"classes unknown to the checkpoint are skipped: {', '.join(others)}")
    return with_classes(indexes[name], class_names)


def with_classes(index: DetectionIndex, class_names: Sequence[str]) -> DetectionIndex:
    """The index with labels that refer to `class_names`; boxes of other classes are skipped."""
    labels = _label_map(index.class_names, class_names)[index.labels]
    return replace(index, class_names=tuple(class_names), labels=labels.astype(np.int32)).keep_boxes(labels >= 0)


def _label_map(own: Sequence[str], class_names: Sequence[str]) -> Int[np.ndarray, "C"]:
    """The position in `class_names` of each of the classes `own`, or -1."""
    positions = (class_index(name, class_names) for name in own)
    return np.array([-1 if position is None else position for position in positions])


def detect(
    predict: Predict, index: DetectionIndex, *, class_names: Sequence[str], batch_size: int, num_workers: int | None
) -> Detected:
    """Runs a detector that knows `class_names` on each image of the index; labels refer to the index's classes.

    `num_workers` threads read images ahead (None: one per core, at most 8). Unreadable images are skipped and logged,
    as in training.

    Raises:
        DataError: more images are unreadable than training would skip.
    """
    threads = min(_MAX_THREADS, os.cpu_count() or 1) if num_workers is None else max(1, num_workers)
    label_map = torch.from_numpy(_label_map(class_names, index.class_names))
    predict([np.zeros((64, 64, 3), dtype=np.uint8)])  # the first call is slow
    detections: list[Detections] = []
    unreadable: dict[int, DataError] = {}
    waiting = 0.0
    start = mark = time.perf_counter()
    batches = math.ceil(len(index) / batch_size)
    for positions, images in tracked(_read_ahead(index, batch_size, threads), "detecting", total=batches):
        waiting += time.perf_counter() - mark
        unreadable |= {
            position: item for position, item in zip(positions, images, strict=True) if isinstance(item, DataError)
        }
        readable = [item for item in images if not isinstance(item, DataError)]
        detections += predict(readable) if readable else []
        mark = time.perf_counter()
    speed = Speed(len(detections), mark - start, waiting)
    _check_skipped(list(unreadable.values()), images=len(index))
    labels = [label_map[found.labels] for found in detections]
    return Detected(
        index.take([position for position in range(len(index)) if position not in unreadable]) if unreadable else index,
        [replace(found, labels=new).where(new >= 0) for found, new in zip(detections, labels, strict=True)],
        speed,
    )


def _check_skipped(errors: Sequence[DataError], *, images: int) -> None:
    if len(errors) > max_unreadable(images, strict=False):
        raise too_many_unreadable([str(error) for error in errors], images=images, strict=False)
    for error in errors:
        log(f"warning: skipped image, so its objects do not count: {error}")


def _read_ahead(
    index: DetectionIndex, batch_size: int, threads: int
) -> Iterator[tuple[range, list[ImageArray | DataError]]]:
    """Positions and images of each batch."""
    pending: deque[tuple[range, Iterator[ImageArray | DataError]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(index), batch_size):
            positions = range(start, min(start + batch_size, len(index)))
            pending.append((positions, pool.map(partial(_load, index), positions)))
            if len(pending) > _BATCHES_AHEAD:
                positions, images = pending.popleft()
                yield positions, list(images)
        yield from ((positions, list(images)) for positions, images in pending)


def _load(index: DetectionIndex, position: int) -> ImageArray | DataError:
    try:
        return index.load(index.paths[position])
    except DataError as error:
        return error
