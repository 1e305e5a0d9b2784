"""The interface that the PyTorch and the ONNX predictor share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ssd.common.images import ImageArray
from ssd.common.structures import Detections

DRAW_THRESHOLD = 0.3  # for a detector without thresholds of its own
_MAX_SHOWN = 12  # thresholds in a line


@runtime_checkable
class Predictor(Protocol):
    """A detector in some runtime."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The C classes, in the order of the labels."""

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Of each class the score with the best F1 on the validation images; None if the file has none."""

    def __call__(self, images: Sequence[ImageArray]) -> list[Detections]:
        """Detections of each image (uint8 RGB HWC, upright), on the CPU; boxes are fractions of the image."""


def thresholds_of(predictor: Predictor, given: float | None) -> Float[Tensor, "C"]:
    """Of each class the score above which a box is shown: the `given` one, or the detector's, or DRAW_THRESHOLD."""
    if given is None and predictor.thresholds is not None:
        return torch.tensor(predictor.thresholds)
    return torch.full((len(predictor.class_names),), DRAW_THRESHOLD if given is None else given)


def describe_thresholds(class_names: Sequence[str], thresholds: Sequence[float]) -> str:
    """In one line; of many classes, of the first ones."""
    shown = [f"{name} {value:.2f}" for name, value in zip(class_names, thresholds, strict=True)]
    more = f" and {len(shown) - _MAX_SHOWN} more" if len(shown) > _MAX_SHOWN else ""
    return ", ".join(shown[:_MAX_SHOWN]) + more
