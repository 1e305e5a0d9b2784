"""The interface that the PyTorch and the ONNX predictor share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ssd.common.images import ImageArray
from ssd.common.structures import Detections


@runtime_checkable
class Predictor(Protocol):
    """A detector in some runtime."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The C classes, in the order of the labels."""

    def __call__(self, images: Sequence[ImageArray]) -> list[Detections]:
        """Detections of each image (uint8 RGB HWC, upright), on the CPU; boxes are fractions of the image."""
