"""From raw predictions to detections; one implementation for validation, predict and export."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torchvision.ops import nms

from ssd.model.box_coder import decode, foreground
from ssd.model.structures import Detections, Predictions


class PostProcess(nn.Module):
    """The `candidates` best (prior, class) pairs of an image, one NMS that keeps classes apart, the score threshold.

    Choosing the candidates first gives static sizes (so it exports) and bounds the cost in the worst case; one NMS an
    image is quicker than one for each class.

    Args:
        score_threshold: detections have a score over it.
        iou_threshold: a box that overlaps a better one of its class by more is dropped.
        candidates: (prior, class) pairs that go into NMS.
        max_detections: kept for an image.
    """

    def __init__(
        self,
        *,
        score_threshold: float = 0.01,
        iou_threshold: float = 0.45,
        candidates: int = 2000,
        max_detections: int = 200,
    ) -> None:
        super().__init__()
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.candidates = candidates
        self.max_detections = max_detections

    @torch.no_grad()
    def forward(self, predictions: Predictions, priors: Float[Tensor, "P 4"]) -> list[Detections]:
        """Detections of each image; boxes are clipped to the image."""
        return [self._suppress(*image) for image in zip(*self.choose(predictions, priors), strict=True)]

    def choose(
        self, predictions: Predictions, priors: Float[Tensor, "P 4"]
    ) -> tuple[Float[Tensor, "B N 4"], Float[Tensor, "B N"], Int64[Tensor, "B N"]]:
        """Boxes, scores (falling) and labels of the N candidates of each image, before NMS and threshold."""
        scores = foreground(predictions.logits.float().softmax(dim=-1))
        classes = scores.shape[-1]
        scores, pair = scores.flatten(1).topk(min(self.candidates, scores[0].numel()), dim=1)
        prior, labels = pair // classes, pair % classes
        offsets = predictions.offsets.float().gather(1, prior[..., None].expand(-1, -1, 4))
        return decode(offsets, priors[prior]).clamp(0, 1), scores, labels

    def _suppress(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
        above = scores > self.score_threshold  # NMS looks at higher scores only: dropping the low ones first is equal
        boxes, scores, labels = boxes[above], scores[above], labels[above]
        # Classes lie side by side, two image widths apart; in double precision, or 600 classes would blur the boxes.
        apart = boxes.double() + 2.0 * labels[:, None]
        keep = nms(apart, scores.double(), self.iou_threshold)[: self.max_detections]
        return Detections(boxes[keep], scores[keep], labels[keep])
