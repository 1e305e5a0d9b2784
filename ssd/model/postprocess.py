"""Turns raw predictions into detections; the same code serves validation, prediction and export."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torchvision import ops

from ssd.common.structures import Detections, Predictions
from ssd.model.box_coder import decode, foreground


class PostProcess(nn.Module):
    """Top-k selection of (prior, class) pairs, class-separated NMS, score threshold.

    Selecting the top k first gives static shapes (so it can be exported) and bounds the worst-case cost; one NMS per
    image is faster than one per class.

    Args:
        score_threshold: detections have a score above it.
        nms_threshold: a box whose IoU with a higher-scoring box of its class is above it is removed.
        topk_candidates: (prior, class) pairs per image that enter NMS.
        max_detections: detections kept per image.
    """

    def __init__(
        self,
        *,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.45,
        topk_candidates: int = 2000,
        max_detections: int = 200,
    ) -> None:
        super().__init__()
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.topk_candidates = topk_candidates
        self.max_detections = max_detections

    @torch.no_grad()
    def forward(self, predictions: Predictions, priors: Float[Tensor, "P 4"]) -> list[Detections]:
        """Detections of each image.

        Args:
            predictions: logits and offsets of the network.
            priors: cxcywh fractions of the image.

        Returns:
            Boxes as xyxy fractions, clipped to the image.
        """
        return [self.nms(*image) for image in zip(*self.select_topk(predictions, priors), strict=True)]

    def select_topk(
        self, predictions: Predictions, priors: Float[Tensor, "P 4"]
    ) -> tuple[Float[Tensor, "B N 4"], Float[Tensor, "B N"], Int64[Tensor, "B N"]]:
        """Boxes, scores (descending) and labels of the top N candidates of each image, before NMS and threshold."""
        scores = foreground(predictions.logits.float().softmax(dim=-1))
        num_classes = scores.shape[-1]
        scores, pair = scores.flatten(1).topk(min(self.topk_candidates, scores[0].numel()), dim=1)
        prior, labels = pair // num_classes, pair % num_classes
        offsets = predictions.offsets.float().gather(1, prior[..., None].expand(-1, -1, 4))
        return decode(offsets, priors[prior]).clamp(0, 1), scores, labels

    def nms(self, boxes: Float[Tensor, "N 4"], scores: Float[Tensor, "N"], labels: Int64[Tensor, "N"]) -> Detections:
        """Score threshold, then NMS within each class, for the candidates of one image."""
        # NMS compares a box with higher-scoring ones only, so thresholding first gives the same result
        above = scores > self.score_threshold
        boxes, scores, labels = boxes[above], scores[above], labels[above]
        # Shifts each class by two image widths; in double precision, or 600 classes would make the boxes inexact
        shifted = boxes.double() + 2.0 * labels[:, None]
        keep = ops.nms(shifted, scores.double(), self.nms_threshold)[: self.max_detections]
        return Detections(boxes[keep], scores[keep], labels[keep])
