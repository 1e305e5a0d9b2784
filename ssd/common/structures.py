"""The types that are passed between data, model, training and evaluation.

One letter per dimension, across the project: B batch, P priors, G ground-truth boxes of an image (padded to the largest
number in the batch), C classes without background (C1 is C + 1, as P1 is P + 1), D detections, S side of the square
network input in pixels, L feature levels, H and W rows and columns.

Boxes are `xyxy` fractions of the image everywhere: (x1, y1, x2, y2), x right, y down, 0..1. Pixels appear only at the
edges: files, drawing, the metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from ssd.common.images import ImageArray

PADDING_LABEL = -1


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of images and their ground truth, as the data loaders yield it.

    `labels` are 0..C-1, and PADDING_LABEL for padding. `ignore` marks objects that count as neither positive nor
    negative (VOC difficult, Open Images group-of, COCO crowd). `sizes` are the original (H, W) in pixels, upright.
    """

    images: UInt8[Tensor, "B 3 H W"]
    boxes: Float[Tensor, "B G 4"]
    labels: Int64[Tensor, "B G"]
    ignore: Bool[Tensor, "B G"]
    sizes: Int64[Tensor, "B 2"]
    ids: tuple[str, ...]

    def _map_tensors(self, function: Callable[[Tensor], Tensor]) -> Batch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        mapped: dict[str, Any] = {name: function(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **mapped)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Copies the tensors to `device`."""
        return self._map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Copies the tensors to page-locked memory; called by the data loader."""
        return self._map_tensors(Tensor.pin_memory)


@dataclass(frozen=True, slots=True)
class Predictions:
    """Raw network output: logits (column 0 is background) and variance-scaled offsets against the priors."""

    logits: Float[Tensor, "B P C1"]
    offsets: Float[Tensor, "B P 4"]


@dataclass(frozen=True, slots=True)
class Detections:
    """The detections of one image, in order of descending score; labels are 0..C-1."""

    boxes: Float[Tensor, "D 4"]
    scores: Float[Tensor, "D"]
    labels: Int64[Tensor, "D"]

    def __len__(self) -> int:
        return len(self.scores)

    def to(self, device: torch.device | str) -> Detections:
        """Copies to `device`."""
        return Detections(self.boxes.to(device), self.scores.to(device), self.labels.to(device))

    def where(self, keep: Bool[Tensor, "D"]) -> Detections:
        """The detections selected by the mask `keep`."""
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep])

    def above(self, score_threshold: float | Float[Tensor, "C"]) -> Detections:
        """The detections with a score above `score_threshold`, or above that of their class."""
        return self.where(self.is_above(score_threshold))

    def is_above(self, score_threshold: float | Float[Tensor, "C"]) -> Bool[Tensor, "D"]:
        """Which detections have a score above `score_threshold`, or above that of their class."""
        return self.scores > (score_threshold[self.labels] if isinstance(score_threshold, Tensor) else score_threshold)

    def first(self, count: int | None) -> Detections:
        """The `count` detections with the highest scores; None keeps all."""
        return Detections(self.boxes[:count], self.scores[:count], self.labels[:count])


Predict = Callable[[Sequence[ImageArray]], list[Detections]]  # a predictor, or a plain function with its call
