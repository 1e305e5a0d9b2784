"""Encodes boxes as offsets against priors, decodes them, and defines the columns of the classification logits.

The only module that knows the variances and that column 0 of the logits is background.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ssd.model.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

VARIANCES = (0.1, 0.2)
BACKGROUND = 0
IGNORED = -1  # a class target, not a column: the prior is neither positive nor negative
MIN_SIDE = 1e-6
MAX_LOG_SCALE = math.log(1000 / 16)  # torchvision's cap: exp() of an extreme prediction stays finite

Label = TypeVar("Label", int, Tensor)


def num_columns(num_classes: int) -> int:
    """Number of logits per prior: background and the classes."""
    return BACKGROUND + 1 + num_classes


def class_column(label: Label) -> Label:
    """Column of the logits for a label 0..C-1, or for a tensor of labels."""
    return BACKGROUND + 1 + label


def foreground(scores: Float[Tensor, "*N C1"]) -> Float[Tensor, "*N C1-1"]:
    """Drops the background column."""
    return scores[..., BACKGROUND + 1 :]


def encode(boxes_xyxy: Float[Tensor, "*N 4"], priors_cxcywh: Float[Tensor, "*#N 4"]) -> Float[Tensor, "*N 4"]:
    """Offsets that turn priors into boxes: ((g - p) / p_size) / 0.1 and log(g_size / p_size) / 0.2.

    Sides are clamped to at least 1e-6, so an empty box also has finite offsets.

    Source: SSD paper, equation 2, with the variances of the Caffe code.
    """
    boxes = xyxy_to_cxcywh(boxes_xyxy)
    centre = (boxes[..., :2] - priors_cxcywh[..., :2]) / priors_cxcywh[..., 2:] / VARIANCES[0]
    size = (boxes[..., 2:].clamp(min=MIN_SIDE) / priors_cxcywh[..., 2:]).log() / VARIANCES[1]
    return torch.cat((centre, size), dim=-1)


def decode(offsets: Float[Tensor, "*N 4"], priors_cxcywh: Float[Tensor, "*#N 4"]) -> Float[Tensor, "*N 4"]:
    """Inverse of `encode`: xyxy boxes, not clipped to the image."""
    centre = priors_cxcywh[..., :2] + offsets[..., :2] * VARIANCES[0] * priors_cxcywh[..., 2:]
    size = priors_cxcywh[..., 2:] * (offsets[..., 2:] * VARIANCES[1]).clamp(max=MAX_LOG_SCALE).exp()
    return cxcywh_to_xyxy(torch.cat((centre, size), dim=-1))
