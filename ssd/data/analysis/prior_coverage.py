"""Prior coverage: which boxes the priors can match, known before any training.

Of all priors of one shape the one whose centre is nearest overlaps a box most, along each axis by itself. So a best IoU
takes a look at a few dozen shapes, not at thousands of priors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import methodcaller
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Float, Int

from ssd.common.atomic_files import write_atomically
from ssd.model.priors import Grid, PriorSpec

_BOXES = 2000  # enough for a dozen numbers
_STEPS = 24  # values tried for each scale
_GAP = 1.05  # between neighbouring scales
_SCALES = (0.01, 1.2)
_RATIOS = (1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0)
_LEAST_GAIN = 1e-4
_MAX_ROUNDS = 12


def fit(layout: Layout, boxes: Float[np.ndarray, "M 4"], labels: Int[np.ndarray, "M"], *, seed: int) -> PriorSpec:
    """The spec whose priors match the most boxes (xyxy fractions) and overlap them best.

    One number is improved at a time, and what does not help stays: coarse levels keep their scales where no box is
    large. A class weighs as the square root of its boxes.
    """
    chosen = np.random.default_rng(seed).permutation(len(boxes))[:_BOXES]
    boxes, labels = boxes[chosen].astype(np.float64), labels[chosen]
    weights = 1 / np.sqrt(np.bincount(labels)[labels])
    weights /= weights.sum()

    def score(candidate: PriorSpec) -> float:
        iou = best_iou(boxes, layout.with_spec(candidate).levels)
        return float(weights @ (iou >= layout.iou_threshold) + weights @ iou)

    return _climb(layout.spec, score)


def _climb(spec: PriorSpec, score: Callable[[PriorSpec], float]) -> PriorSpec:
    best = score(spec)
    for _ in range(_MAX_ROUNDS):
        before = best
        for number in range(len(spec.scales) + _slots(spec)):
            scored = [(score(candidate), candidate) for candidate in _candidates(spec, number)]
            top, candidate = max(scored, key=lambda item: item[0], default=(best, spec))
            if top > best + _LEAST_GAIN:
                best, spec = top, candidate
        if best == before:
            break
    return spec


def _slots(spec: PriorSpec) -> int:
    """Ratios of the level that has the most: the n-th ratio is the same for all levels."""
    return max(map(len, spec.aspect_ratios), default=0)


def _candidates(spec: PriorSpec, number: int) -> Iterator[PriorSpec]:
    """The spec with other values for one of its numbers: the scales, then the ratios."""
    scales = list(spec.scales)
    if number < len(scales):
        low = scales[number - 1] * _GAP if number else _SCALES[0]
        high = scales[number + 1] / _GAP if number + 1 < len(scales) else max(_SCALES[1], scales[-1])
        for scale in np.geomspace(low, high, _STEPS).round(4).tolist() if low < high else ():
            yield replace(spec, scales=[*scales[:number], scale, *scales[number + 1 :]])
        return
    slot = number - len(scales)
    taken = {ratio for ratios in spec.aspect_ratios for ratio in ratios}
    for value in sorted(set(_RATIOS) - taken):
        fitted = [[value if place == slot else ratio for place, ratio in enumerate(old)] for old in spec.aspect_ratios]
        yield replace(spec, aspect_ratios=fitted)


def write_priors(spec: PriorSpec, path: Path, *, about: Sequence[str]) -> None:
    """An option of the group `priors`, with the lines `about` above it as comments."""
    comments = "".join(f"# {' '.join(line.split())}\n" for line in about)
    head = "defaults:\n  - /schema/priors@_here_\n_target_: ssd.model.priors.PriorSpec\n"
    values = yaml.safe_dump(spec.as_dict(), sort_keys=False, default_flow_style=None, width=120)
    write_atomically(path, methodcaller("write_text", comments + head + values, encoding="utf-8"))


SIZES_PX = (16, 32, 64, 128)  # bounds between the sizes, as square roots of areas at the network's input
SIZE_NAMES = ("< 16 px", "16-32", "32-64", "64-128", "> 128 px")
FEW = 0.5  # a class of which fewer boxes can be matched gets a warning


@dataclass(frozen=True, slots=True)
class Level:
    """The priors of one feature map: cell centres along each axis, and the K shapes (w, h) in a cell, as fractions."""

    centres: tuple[Float[np.ndarray, "columns"], Float[np.ndarray, "rows"]]
    shapes: Float[np.ndarray, "K 2"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Priors as they lie on the grids of a backbone, and the IoU from which they match a box."""

    spec: PriorSpec
    grids: Sequence[Grid]
    image_size: int
    iou_threshold: float
    levels: Sequence[Level]

    @classmethod
    def lay(cls, spec: PriorSpec, grids: Sequence[Grid], *, image_size: int, iou_threshold: float) -> Layout:
        priors = spec.build(grids, image_size=image_size).double().numpy()
        levels, start = [], 0
        for (rows, columns), shapes in zip(grids, spec.per_cell, strict=True):
            stop = start + rows * columns * shapes
            cells = priors[start:stop].reshape(rows, columns, shapes, 4)
            levels.append(Level((cells[0, :, 0, 0], cells[:, 0, 0, 1]), cells[0, 0, :, 2:]))
            start = stop
        return cls(spec, grids, image_size, iou_threshold, levels)

    def with_spec(self, spec: PriorSpec) -> Layout:
        """Other priors on the same grids."""
        return Layout.lay(spec, self.grids, image_size=self.image_size, iou_threshold=self.iou_threshold)

    def sizes_px(self, boxes: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "M"]:
        """Square roots of the areas at the network's input, to which an image is stretched."""
        return np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)) * self.image_size


@dataclass(frozen=True, slots=True)
class Coverage:
    """Boxes, and how many of them can be matched, by class and size (see SIZE_NAMES)."""

    boxes: Int[np.ndarray, "C S"]
    matched: Int[np.ndarray, "C S"]

    @property
    def share(self) -> float:
        """Of all boxes; 1 where there is none."""
        return float(self.matched.sum() / self.boxes.sum()) if self.boxes.any() else 1.0

    def poor_classes(self) -> list[int]:
        """Classes of which fewer than FEW of the boxes can be matched."""
        return np.flatnonzero(self.matched.sum(axis=1) < FEW * self.boxes.sum(axis=1)).tolist()


def best_iou(boxes: Float[np.ndarray, "M 4"], levels: Sequence[Level]) -> Float[np.ndarray, "M"]:
    """The largest IoU of each box (xyxy fractions) with a prior."""
    best = np.zeros(len(boxes))
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1, keepdims=True)
    for level in levels:
        overlap = np.ones((len(boxes), len(level.shapes)))
        for axis, centres in enumerate(level.centres):
            low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
            nearest = centres[np.searchsorted((centres[1:] + centres[:-1]) / 2, (low + high) / 2)]
            half = level.shapes[:, axis] / 2
            overlap *= (np.minimum(high, nearest + half) - np.maximum(low, nearest - half)).clip(0)
        best = np.maximum(best, (overlap / (area + level.shapes.prod(axis=1) - overlap)).max(axis=1))
    return best


def measure_coverage(
    layout: Layout, boxes: Float[np.ndarray, "M 4"], labels: Int[np.ndarray, "M"], *, classes: int
) -> Coverage:
    """Counts the boxes (xyxy fractions) whose best IoU with a prior reaches the threshold."""
    counts = np.zeros((2, classes, len(SIZE_NAMES)), dtype=np.int64)
    bucket = np.searchsorted(SIZES_PX, layout.sizes_px(boxes), side="right")
    matched = best_iou(boxes, layout.levels) >= layout.iou_threshold
    np.add.at(counts[0], (labels, bucket), 1)
    np.add.at(counts[1], (labels[matched], bucket[matched]), 1)
    return Coverage(*counts)
