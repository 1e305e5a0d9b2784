"""Statistics of a known matching."""

from __future__ import annotations

import torch
from test_lightning_module import network

from ssd.common.structures import Batch
from ssd.model.loss import Losses
from ssd.model.matcher import Targets
from ssd.model.priors import PriorSpec
from ssd.training.diagnostics import match_rates


def rates(priors: PriorSpec, labels: list[int]) -> dict[str, float]:
    """One image: the first prior is matched to object 0, the last to object 1; objects 0 and 2 have a high best IoU."""
    model = network(("cat", "dog"), priors)
    class_targets, matched_gt = torch.zeros(2, 1, len(model.priors), dtype=torch.int64)
    positives = min(2, sum(label >= 0 for label in labels))
    class_targets[0, 0], class_targets[0, -1], matched_gt[0, -1] = positives > 0, 2 * (positives > 0), 1
    none = torch.zeros(())
    losses = Losses(
        total=none,
        classification=none,
        positive_classification=none,
        localization=none,
        positives=torch.tensor(positives),
        negatives=torch.tensor(5 if positives else 0),
        targets=Targets(class_targets, matched_gt, torch.tensor([[0.9, 0.3, 0.6, 0.8]])),
    )
    batch = Batch(
        images=torch.zeros(1, 3, 1, 1, dtype=torch.uint8),
        boxes=torch.zeros(1, 4, 4),
        labels=torch.tensor([labels]),
        ignore=torch.zeros(1, 4, dtype=torch.bool),
        sizes=torch.ones(1, 2, dtype=torch.int64),
        ids=("a",),
    )
    return {name: round(value, 4) for name, value in match_rates(losses, batch, model, match_threshold=0.5).items()}


def test_of_three_objects_one_has_no_prior_and_one_only_a_low_iou(mobilenet_v1: PriorSpec) -> None:
    levels = {f"matching/positives_level_{level}": float(level in (1, 6)) for level in range(1, 7)}
    assert rates(mobilenet_v1, [0, 1, 0, -1]) == levels | {
        "matching/positives": 2.0,
        "matching/negatives_per_positive": 2.5,
        "matching/objects_matched": 0.6667,
        "matching/objects_over_iou": 0.6667,
    }


def test_undefined_values_are_left_out(mobilenet_v1: PriorSpec) -> None:
    found = rates(mobilenet_v1, [-1, -1, -1, -1])
    assert "matching/objects_matched" not in found
    assert "matching/negatives_per_positive" not in found
    assert found["matching/positives"] == 0
