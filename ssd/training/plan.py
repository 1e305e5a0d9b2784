"""The training plan: from facts about the data to the settings that are `auto`, each with its reason.

The rules look at numbers of images and steps and at the sizes of boxes, never at names, and never at the speed of the
machine: the same data gives the same recipe everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ssd.common.image_size import ImageSize, height_width
from ssd.common.tables import Table
from ssd.data.index import DetectionIndex

AUTO = "auto"

_SIZES_PX = (300, 384, 512)
_SMALL_CELLS = 1.5  # side, in cells of the finest grid, that a quarter of the boxes may be below
_FINE_PX, _FINE_SHARE = 32.0, 0.1  # two cells of 16 pixels; the share of smaller boxes from which they are too coarse
_MAX_ENLARGED = 1.5  # larger than the images themselves shows no more
_BATCH_SIZES = ((1_000, 8), (5_000, 16))  # fewer images than -> images per step
_LARGEST_BATCH = 32
_LR = {"adam": 1e-3, "sgd": 5e-3}  # for batches of 8 to 32
_PASSES, _PASSES_FROM_RANDOM = 60, 150
_MIN_STEPS, _MIN_STEPS_FROM_RANDOM = 1_200, 3_000
_MAX_STEPS = 120_000  # the paper's
VALIDATIONS = 20
FIXED: dict[str, Any] = {  # with plan=false; image size and priors are the backbone's
    "batch_size": 32,
    "optimizer.lr": 1e-3,
    "epochs": 30,
    "validations": VALIDATIONS,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFacts:
    """What the plan knows of the training images.

    `sides` are the square roots of the areas of the M boxes that count, as fractions of the image, ascending;
    `weights` are those of the boxes, so that all classes weigh the same, with a sum of 1; `image_side_px` is the median
    square root of the areas of the images; `pretrained` says whether the base net starts from weights.
    """

    images: int
    classes: int
    sides: Float[np.ndarray, "M"]
    weights: Float[np.ndarray, "M"]
    image_side_px: float
    pretrained: bool

    @classmethod
    def of(cls, index: DetectionIndex, *, pretrained: bool) -> DataFacts:
        """The facts of a training split."""
        boxes, labels = index.boxes[~index.ignore].astype(np.float64), index.labels[~index.ignore]
        sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
        order = np.argsort(sides, kind="stable")
        weights = 1 / np.bincount(labels)[labels[order]] if len(labels) else np.zeros(0)
        image_side = float(np.median(np.sqrt(index.sizes.astype(np.float64).prod(axis=1)))) if len(index) else 0.0
        return cls(
            images=len(index),
            classes=len(index.class_names),
            sides=sides[order],
            weights=weights / max(1.0, weights.sum()),
            image_side_px=image_side,
            pretrained=pretrained,
        )


@dataclass(frozen=True, slots=True)
class PlanLine:
    """A setting that the plan decides, its value, and the reason."""

    setting: str
    value: Any
    reason: str


def plan_table(lines: Sequence[PlanLine]) -> Table:
    """The plan as it is printed."""
    rows = [[line.setting, _shown(line.value), line.reason] for line in lines]
    return Table("plan", ["setting", "value", "why"], rows)


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "fitted" if value else "as published"
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


def plan_image_size(facts: DataFacts, *, default: int, stride_px: float) -> PlanLine:
    """The backbone's own size, or the larger one at which a quarter of the boxes of a class is not under 1.5 cells.

    Args:
        facts: of the data.
        default: the backbone's own size.
        stride_px: side of the cells of the finest grid, the same at each size.
    """
    if not len(facts.sides):
        return PlanLine("image_size", default, "the backbone's")
    quarter = float(facts.sides[np.searchsorted(facts.weights.cumsum(), 0.25)])
    most = max(default, _MAX_ENLARGED * facts.image_side_px)
    sizes = [size for size in (default, *_SIZES_PX) if default <= size <= most]
    enough = [size for size in sizes if quarter * size >= _SMALL_CELLS * stride_px]
    size = min(enough) if enough else max(sizes)
    at_default = f"a quarter of the boxes is under {quarter * default:.0f} px at {default}; cells have {stride_px:.0f}"
    return PlanLine("image_size", size, "the backbone's" if size == default else at_default)


def plan_first_stride(facts: DataFacts, *, image_size: ImageSize) -> PlanLine:
    """A finer grid where boxes lie so close, or are so small, that cells of 16 pixels cannot hold them apart."""
    small = float(facts.weights[facts.sides * math.sqrt(math.prod(height_width(image_size))) < _FINE_PX].sum())
    reason = f"{small:.0%} of the boxes of a class, on average, are under {_FINE_PX:.0f} px at {image_size}"
    return PlanLine("backbone.first_stride", 8 if small > _FINE_SHARE else 16, reason)


def plan_batch_size(facts: DataFacts) -> PlanLine:
    """Small sets learn from many steps rather than from large batches."""
    size = next((size for images, size in _BATCH_SIZES if facts.images < images), _LARGEST_BATCH)
    return PlanLine("batch_size", size, f"{facts.images} training images")


def plan_lr(optimizer: str) -> PlanLine:
    """By the class of the optimizer."""
    kind = "sgd" if optimizer.rpartition(".")[2] in ("SGD", "RMSprop") else "adam"
    return PlanLine("optimizer.lr", _LR[kind], f"{optimizer.rpartition('.')[2]}, batches of 8 to 32")


def plan_steps(facts: DataFacts, *, batch_size: int) -> PlanLine:
    """Passes over the images, within bounds: a small set needs more passes, as a network needs some steps to adapt."""
    start = "from weights" if facts.pretrained else "from random weights"
    passes = _PASSES if facts.pretrained else _PASSES_FROM_RANDOM
    least = _MIN_STEPS if facts.pretrained else _MIN_STEPS_FROM_RANDOM
    steps = math.ceil(passes * facts.images / batch_size)
    if steps < least:
        passes = round(least * batch_size / max(1, facts.images))
        return PlanLine("steps", least, f"the least {start}; each image is seen {passes} times")
    if steps > _MAX_STEPS:
        passes = round(_MAX_STEPS * batch_size / facts.images)
        return PlanLine("steps", _MAX_STEPS, f"the most; each image is seen {passes} times")
    rounded = math.ceil(steps / VALIDATIONS) * VALIDATIONS
    return PlanLine("steps", rounded, f"{passes} passes over {facts.images} images, {start}")


def plan_validations(steps: int) -> PlanLine:
    """How often val is measured; the number of steps between them is whole where it can be."""
    candidates = sorted(range(1, min(steps, 2 * VALIDATIONS) + 1), key=lambda number: abs(number - VALIDATIONS))
    number = next((number for number in candidates if number >= VALIDATIONS // 2 and steps % number == 0), None)
    number = number or min(steps, VALIDATIONS)
    return PlanLine("validations", number, f"one after each {math.ceil(steps / number)} steps")
