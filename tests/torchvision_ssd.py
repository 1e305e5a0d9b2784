"""torchvision's SSD300 as a yardstick: its weights under our names, and its detections beside ours."""

from __future__ import annotations

import re

import torch
from torch import Tensor

MEAN = [0.48235 * 255, 0.45882 * 255, 0.40784 * 255]  # what torchvision subtracts, on 0..255; the deviation is 1
STD = [1.0, 1.0, 1.0]

_RENAMES = (
    (r"backbone\.features\.(\d+)\.", lambda found: f"backbone.base.{found[1]}."),
    (r"backbone\.scale_weight", lambda found: "backbone.conv4_3_norm.weight"),
    (r"backbone\.extra\.0\.7\.(\d+)\.", lambda found: f"backbone.base.{int(found[1]) + 30}."),  # fc6, fc7
    (r"backbone\.extra\.0\.(\d+)\.", lambda found: f"backbone.base.{int(found[1]) + 23}."),  # pool4, conv5
    (r"backbone\.extra\.(\d+)\.", lambda found: f"backbone.extras.{int(found[1]) - 1}."),
    (r"head\.classification_head\.module_list\.", lambda found: "classification_heads."),
    (r"head\.regression_head\.module_list\.", lambda found: "localization_heads."),
)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of torchvision's ssd300_vgg16 under our names."""
    return {_rename(name): tensor for name, tensor in state.items()}


def _rename(name: str) -> str:
    for pattern, rename in _RENAMES:
        if found := re.match(pattern, name):
            return rename(found) + name[found.end() :]
    raise KeyError(name)


def rows(labels: Tensor, scores: Tensor, boxes: Tensor) -> Tensor:
    """One row a detection; those of different labels lie far apart."""
    return torch.cat((10.0 * labels[:, None], scores[:, None], boxes), dim=1)


def assert_same_in_any_order(ours: Tensor, theirs: Tensor, *, atol: float) -> None:
    """Each row has its like in the other table (equal scores may come in any order)."""
    assert ours.shape == theirs.shape
    distance = (ours[:, None] - theirs).abs().amax(dim=-1)
    assert distance.amin(dim=0).max() < atol
    assert distance.amin(dim=1).max() < atol
