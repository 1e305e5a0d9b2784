"""A checkpoint and pictures in, detections out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ssd.images import Picture, warp
from ssd.model import SSD
from ssd.postprocess import PostProcess
from ssd.structures import Detections


class Predictor:
    """Runs a trained network on pictures of any size.

    Args:
        model: see `ssd.checkpoint.load`.
        postprocess: thresholds and limits.
        device: `cpu`, `cuda`, ..., or `auto`.
    """

    def __init__(self, model: SSD, postprocess: PostProcess, *, device: str = "auto") -> None:
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.device = torch.device(chosen)
        self.model = model.to(self.device).to(memory_format=torch.channels_last).eval()
        self.postprocess = postprocess

    @property
    def class_names(self) -> tuple[str, ...]:
        """The C classes, in the order of the labels."""
        return self.model.class_names

    @torch.inference_mode()
    def __call__(self, images: Sequence[Picture]) -> list[Detections]:
        """Detections of each picture (uint8 RGB HWC, upright), on the CPU; boxes are fractions of the picture."""
        if not images:
            return []
        small = np.stack([warp(image, size=self.model.image_size) for image in images])
        batch = torch.from_numpy(small).permute(0, 3, 1, 2).to(self.device)
        return [found.to("cpu") for found in self.postprocess(self.model(batch), self.model.priors)]


def as_record(
    detections: Detections, *, source: str, frame: int | None, size: tuple[int, int], class_names: Sequence[str]
) -> dict[str, Any]:
    """The line of predictions.jsonl for one picture of (H, W) pixels."""
    height, width = size
    boxes = detections.boxes.double() * torch.tensor([width, height, width, height], dtype=torch.float64)
    rows = zip(boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    return {
        "source": source,
        "frame": frame,
        "width": width,
        "height": height,
        "detections": [
            {
                "label": class_names[label],
                "class_id": label,
                "score": round(score, 4),
                "box": [round(edge, 2) for edge in box],
            }
            for box, score, label in rows
        ],
    }
