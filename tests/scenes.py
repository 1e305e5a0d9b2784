"""Scenes for the tests of matching and analysis: hand-made ones, and random ones that are partly right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssd.evaluation.matching import ImageResult

Box = tuple[float, float, float, float]
SIDE = 300


def scene(
    objects: Sequence[tuple[Box, int]], found: Sequence[tuple[Box, int, float]] = (), *, ignored: Sequence[int] = ()
) -> ImageResult:
    """Objects (box, class) and detections (box, class, score)."""
    return ImageResult(
        boxes=np.array([box for box, _ in objects], dtype=np.float32).reshape(-1, 4),
        labels=np.array([label for _, label in objects], dtype=np.int64),
        ignore=np.isin(np.arange(len(objects)), ignored),
        pred_boxes=np.array([box for box, _, _ in found], dtype=np.float32).reshape(-1, 4),
        pred_labels=np.array([label for _, label, _ in found], dtype=np.int64),
        pred_scores=np.array([score for _, _, score in found], dtype=np.float32),
    )


def random_scenes(
    seed: int, *, images: int, classes: int, detections: int = 40, ignored: float = 0.0
) -> list[ImageResult]:
    """Up to 8 objects; of the detections, about half lie near an object, most of those with its class."""
    rng = np.random.default_rng(seed)
    return [_random_scene(rng, classes, detections, ignored) for _ in range(images)]


def _random_scene(rng: np.random.Generator, classes: int, detections: int, ignored: float) -> ImageResult:
    objects, count = int(rng.integers(0, 9)), int(rng.integers(0, detections + 1))
    boxes, found = _boxes(rng, objects), _boxes(rng, count)
    labels, found_labels = rng.integers(0, classes, objects), rng.integers(0, classes, count)
    if objects:
        target = rng.integers(0, objects, count)
        near, right = rng.random((2, count)) < np.array([[0.5], [0.8]])
        shaken = boxes[target] + rng.normal(0, 6, (count, 4))
        shaken[:, :2] = np.minimum(shaken[:, :2], shaken[:, 2:] - 1)
        found = np.where(near[:, None], shaken, found)
        found_labels = np.where(near & right, labels[target], found_labels)
    return ImageResult(
        boxes=boxes.astype(np.float32),
        labels=labels,
        ignore=rng.random(objects) < ignored,
        pred_boxes=found.astype(np.float32),
        pred_labels=found_labels,
        pred_scores=np.sort(rng.random(count, dtype=np.float32))[::-1].copy(),
    )


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    low = rng.uniform(0, SIDE * 0.7, (count, 2))
    return np.concatenate((low, low + rng.uniform(10, SIDE * 0.3, (count, 2))), axis=1)
