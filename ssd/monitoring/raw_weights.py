"""The weights in training next to their average, on some pictures of the validation set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ssd.data.datamodule import DetectionDataModule
from ssd.data.dataset import DetectionDataset, collate
from ssd.evaluation.average_precision import COCO_POINTS, average_precision, mean_over_classes
from ssd.evaluation.matching import Scene, match_coco
from ssd.evaluation.metrics import scenes_of
from ssd.module import SSDModule


@torch.no_grad()
def compare_weights(
    module: SSDModule, data: DetectionDataModule, averaged: Mapping[str, Scene], ids: Sequence[str]
) -> dict[str, float]:
    """mAP and mAP@0.5 on the pictures `ids`, of the weights that `module` has now and of what `averaged` ones found."""
    index = data.splits.val
    assert index is not None
    wanted = set(ids)
    positions = [position for position in range(len(index)) if index.ids[position] in wanted]
    dataset = DetectionDataset(index, data.eval_augmentation, seed=data.seed)
    raw: list[Scene] = []
    for start in range(0, len(positions), data.batch_size):
        batch = collate([dataset[0, position] for position in positions[start : start + data.batch_size]])
        batch = batch.to(module.device)
        raw += scenes_of(module.postprocess(module.model(batch.images), module.model.priors), batch)
    classes = len(index.class_names)
    return {**_scores("average", [averaged[name] for name in ids], classes), **_scores("raw", raw, classes)}


def _scores(which: str, scenes: Sequence[Scene], classes: int) -> dict[str, float]:
    """Nothing where there is no object."""
    if not any((~scene.ignore).any() for scene in scenes):
        return {}
    ap = mean_over_classes(average_precision(match_coco(scenes, classes), points=COCO_POINTS)[0])
    return {f"ema/map_{which}": float(ap.mean()), f"ema/map_50_{which}": float(ap[0])}
