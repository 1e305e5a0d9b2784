"""Numbers about a training step, the averaged weights and the machine, for TensorBoard."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from pathlib import Path

import torch

from ssd.common.structures import PADDING_LABEL, Batch
from ssd.data.datamodule import DetectionDataModule
from ssd.data.dataset import DetectionDataset, collate
from ssd.evaluation.matching import COCO_POINTS, ImageResult, average_precision, match_coco, mean_over_classes
from ssd.evaluation.metrics import image_results
from ssd.model.box_coder import BACKGROUND
from ssd.model.loss import Losses
from ssd.model.ssd import SSD
from ssd.training.lightning_module import SSDModule

_GB = 1e9


@torch.no_grad()
def match_rates(losses: Losses, batch: Batch, model: SSD, *, match_threshold: float) -> dict[str, float]:
    """Statistics of the matching in one batch. Makes the host wait for the device: only for steps that are logged.

    Returns:
        `matching/positives` (and `_level_N`): mean number per image. `negatives_per_positive`. `objects_matched`:
        fraction of the objects that have a prior. `objects_over_iou`: fraction whose best prior reaches the threshold;
        the others have only the prior that bipartite matching assigns. Undefined values are left out.
    """
    positive = losses.targets.class_targets > BACKGROUND
    per_level = [math.prod(grid) * count for grid, count in zip(model.grids, model.prior_spec.per_cell, strict=True)]
    levels = [part.sum() / len(positive) for part in positive.split(per_level, dim=1)]
    real = (batch.labels != PADDING_LABEL) & ~batch.ignore
    priors = torch.zeros_like(batch.labels)
    if priors.numel():
        priors.scatter_add_(1, losses.targets.matched_gt, positive.long())
    values = {
        "positives": losses.positives / len(positive),
        **{f"positives_level_{level}": count for level, count in enumerate(levels, start=1)},
        "negatives_per_positive": losses.negatives / losses.positives,
        "objects_matched": (real & (priors > 0)).sum() / real.sum(),
        "objects_over_iou": (real & (losses.targets.best_iou >= match_threshold)).sum() / real.sum(),
    }
    numbers = zip(values, torch.stack(list(values.values())).tolist(), strict=True)  # one transfer
    return {f"matching/{name}": value for name, value in numbers if value == value}  # NaN: no object


@torch.no_grad()
def compare_weights(
    module: SSDModule, data: DetectionDataModule, averaged: Mapping[str, ImageResult]
) -> dict[str, float]:
    """mAP and mAP@0.5 of the averaged weights and of the raw ones in `module`; empty if the images have no objects.

    Args:
        averaged: results of the averaged weights on some validation images, by id.
    """
    index = data.splits.val
    assert index is not None
    if not any((~result.ignore).any() for result in averaged.values()):
        return {}
    positions = [position for position, id in enumerate(index.ids) if id in averaged]
    dataset = DetectionDataset(index, data.eval_augmentation, seed=data.seed)
    raw: list[ImageResult] = []
    for start in range(0, len(positions), data.batch_size):
        batch = collate([dataset[0, position] for position in positions[start : start + data.batch_size]])
        batch = batch.to(module.device)
        raw += image_results(module.postprocess(module.model(batch.images), module.model.priors), batch)
    values: dict[str, float] = {}
    for weights, results in (("average", list(averaged.values())), ("raw", raw)):
        matches = match_coco(results, len(index.class_names))
        ap = mean_over_classes(average_precision(matches, points=COCO_POINTS)[0])
        values |= {f"ema/map_{weights}": float(ap.mean()), f"ema/map_50_{weights}": float(ap[0])}
    return values


def memory_use() -> dict[str, float]:
    """Resident memory of the process, and the peak on the GPU, in GB."""
    values = {}
    if torch.cuda.is_available():
        values["memory/gpu_gb"] = torch.cuda.max_memory_allocated() / _GB
    if (statistics := Path("/proc/self/statm")).exists():
        pages = int(statistics.read_text().split()[1])
        values["memory/process_gb"] = pages * mmap.PAGESIZE / _GB
    return values
