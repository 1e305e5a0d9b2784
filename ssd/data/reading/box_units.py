"""Units of the boxes in the files of a format: finds fractions among pixels, and pixels among fractions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from ssd.data.validation import Report

_MIXED_SHARE = 0.01  # of boxes that look like fractions, up to which they are taken for tiny boxes
_FAR_OUTSIDE = 2.0  # a fraction above this is no box that is a little too large


@dataclass(frozen=True, slots=True)
class BoxUnits:
    """What the numbers of a box are; `first_pixel` is the left or upper edge of the image, in pixels."""

    kind: Literal["pixels", "fractions"] = "pixels"
    first_pixel: float = 0.0


def check_units(
    boxes: Float[np.ndarray, "M 4"], units: BoxUnits, report: Report, *, locate: Callable[[int], str]
) -> BoxUnits:
    """The units that the boxes (xyxy, as in the files) really have.

    Args:
        boxes: of all images.
        units: of the format.
        report: gets a warning if all boxes are fractions instead of pixels, which are then read as such; and an error
            for boxes in the wrong units that cannot be converted for certain.
        locate: file and line of a box.
    """
    if units.kind == "fractions":
        far = np.flatnonzero((boxes > _FAR_OUTSIDE).any(axis=1))
        if len(far) * 2 > len(boxes):
            rule = f"{len(far)} of {len(boxes)} boxes are above {_FAR_OUTSIDE:g}: pixels, not fractions; convert them"
            report.add(locate(int(far[0])), rule, value=_text(boxes[far[0]]), fatal=True)
        return units
    inside = ((boxes >= 0) & (boxes <= 1)).all(axis=1)  # of the first pixel
    rows = np.flatnonzero(inside & (boxes != np.rint(boxes)).any(axis=1))
    if len(rows) and inside.all():
        rule = f"all {len(boxes)} boxes are fractions of the image, where the format has pixels; read as fractions"
        report.add(locate(int(rows[0])), rule, value=_text(boxes[rows[0]]))
        return BoxUnits("fractions")
    if len(rows) > _MIXED_SHARE * len(boxes):
        for row in rows.tolist():
            rule = "box inside the first pixel: a fraction, where other boxes have pixels; convert it"
            report.add(locate(row), rule, value=_text(boxes[row]), fatal=True)
    return units


def _text(box: Float[np.ndarray, "4"]) -> str:
    return f"({', '.join(f'{edge:.6g}' for edge in box)})"
