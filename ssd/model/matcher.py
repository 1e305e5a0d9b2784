"""Between objects and priors: match, encode, decode.

The only place that knows the variances and that column 0 of the logits is background. Everything works on the whole
batch at once, on the device, without waiting for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ssd.model.box_coder import _MIN_SIDE, BACKGROUND, IGNORED
from ssd.model.boxes import area, cxcywh_to_xyxy, intersection, pairwise_iou
from ssd.model.structures import PADDING_LABEL

_OFF_IMAGE = -2.0  # an empty box here overlaps nothing
_CHUNK_BYTES = {"cpu": 2**22, "cuda": 2**28}  # of one overlap table: the CPU's fits its cache
_MAX_CONTEST_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Targets:
    """What each prior shall predict.

    `columns` are columns of the logits: BACKGROUND, 1..C for a positive, IGNORED for a prior that counts as neither.
    `objects` index the object that a positive stands for; of no meaning elsewhere. `best_iou` is that of each object
    with the prior nearest to it: under the threshold, it has only the prior that is forced on it.
    """

    columns: Int64[Tensor, "B P"]
    objects: Int64[Tensor, "B P"]
    best_iou: Float[Tensor, "B G"]


@torch.no_grad()
def match(
    boxes_xyxy: Float[Tensor, "B G 4"],
    labels: Int64[Tensor, "B G"],
    *,
    ignore: Bool[Tensor, "B G"],
    priors_cxcywh: Float[Tensor, "P 4"],
    iou_threshold: float,
) -> Targets:
    """Assigns objects to priors.

    A prior is positive for the object that it overlaps most, if by `iou_threshold` or more. Before that each object
    gets a prior of its own: pairs are taken greedily by falling IoU, one to one, so that overlapping objects do not
    take each other's (Caffe's rule; in a chain of more than 8 objects that want the same priors the last get none).
    A prior of which an ignored object covers `iou_threshold` or more counts as neither positive nor negative.
    """
    priors_xyxy = cxcywh_to_xyxy(priors_cxcywh)
    real = (labels != PADDING_LABEL) & ~ignore
    overlaps = _overlaps(_hide(boxes_xyxy, ~real), priors_xyxy)
    best_object, best_iou = _force(overlaps.best_object, overlaps.best_iou, _own_priors(overlaps))
    positive = best_iou >= iou_threshold

    columns = torch.where(positive, F.pad(labels, (0, 1)).gather(1, best_object) + 1, BACKGROUND)
    if not _surely_none(ignore):
        covered = _covered(_hide(boxes_xyxy, ~ignore), priors_xyxy, threshold=iou_threshold)
        columns.masked_fill_(covered & ~positive, IGNORED)
    return Targets(columns, best_object, overlaps.best_prior_iou)


def _hide(boxes: Float[Tensor, "B G 4"], mask: Bool[Tensor, "B G"]) -> Float[Tensor, "B G 4"]:
    return boxes.masked_fill(mask[..., None], _OFF_IMAGE)


def _surely_none(mask: Tensor) -> bool:
    """True if surely no element is set. A look costs nothing on the CPU; on a GPU it would wait for the device."""
    return mask.device.type == "cpu" and not bool(mask.any())


@dataclass(frozen=True, slots=True)
class _Overlaps:
    """IoU of each pair, with a last column of -1 for "no prior"; the best of each row and of each column."""

    iou: Float[Tensor, "B G P1"]
    best_iou: Float[Tensor, "B P"]
    best_object: Int64[Tensor, "B P"]
    best_prior_iou: Float[Tensor, "B G"]
    best_prior: Int64[Tensor, "B G"]


def _overlaps(boxes: Float[Tensor, "B G 4"], priors: Float[Tensor, "P 4"]) -> _Overlaps:
    """Works in chunks of objects that stay in cache, and writes each IoU to memory once."""
    batch, objects, _ = boxes.shape
    found = _Overlaps(
        iou=boxes.new_empty(batch, objects, len(priors) + 1),
        best_iou=boxes.new_full((batch, len(priors)), -1.0),
        best_object=torch.zeros(batch, len(priors), dtype=torch.int64, device=boxes.device),
        best_prior_iou=boxes.new_empty(batch, objects),
        best_prior=torch.empty(batch, objects, dtype=torch.int64, device=boxes.device),
    )
    found.iou[..., -1] = -1
    for start, stop in _chunks(objects, row_bytes=batch * len(priors) * 4, device=boxes.device):
        chunk = found.iou[:, start:stop, :-1]
        pairwise_iou(boxes[:, start:stop], priors, out=chunk)
        torch.max(chunk, dim=2, out=(found.best_prior_iou[:, start:stop], found.best_prior[:, start:stop]))
        for index in range(stop - start):
            better = chunk[:, index] > found.best_iou
            torch.maximum(found.best_iou, chunk[:, index], out=found.best_iou)
            found.best_object.masked_fill_(better, start + index)
    return found


def _chunks(objects: int, *, row_bytes: int, device: torch.device) -> list[tuple[int, int]]:
    size = max(1, _CHUNK_BYTES.get(device.type, 2**28) // max(1, row_bytes))
    return [(start, min(start + size, objects)) for start in range(0, objects, size)]


def _own_priors(overlaps: _Overlaps) -> Int64[Tensor, "B G"]:
    """Greedy one-to-one assignment by falling IoU; P where an object gets none. Consumes `overlaps.iou`.

    In a round every pair that is best both for its object and for its prior is taken at once: the outcome is that of
    taking one pair after the other, in as many rounds as the longest chain of objects that want the same prior.
    """
    iou, wish_iou, wish = overlaps.iou, overlaps.best_prior_iou, overlaps.best_prior
    objects, no_prior = iou.shape[1], iou.shape[2] - 1
    own = torch.full_like(wish, no_prior)
    wants = wish_iou > 0
    earlier = torch.ones(objects, objects, dtype=torch.bool, device=iou.device).triu(1)  # [h, g]: h before g
    for _ in range(min(objects, _MAX_CONTEST_ROUNDS)):
        # rival[b, h, g]: the IoU of object h with the prior that g wishes for
        rival = iou.gather(2, wish[:, None].expand(-1, objects, -1)).masked_fill_(~wants[:, :, None], -1)
        beaten = (rival > wish_iou[:, None]) | ((rival == wish_iou[:, None]) & earlier)
        wins = wants & ~beaten.any(dim=1)
        own = torch.where(wins, wish, own)
        wants = wants & ~wins
        if _surely_none(wants):
            break
        taken = torch.where(wins, wish, no_prior)
        iou.scatter_(2, taken[:, None].expand(-1, objects, -1), -1.0)
        wish_iou, wish = _next_wishes(iou, wants, wish_iou, wish)
        wants = wants & (wish_iou > 0)
    return own


def _next_wishes(
    iou: Float[Tensor, "B G P1"], wants: Bool[Tensor, "B G"], wish_iou: Float[Tensor, "B G"], wish: Int64[Tensor, "B G"]
) -> tuple[Float[Tensor, "B G"], Int64[Tensor, "B G"]]:
    """The best prior left for each object that still wants one; on the CPU the others' rows are not read."""
    if iou.device.type != "cpu":
        best_iou, best = iou.max(dim=2)
        return best_iou, best
    rows = wants.nonzero(as_tuple=True)
    best_iou, best = iou[rows].max(dim=1)
    return wish_iou.index_put(rows, best_iou), wish.index_put(rows, best)


def _force(
    best_object: Int64[Tensor, "B P"], best_iou: Float[Tensor, "B P"], own_prior: Int64[Tensor, "B G"]
) -> tuple[Int64[Tensor, "B P"], Float[Tensor, "B P"]]:
    """Gives each object its own prior, whatever the IoU."""
    objects = torch.arange(own_prior.shape[1], device=own_prior.device).expand_as(own_prior)
    best_object = F.pad(best_object, (0, 1)).scatter_(1, own_prior, objects)[:, :-1]
    best_iou = F.pad(best_iou, (0, 1)).scatter_(1, own_prior, 1.0)[:, :-1]
    return best_object, best_iou


def _covered(boxes: Float[Tensor, "B G 4"], priors: Float[Tensor, "P 4"], *, threshold: float) -> Bool[Tensor, "B P"]:
    """Where a box covers `threshold` or more of a prior's area."""
    covered = torch.zeros(len(boxes), len(priors), dtype=torch.bool, device=boxes.device)
    least = area(priors).clamp(min=_MIN_SIDE**2) * threshold
    for start, stop in _chunks(boxes.shape[1], row_bytes=covered.numel() * 4, device=boxes.device):
        covered |= (intersection(boxes[:, start:stop], priors) >= least).any(dim=1)
    return covered
