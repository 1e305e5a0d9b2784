"""Between objects and priors: match, encode, decode.

The only place that knows the variances and that column 0 of the logits is background. Everything works on the whole
batch at once, on the device, without waiting for it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ssd.model.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

VARIANCES = (0.1, 0.2)
BACKGROUND = 0
IGNORED = -1
MAX_LOG_SCALE = math.log(1000 / 16)  # torchvision's cap: exp() of a wild prediction stays finite
_MIN_SIDE = 1e-6


def column(label: int) -> int:
    """The column of the logits that stands for a class."""
    return BACKGROUND + 1 + label


def foreground(scores: Float[Tensor, "*N C1"]) -> Float[Tensor, "*N C1-1"]:
    """Without the background column."""
    return scores[..., BACKGROUND + 1 :]


def encode(boxes_xyxy: Float[Tensor, "*N 4"], priors_cxcywh: Float[Tensor, "*#N 4"]) -> Float[Tensor, "*N 4"]:
    """Offsets that turn priors into boxes: ((g - p) / p_size) / 0.1 and log(g_size / p_size) / 0.2.

    Source: SSD paper, equation 2, with the variances of the Caffe code. Sides are held at 1e-6 or more, so that even
    an empty box has finite offsets.
    """
    boxes = xyxy_to_cxcywh(boxes_xyxy)
    centre = (boxes[..., :2] - priors_cxcywh[..., :2]) / priors_cxcywh[..., 2:] / VARIANCES[0]
    size = (boxes[..., 2:].clamp(min=_MIN_SIDE) / priors_cxcywh[..., 2:]).log() / VARIANCES[1]
    return torch.cat((centre, size), dim=-1)


def decode(offsets: Float[Tensor, "*N 4"], priors_cxcywh: Float[Tensor, "*#N 4"]) -> Float[Tensor, "*N 4"]:
    """Inverse of `encode`: xyxy boxes, not clipped to the image."""
    centre = priors_cxcywh[..., :2] + offsets[..., :2] * VARIANCES[0] * priors_cxcywh[..., 2:]
    size = priors_cxcywh[..., 2:] * (offsets[..., 2:] * VARIANCES[1]).clamp(max=MAX_LOG_SCALE).exp()
    return cxcywh_to_xyxy(torch.cat((centre, size), dim=-1))
