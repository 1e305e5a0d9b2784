"""Prior coverage: which boxes the priors can match, known before any training; and priors fitted to the boxes.

Of all priors of one shape, the one with the nearest centre overlaps a box most, along each axis independently. So the
best IoU of a box needs a few dozen shapes, not thousands of priors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Float, Int

from ssd.common.atomic_files import write_atomically
from ssd.common.image_size import ImageSize, height_width
from ssd.data.index import DetectionIndex
from ssd.model.priors import Grid, PriorSpec

SIZE_BOUNDS_PX = (16, 32, 64, 128)  # square roots of areas at the network's input
SIZE_NAMES = ("< 16 px", "16-32", "32-64", "64-128", "> 128 px")
MAX_BOXES = 100_000  # of more boxes, the coverage is measured on a sample
MIN_SHARE = 0.9  # of the boxes of a class, that priors should match
MIN_MATCHED = 0.5  # share of the boxes of a class, below which there is a warning
_MAX_NAMED = 8  # classes in a warning

_FIT_BOXES = 2000  # enough for a dozen numbers
_FIT_STEPS = 24  # values tried for each scale
_FIT_MAX_ROUNDS = 12
_FIT_MIN_GAIN = 1e-4
_SCALE_RANGE = (0.01, 1.2)
_MIN_SCALE_RATIO = 1.05  # of neighbouring scales
_RATIOS = (1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0)


@dataclass(frozen=True, slots=True)
class LevelPriors:
    """The priors of one feature map: cell centres along (x, y), and the K shapes (w, h) of a cell, as fractions."""

    centres: tuple[Float[np.ndarray, "columns"], Float[np.ndarray, "rows"]]
    shapes: Float[np.ndarray, "K 2"]


@dataclass(frozen=True)
class PriorLayout:
    """Priors on grids of (rows, columns), the input size (side or height, width), and the IoU from which they match."""

    spec: PriorSpec
    grids: Sequence[Grid]
    image_size: ImageSize
    match_threshold: float

    @cached_property
    def levels(self) -> list[LevelPriors]:
        """The priors of each grid."""
        priors = self.spec.build(self.grids, image_size=self.image_size).double().numpy()
        levels, start = [], 0
        for (rows, columns), shapes in zip(self.grids, self.spec.per_cell, strict=True):
            stop = start + rows * columns * shapes
            cells = priors[start:stop].reshape(rows, columns, shapes, 4)
            levels.append(LevelPriors((cells[0, :, 0, 0], cells[:, 0, 0, 1]), cells[0, 0, :, 2:]))
            start = stop
        return levels

    def sizes_px(self, boxes: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "M"]:
        """Square roots of the areas at the network's input, to which images are stretched."""
        return np.sqrt(self.shapes_px(boxes[:, 2:] - boxes[:, :2]).prod(axis=1))

    def shapes_px(self, shapes: Float[np.ndarray, "M 2"]) -> Float[np.ndarray, "M 2"]:
        """Widths and heights, from fractions of the image to pixels of the input."""
        return shapes * np.array(height_width(self.image_size)[::-1])

    @property
    def scales_px(self) -> list[float]:
        """Sides of the small square priors of each level, and of one more."""
        return [scale * min(height_width(self.image_size)) for scale in self.spec.scales]

    def matched(self, boxes: Float[np.ndarray, "M 4"]) -> np.ndarray:
        """Which boxes (xyxy fractions) a prior matches, bool [M]."""
        return best_iou(boxes, self.levels) >= self.match_threshold


@dataclass(frozen=True, slots=True)
class Coverage:
    """Number of boxes, and of boxes that a prior matches, by class and size (S, see SIZE_NAMES)."""

    boxes: Int[np.ndarray, "C S"]
    matched: Int[np.ndarray, "C S"]

    @property
    def share(self) -> float:
        """The matched share of all boxes; 1 without boxes."""
        return float(self.matched.sum() / self.boxes.sum()) if self.boxes.any() else 1.0

    @property
    def class_shares(self) -> Float[np.ndarray, "C"]:
        """The matched share of the boxes of each class; 0 without boxes."""
        return self.matched.sum(axis=1) / np.maximum(self.boxes.sum(axis=1), 1)

    @property
    def class_share(self) -> float:
        """The mean over the classes with boxes of the matched share; 1 without boxes."""
        return float(self.class_shares[self.boxes.any(axis=1)].mean()) if self.boxes.any() else 1.0

    def poor_classes(self, share: float = MIN_MATCHED) -> list[int]:
        """Classes of whose boxes less than `share` are matched, the worst first."""
        poor = self.matched.sum(axis=1) < share * self.boxes.sum(axis=1)
        order = np.argsort(self.class_shares, kind="stable")
        return order[poor[order]].tolist()


def sample_boxes(index: DetectionIndex, *, seed: int) -> tuple[Float[np.ndarray, "M 4"], Int[np.ndarray, "M"]]:
    """The boxes that count (xyxy fractions) and their labels, or MAX_BOXES of them."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(~index.ignore))[:MAX_BOXES]
    return index.boxes[rows].astype(np.float64), index.labels[rows]


def best_iou(boxes: Float[np.ndarray, "M 4"], levels: Sequence[LevelPriors]) -> Float[np.ndarray, "M"]:
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
    layout: PriorLayout, boxes: Float[np.ndarray, "M 4"], labels: Int[np.ndarray, "M"], *, num_classes: int
) -> Coverage:
    """Counts the boxes (xyxy fractions), and those that a prior matches."""
    counts = np.zeros((2, num_classes, len(SIZE_NAMES)), dtype=np.int64)
    size = np.searchsorted(SIZE_BOUNDS_PX, layout.sizes_px(boxes), side="right")
    matched = layout.matched(boxes)
    np.add.at(counts[0], (labels, size), 1)
    np.add.at(counts[1], (labels[matched], size[matched]), 1)
    return Coverage(*counts)


def low_coverage(coverage: Coverage, class_names: Sequence[str]) -> str | None:
    """Names the classes of whose boxes less than MIN_SHARE are matched, the worst first; None if there is none."""
    low = [f"{class_names[label]} {coverage.class_shares[label]:.0%}" for label in coverage.poor_classes(MIN_SHARE)]
    return f"priors match {coverage.share:.0%} of the training boxes; few of: {_listed(low)}" if low else None


def coverage_warnings(
    layout: PriorLayout, coverage: Coverage, class_names: Sequence[str], *, fitted: bool
) -> list[str]:
    """The classes that the priors can hardly match, and the remedy; `fitted` priors cannot be fitted again."""
    shares = coverage.class_shares
    poor = [f"{class_names[label]} ({100 * shares[label]:.0f} %)" for label in coverage.poor_classes()]
    if not poor:
        return []
    smallest = layout.scales_px[0]
    step = height_width(layout.image_size)[1] / len(layout.levels[0].centres[0])
    backbone = " or backbone=vgg16 (8 px)" if step > 8 else ""
    finer = (
        f"cells smaller than {step:.0f} px, by a larger image_size{backbone}, help boxes smaller than {2 * step:.0f} px"
    )
    remedy = finer if fitted else f"fit_priors=true (the smallest prior has {smallest:.0f} px now); {finer}"
    return [f"priors match few boxes of: {_listed(poor)}", f"remedy: {remedy}"]


def _listed(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - _MAX_NAMED} more classes" if len(classes) > _MAX_NAMED else ""
    return ", ".join(classes[:_MAX_NAMED]) + more


def fit_priors(
    layout: PriorLayout, boxes: Float[np.ndarray, "M 4"], labels: Int[np.ndarray, "M"], *, seed: int
) -> PriorSpec:
    """The spec whose priors match the most boxes (xyxy fractions) and overlap them best.

    One number is improved at a time, and a number that does not help stays: coarse levels keep their scales if no box
    is large. A class weighs as the square root of its number of boxes.
    """
    chosen = np.random.default_rng(seed).permutation(len(boxes))[:_FIT_BOXES]
    boxes, labels = boxes[chosen].astype(np.float64), labels[chosen]
    weights = 1 / np.sqrt(np.bincount(labels)[labels])
    weights /= weights.sum()

    def score(candidate: PriorSpec) -> float:
        iou = best_iou(boxes, replace(layout, spec=candidate).levels)
        return float(weights @ (iou >= layout.match_threshold) + weights @ iou)

    spec, best = layout.spec, score(layout.spec)
    numbers = len(spec.scales) + max(map(len, spec.aspect_ratios), default=0)  # the n-th ratio is that of all levels
    for _ in range(_FIT_MAX_ROUNDS):
        before = best
        for number in range(numbers):
            scored = [(score(candidate), candidate) for candidate in _candidates(spec, number)]
            top, candidate = max(scored, key=itemgetter(0), default=(best, spec))
            if top > best + _FIT_MIN_GAIN:
                best, spec = top, candidate
        if best == before:
            break
    return spec


def _candidates(spec: PriorSpec, number: int) -> Iterator[PriorSpec]:
    """The spec with other values for one of its numbers: the scales come first, then the ratios."""
    scales = list(spec.scales)
    if number < len(scales):
        low = scales[number - 1] * _MIN_SCALE_RATIO if number else _SCALE_RANGE[0]
        last = number + 1 == len(scales)
        high = max(_SCALE_RANGE[1], scales[-1]) if last else scales[number + 1] / _MIN_SCALE_RATIO
        for scale in np.geomspace(low, high, _FIT_STEPS).round(4).tolist() if low < high else ():
            yield replace(spec, scales=[*scales[:number], scale, *scales[number + 1 :]])
        return
    slot = number - len(scales)
    used = {ratio for ratios in spec.aspect_ratios for ratio in ratios}
    for value in sorted(set(_RATIOS) - used):
        ratios = [[value if place == slot else ratio for place, ratio in enumerate(old)] for old in spec.aspect_ratios]
        yield replace(spec, aspect_ratios=ratios)


def write_priors(spec: PriorSpec, path: Path, *, comments: Sequence[str]) -> None:
    """Writes the arguments of `spec` as YAML, below `comments`."""
    head = "".join(f"# {' '.join(line.split())}\n" for line in comments)
    values = yaml.safe_dump(spec.as_dict(), sort_keys=False, default_flow_style=None, width=120)
    write_atomically(path, head + values)
