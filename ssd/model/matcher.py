"""Matches ground-truth boxes to priors.

Works on the whole batch at once, on the device, without host synchronisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ssd.common.structures import PADDING_LABEL
from ssd.model.box_coder import BACKGROUND, IGNORED, MIN_SIDE, class_column
from ssd.model.boxes import area, cxcywh_to_xyxy, intersection, pairwise_iou

_OUTSIDE = -2.0  # an empty box at this coordinate overlaps nothing
_CHUNK_BYTES = {"cpu": 2**22, "cuda": 2**28}  # of one overlap table: the CPU's fits its cache
_MAX_BIPARTITE_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Targets:
    """The training targets of each prior.

    `class_targets` are columns of the logits: BACKGROUND, 1..C for a positive, or IGNORED. `matched_gt` is the index
    of the ground-truth box that a positive predicts; undefined for other priors. `best_iou` is the highest IoU of each
    ground-truth box with any prior: below `match_threshold`, the box has only the prior of the bipartite matching.
    """

    class_targets: Int64[Tensor, "B P"]
    matched_gt: Int64[Tensor, "B P"]
    best_iou: Float[Tensor, "B G"]
    match_threshold: float


@torch.no_grad()
def match(
    boxes_xyxy: Float[Tensor, "B G 4"],
    labels: Int64[Tensor, "B G"],
    *,
    ignore: Bool[Tensor, "B G"],
    priors_cxcywh: Float[Tensor, "P 4"],
    match_threshold: float,
) -> Targets:
    """Assigns ground-truth boxes to priors.

    First, bipartite matching gives each box one prior of its own: pairs are matched greedily in order of decreasing
    IoU, so that no box loses its prior to an overlapping one (Caffe's rule; in a chain of more than 8 boxes that
    compete for the same priors, the last ones get none). Then every other prior is positive for the box that it
    overlaps most, if their IoU is at least `match_threshold`. A prior whose area is covered by an ignored box to
    `match_threshold` or more is neither positive nor negative.

    Source: SSD paper, section 2.2, matching strategy.
    """
    priors_xyxy = cxcywh_to_xyxy(priors_cxcywh)
    valid = (labels != PADDING_LABEL) & ~ignore
    overlaps = _compute_overlaps(_move_outside(boxes_xyxy, ~valid), priors_xyxy)
    matched_prior = bipartite_match(overlaps)  # positive for its box, whatever their IoU
    gt = torch.arange(matched_prior.shape[1], device=matched_prior.device).expand_as(matched_prior)
    best_gt = F.pad(overlaps.best_gt, (0, 1)).scatter_(1, matched_prior, gt)[:, :-1]
    forced_iou = F.pad(overlaps.best_iou, (0, 1)).scatter_(1, matched_prior, 1.0)[:, :-1]
    positive = forced_iou >= match_threshold

    class_targets = torch.where(positive, class_column(F.pad(labels, (0, 1)).gather(1, best_gt)), BACKGROUND)
    if not _known_empty(ignore):
        covered = _covered(_move_outside(boxes_xyxy, ~ignore), priors_xyxy, threshold=match_threshold)
        class_targets.masked_fill_(covered & ~positive, IGNORED)
    return Targets(class_targets, best_gt, overlaps.best_prior_iou, match_threshold)


def _move_outside(boxes: Float[Tensor, "B G 4"], mask: Bool[Tensor, "B G"]) -> Float[Tensor, "B G 4"]:
    return boxes.masked_fill(mask[..., None], _OUTSIDE)


def _known_empty(mask: Tensor) -> bool:
    """Whether the mask is known to be all False. Checked on the CPU only: on a GPU it would synchronise."""
    return mask.device.type == "cpu" and not bool(mask.any())


@dataclass(frozen=True, slots=True)
class Overlaps:
    """IoU of each pair, with an extra last column of -1 for "no prior"; the maximum of each row and each column."""

    iou: Float[Tensor, "B G P1"]
    best_iou: Float[Tensor, "B P"]
    best_gt: Int64[Tensor, "B P"]
    best_prior_iou: Float[Tensor, "B G"]
    best_prior: Int64[Tensor, "B G"]


def _compute_overlaps(boxes: Float[Tensor, "B G 4"], priors: Float[Tensor, "P 4"]) -> Overlaps:
    """Works in chunks of boxes that stay in cache, and writes each IoU to memory once."""
    batch, num_gt, _ = boxes.shape
    overlaps = Overlaps(
        iou=boxes.new_empty(batch, num_gt, len(priors) + 1),
        best_iou=boxes.new_full((batch, len(priors)), -1.0),
        best_gt=torch.zeros(batch, len(priors), dtype=torch.int64, device=boxes.device),
        best_prior_iou=boxes.new_empty(batch, num_gt),
        best_prior=torch.empty(batch, num_gt, dtype=torch.int64, device=boxes.device),
    )
    overlaps.iou[..., -1] = -1
    for rows in _chunks(boxes, priors):
        chunk = pairwise_iou(boxes[:, rows], priors, out=overlaps.iou[:, rows, :-1])
        torch.max(chunk, dim=2, out=(overlaps.best_prior_iou[:, rows], overlaps.best_prior[:, rows]))
        for index, iou in enumerate(chunk.unbind(1), start=rows.start):
            better = iou > overlaps.best_iou
            torch.maximum(overlaps.best_iou, iou, out=overlaps.best_iou)
            overlaps.best_gt.masked_fill_(better, index)
    return overlaps


def _chunks(boxes: Float[Tensor, "B G 4"], priors: Float[Tensor, "P 4"]) -> list[slice]:
    batch, num_gt, _ = boxes.shape
    size = max(1, _CHUNK_BYTES.get(boxes.device.type, 2**28) // max(1, batch * len(priors) * 4))
    return [slice(start, start + size) for start in range(0, num_gt, size)]


def bipartite_match(overlaps: Overlaps) -> Int64[Tensor, "B G"]:
    """Greedy one-to-one matching in order of decreasing IoU: the prior of each box, or P for none.

    Overwrites `overlaps.iou`. Each round matches every pair that is the best one both for its box and for its prior.
    The result equals that of matching pair by pair, in as many rounds as the longest chain of competing boxes.
    """
    iou, best_iou, best = overlaps.iou, overlaps.best_prior_iou, overlaps.best_prior
    num_gt, no_prior = iou.shape[1], iou.shape[2] - 1
    matched_prior = torch.full_like(best, no_prior)
    unmatched = best_iou > 0
    earlier = torch.ones(num_gt, num_gt, dtype=torch.bool, device=iou.device).triu(1)  # [h, g]: h before g; breaks ties
    for _ in range(min(num_gt, _MAX_BIPARTITE_ROUNDS)):
        # competing[b, h, g]: the IoU of box h with the best prior of box g
        competing = iou.gather(2, best[:, None].expand(-1, num_gt, -1)).masked_fill_(~unmatched[:, :, None], -1)
        beaten = (competing > best_iou[:, None]) | ((competing == best_iou[:, None]) & earlier)
        wins = unmatched & ~beaten.any(dim=1)
        matched_prior = torch.where(wins, best, matched_prior)
        unmatched = unmatched & ~wins
        if _known_empty(unmatched):
            break
        taken = torch.where(wins, best, no_prior)
        iou.scatter_(2, taken[:, None].expand(-1, num_gt, -1), -1.0)
        if iou.device.type == "cpu":  # saves reading the rows of matched boxes
            rows = unmatched.nonzero(as_tuple=True)
            row_iou, row_best = iou[rows].max(dim=1)
            best_iou, best = best_iou.index_put(rows, row_iou), best.index_put(rows, row_best)
        else:
            best_iou, best = iou.max(dim=2)
        unmatched = unmatched & (best_iou > 0)
    return matched_prior


def _covered(boxes: Float[Tensor, "B G 4"], priors: Float[Tensor, "P 4"], *, threshold: float) -> Bool[Tensor, "B P"]:
    """Where a box covers at least `threshold` of the area of a prior."""
    covered = torch.zeros(len(boxes), len(priors), dtype=torch.bool, device=boxes.device)
    min_overlap = area(priors).clamp(min=MIN_SIDE**2) * threshold
    for rows in _chunks(boxes, priors):
        covered |= (intersection(boxes[:, rows], priors) >= min_overlap).any(dim=1)
    return covered
