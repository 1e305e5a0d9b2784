"""MultiBox loss with hard negative mining. Source: SSD paper, section 2.2, equations 1 to 3."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ssd.common.structures import Predictions
from ssd.model.box_coder import BACKGROUND, encode
from ssd.model.matcher import Targets, match


@dataclass(frozen=True, slots=True)
class Losses:
    """Scalar losses of one batch, each divided by the number of positives.

    `positive_classification` is the part of `classification` that comes from positives; the rest comes from the
    `negatives` hard negatives. `positives` and `negatives` are counts. `targets` is the matching that was used.
    """

    total: Float[Tensor, ""]
    classification: Float[Tensor, ""]
    positive_classification: Float[Tensor, ""]
    localization: Float[Tensor, ""]
    positives: Int64[Tensor, ""]
    negatives: Int64[Tensor, ""]
    targets: Targets


class MultiBoxLoss(nn.Module):
    """Cross-entropy over positives and hard negatives, plus smooth L1 over the offsets of the positives.

    Both sums are divided by max(1, positives in the batch), so a batch without objects has loss 0, not NaN.

    Args:
        match_threshold: IoU from which a prior is positive.
        negative_ratio: hard negatives per positive, in each image.
        localization_weight: alpha of equation 1.
    """

    def __init__(
        self, *, match_threshold: float = 0.5, negative_ratio: float = 3.0, localization_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.match_threshold = match_threshold
        self.negative_ratio = negative_ratio
        self.localization_weight = localization_weight

    def forward(
        self,
        predictions: Predictions,
        *,
        boxes: Float[Tensor, "B G 4"],
        labels: Int64[Tensor, "B G"],
        ignore: Bool[Tensor, "B G"],
        priors: Float[Tensor, "P 4"],
    ) -> Losses:
        """Matches ground truth (xyxy fractions, labels 0..C-1) to `priors` (cxcywh) and computes the losses."""
        with torch.autocast(predictions.logits.device.type, enabled=False):
            logits, offsets = predictions.logits.float(), predictions.offsets.float()
            targets = match(boxes, labels, ignore=ignore, priors_cxcywh=priors, match_threshold=self.match_threshold)
            mined, counted = hard_negative_mining(
                logits.detach(), targets.class_targets, negative_ratio=self.negative_ratio
            )
            class_targets = targets.class_targets.gather(1, mined).clamp(min=BACKGROUND)
            positive = counted & (class_targets > BACKGROUND)
            positives = positive.sum()
            divisor = positives.clamp(min=1)

            errors = F.cross_entropy(
                _gather_rows(logits, mined).flatten(0, 1), class_targets.flatten(), reduction="none"
            )
            # where, not a product: an infinite loss of a prior that is not counted must not enter the sum
            classification = torch.where(counted.flatten(), errors, 0.0).sum() / divisor
            positive_classification = torch.where(positive.flatten(), errors.detach(), 0.0).sum() / divisor

            # with one box more, so that index 0 is valid where no image of the batch has an object
            matched_boxes = _gather_rows(F.pad(boxes, (0, 0, 0, 1)), targets.matched_gt.gather(1, mined))
            offset_targets = encode(matched_boxes, priors[mined])
            smooth_l1 = F.smooth_l1_loss(_gather_rows(offsets, mined), offset_targets, reduction="none").sum(dim=-1)
            localization = torch.where(positive, smooth_l1, 0.0).sum() / divisor
        total = classification + self.localization_weight * localization
        return Losses(
            total=total,
            classification=classification.detach(),
            positive_classification=positive_classification,
            localization=localization.detach(),
            positives=positives,
            negatives=counted.sum() - positives,
            targets=targets,
        )


@torch.no_grad()
def hard_negative_mining(
    logits: Float[Tensor, "B P C1"], class_targets: Int64[Tensor, "B P"], *, negative_ratio: float
) -> tuple[Int64[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """Selects the positives, and for each of them `negative_ratio` negatives with the largest background loss.

    Returns:
        Indices of K priors in each image, and a mask of those that count in the loss. K is the largest number needed
        by an image of the batch; on a GPU, where reading that number would synchronise, K is P.
    """
    positive = class_targets > BACKGROUND
    background_loss = logits.logsumexp(dim=-1) - logits[..., BACKGROUND]
    priority = background_loss.masked_fill(positive, torch.inf)
    priority.masked_fill_(class_targets < BACKGROUND, -torch.inf)
    num_positive = positive.sum(dim=1)
    num_negative = (class_targets == BACKGROUND).sum(dim=1)
    count = num_positive + torch.minimum((num_positive * negative_ratio).long(), num_negative)
    k = int(count.max()) if count.device.type == "cpu" else class_targets.shape[1]
    mined = priority.topk(k, dim=1).indices
    return mined, torch.arange(k, device=count.device) < count[:, None]


def _gather_rows(table: Float[Tensor, "B N K"], index: Int64[Tensor, "B M"]) -> Float[Tensor, "B M K"]:
    return table.gather(1, index[..., None].expand(-1, -1, table.shape[-1]))
