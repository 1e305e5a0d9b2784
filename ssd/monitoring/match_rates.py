"""How well priors meet objects in training: positives of each level, objects without a good prior, hard negatives."""

from __future__ import annotations

import torch

from ssd.coder import BACKGROUND
from ssd.losses import Losses
from ssd.model import SSD
from ssd.structures import PADDING_LABEL, Batch


@torch.no_grad()
def match_rates(losses: Losses, batch: Batch, model: SSD, *, iou_threshold: float) -> dict[str, float]:
    """Numbers of one batch. Waits for the device: for steps that are logged.

    `positives` are means over the pictures; `objects_matched` is the share of objects that have a prior,
    `objects_over_iou` the share that a prior overlaps by the threshold: the rest have only one that is forced on them.
    """
    positive = losses.targets.columns > BACKGROUND
    cells = [
        rows * columns * count for (rows, columns), count in zip(model.grids, model.prior_spec.per_cell, strict=True)
    ]
    levels = [part.sum() / len(positive) for part in positive.split(cells, dim=1)]
    real = (batch.labels != PADDING_LABEL) & ~batch.ignore
    objects = real.sum()
    priors = torch.zeros_like(batch.labels)
    if priors.numel():
        priors.scatter_add_(1, losses.targets.objects, positive.long())
    near = losses.targets.best_iou >= iou_threshold
    names = [
        "positives",
        *(f"positives_level_{level}" for level in range(1, len(levels) + 1)),
        "negatives_per_positive",
    ]
    values = [losses.positives / len(positive), *levels, losses.negatives / losses.positives]
    shares = {"objects_matched": priors > 0, "objects_over_iou": near}
    stacked = torch.stack([*values, *((real & mask).sum() / objects for mask in shares.values())]).tolist()
    named = zip([*names, *shares], stacked, strict=True)
    return {f"matching/{name}": value for name, value in named if value == value}  # no object: undefined
