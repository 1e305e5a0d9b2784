"""For comparisons with torchvision's SSD300: its pixel normalisation, and equality of detections in any order."""

from __future__ import annotations

import torch
from torch import Tensor

MEAN = [0.48235 * 255, 0.45882 * 255, 0.40784 * 255]  # of pixels 0..255
STD = [1.0, 1.0, 1.0]


def rows(labels: Tensor, scores: Tensor, boxes: Tensor) -> Tensor:
    """One row per detection; rows of different labels are far apart."""
    return torch.cat((10.0 * labels[:, None], scores[:, None], boxes), dim=1)


def assert_same_in_any_order(ours: Tensor, theirs: Tensor, *, atol: float) -> None:
    """Each row has an equal row in the other table; detections of equal score may be in any order."""
    assert ours.shape == theirs.shape
    distance = (ours[:, None] - theirs).abs().amax(dim=-1)
    assert distance.amin(dim=0).max() < atol
    assert distance.amin(dim=1).max() < atol
