"""Box arithmetic on tensors of shape [..., 4]."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def cxcywh_to_xyxy(boxes_cxcywh: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """Centre and size to corners."""
    centre, size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:]
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """Corners to centre and size."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def area(boxes_xyxy: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """Area; 0 for an inverted box."""
    width, height = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def intersection(a_xyxy: Float[Tensor, "*N A 4"], b_xyxy: Float[Tensor, "*#N B 4"]) -> Float[Tensor, "*N A B"]:
    """Overlap area of each pair. Works coordinate by coordinate and in place: matching spends most of its time here."""
    ax1, ay1, ax2, ay2 = a_xyxy.unsqueeze(-2).unbind(-1)
    bx1, by1, bx2, by2 = b_xyxy.unsqueeze(-3).unbind(-1)
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0)
    return width.mul_(height)


def pairwise_iou(
    a_xyxy: Float[Tensor, "*N A 4"], b_xyxy: Float[Tensor, "*#N B 4"], *, out: Float[Tensor, "*N A B"] | None = None
) -> Float[Tensor, "*N A B"]:
    """Intersection over union of each pair, written to `out` if given; 0 where the union is empty.

    No epsilon: boxes are fractions of the image, and 1e-5 would give a 1% x 1% box an IoU of 0.909 with itself.
    """
    overlap = intersection(a_xyxy, b_xyxy)
    union = (area(a_xyxy).unsqueeze(-1) + area(b_xyxy).unsqueeze(-2)).sub_(overlap)
    return torch.div(overlap, union.clamp_(min=torch.finfo(union.dtype).tiny), out=out)
