"""MultiBox loss with hard negative mining. Source: SSD paper, section 2.2, equations 1 to 3."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ssd.model.box_coder import BACKGROUND, encode
from ssd.model.matcher import Targets, match
from ssd.model.structures import Predictions


@dataclass(frozen=True, slots=True)
class Losses:
    """Scalars of one batch, each already divided by the number of positives; `positives` is that number.

    `positive_classification` is the share of `classification` that comes from positives; the rest is that of the
    `negatives` hard negatives. `targets` is the matching behind it all.
    """

    total: Float[Tensor, ""]
    classification: Float[Tensor, ""]
    positive_classification: Float[Tensor, ""]
    localization: Float[Tensor, ""]
    positives: Int64[Tensor, ""]
    negatives: Int64[Tensor, ""]
    targets: Targets


class MultiBoxLoss(nn.Module):
    """Cross-entropy over positives and the hardest negatives, plus smooth L1 over the offsets of the positives.

    Both sums are divided by max(1, positives of the batch), so a batch without objects has loss 0, not NaN.

    Args:
        iou_threshold: a prior is positive from this IoU on.
        negative_ratio: hard negatives for each positive of the image.
        localization_weight: alpha of equation 1.
    """

    def __init__(self, *, iou_threshold: float, negative_ratio: float, localization_weight: float) -> None:
        super().__init__()
        self.iou_threshold = iou_threshold
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
        """Matches the objects (xyxy fractions, labels 0..C-1) to `priors` (cxcywh) and compares."""
        with torch.autocast(predictions.logits.device.type, enabled=False):
            logits, offsets = predictions.logits.float(), predictions.offsets.float()
            targets = match(boxes, labels, ignore=ignore, priors_cxcywh=priors, iou_threshold=self.iou_threshold)
            chosen, is_chosen = self.choose(logits.detach(), targets.columns)
            columns = targets.columns.gather(1, chosen).clamp(min=BACKGROUND)
            positive = is_chosen & (columns > BACKGROUND)
            positives = positive.sum()
            divisor = positives.clamp(min=1)

            errors = F.cross_entropy(_rows(logits, chosen).flatten(0, 1), columns.flatten(), reduction="none")
            # where, not a product: an infinite loss of a prior that was not chosen stays out
            classification = torch.where(is_chosen.flatten(), errors, 0.0).sum() / divisor
            of_positives = torch.where(positive.flatten(), errors.detach(), 0.0).sum() / divisor

            wanted = encode(_rows(_with_dummy(boxes), targets.objects.gather(1, chosen)), priors[chosen])
            deviation = F.smooth_l1_loss(_rows(offsets, chosen), wanted, reduction="none").sum(dim=-1)
            localization = torch.where(positive, deviation, 0.0).sum() / divisor
        total = classification + self.localization_weight * localization
        return Losses(
            total=total,
            classification=classification.detach(),
            positive_classification=of_positives,
            localization=localization.detach(),
            positives=positives,
            negatives=is_chosen.sum() - positives,
            targets=targets,
        )

    @torch.no_grad()
    def choose(
        self, logits: Float[Tensor, "B P C1"], columns: Int64[Tensor, "B P"]
    ) -> tuple[Int64[Tensor, "B K"], Bool[Tensor, "B K"]]:
        """The priors that count: positives, and for each of them `negative_ratio` negatives of largest loss.

        Returns:
            K priors of each image, and which of them count. K is the largest number needed in the batch; on a GPU,
            where asking for that number would wait for the device, it is P.
        """
        background_loss = logits.logsumexp(dim=-1) - logits[..., BACKGROUND]
        importance = background_loss.masked_fill(columns > BACKGROUND, torch.inf)
        importance.masked_fill_(columns < BACKGROUND, -torch.inf)
        positives = (columns > BACKGROUND).sum(dim=1)
        negatives = (columns == BACKGROUND).sum(dim=1)
        count = positives + torch.minimum((positives * self.negative_ratio).long(), negatives)
        needed = int(count.max()) if count.device.type == "cpu" else columns.shape[1]
        chosen = importance.topk(needed, dim=1).indices
        return chosen, torch.arange(needed, device=count.device) < count[:, None]


def _rows(table: Float[Tensor, "B N K"], index: Int64[Tensor, "B M"]) -> Float[Tensor, "B M K"]:
    return table.gather(1, index[..., None].expand(-1, -1, table.shape[-1]))


def _with_dummy(boxes: Float[Tensor, "B G 4"]) -> Float[Tensor, "B G+1 4"]:
    """One more box, so that an index is valid where no image of the batch has an object."""
    return F.pad(boxes, (0, 0, 0, 1))
