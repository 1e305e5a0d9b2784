"""Boxes whose annotation was written for another frame than the image: before its EXIF rotation, or at another size.

Tools draw boxes on the pixels as stored or as displayed, and images are resized after they were labelled. The size in
the annotation shows what the boxes refer to.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import numpy as np
from jaxtyping import Float64

_TOLERANCE_PX = 1.001
_UPRIGHT_OF_TRANSPOSED: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # columns x1, y1, x2, y2 in fractions
    5: lambda boxes: boxes[:, [1, 0, 3, 2]],
    6: lambda boxes: np.column_stack((1 - boxes[:, 3], boxes[:, 0], 1 - boxes[:, 1], boxes[:, 2])),
    7: lambda boxes: 1 - boxes[:, [3, 2, 1, 0]],
    8: lambda boxes: np.column_stack((boxes[:, 1], 1 - boxes[:, 2], boxes[:, 3], 1 - boxes[:, 0])),
}
Size = tuple[int, int]  # (H, W)


class Frame(Enum):
    """What the boxes of an annotation refer to, as the message about it."""

    IMAGE = ""
    STORED = "boxes drawn before the EXIF rotation of the image were rotated with it"
    RESIZED = "boxes drawn at another size of the image were rescaled"
    UNKNOWN = "size in the annotation differs from the image's, which is used"
    NEITHER = "box outside both the image and the size in the annotation; correct the box, or the size"


def to_fractions(
    boxes: Float64[np.ndarray, "M 4"], *, written: Size | None, size: Size, orientation: Callable[[], int]
) -> tuple[Float64[np.ndarray, "M 4"], Frame]:
    """The boxes (xyxy pixels of the frame of the annotation) in fractions of the upright image, and their frame.

    Args:
        boxes: 0 is the left or upper edge.
        written: size in the annotation; None if it has none.
        size: of the upright image.
        orientation: reads the EXIF orientation of the image, 1..8.
    """
    own = _scaled(boxes, size)
    if written is None or written == size:
        return own, Frame.IMAGE
    if _fit(boxes, written):
        if written == size[::-1] and (rotate := _UPRIGHT_OF_TRANSPOSED.get(orientation())):
            return rotate(_scaled(boxes, written)), Frame.STORED
        if _same_shape(written, size):
            return _scaled(boxes, written), Frame.RESIZED
        return own, Frame.UNKNOWN
    return own, Frame.UNKNOWN if _fit(boxes, size) else Frame.NEITHER


def _scaled(boxes: Float64[np.ndarray, "M 4"], size: Size) -> Float64[np.ndarray, "M 4"]:
    height, width = size
    return boxes / (width, height, width, height)


def _fit(boxes: Float64[np.ndarray, "M 4"], size: Size) -> bool:
    height, width = size
    beyond = np.concatenate((-boxes, boxes - (width, height, width, height)))
    return bool((beyond <= _TOLERANCE_PX).all())


def _same_shape(written: Size, size: Size) -> bool:
    """Whether resizing with rounded sides gives one from the other."""
    (height, width), (other_height, other_width) = sorted((written, size))
    return abs(width * other_height - height * other_width) <= max(other_height, other_width)
