"""A checkpoint and images in, detections out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from ssd.common.errors import ConfigError, MachineError
from ssd.common.images import ImageArray, warp
from ssd.model.postprocess import PostProcess
from ssd.model.ssd import SSD
from ssd.model.structures import Detections

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@runtime_checkable
class ImagePredictor(Protocol):
    """Anything that finds objects: a network here, or an exported file."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The C classes, in the order of the labels."""

    def __call__(self, images: Sequence[ImageArray]) -> list[Detections]:
        """Detections of each image, on the CPU; boxes are fractions of the image."""


class Predictor:
    """Runs a trained network on images of any size.

    Args:
        model: see `ssd.weights.checkpoint.load`.
        postprocess: thresholds and limits.
        device: `cpu`, `cuda`, ..., or `auto`.
        precision: of the network's arithmetic, one of PRECISIONS; post-processing is float32.

    Raises:
        ConfigError: no such device or precision.
        MachineError: the device is not there.
    """

    def __init__(
        self, model: SSD, postprocess: PostProcess, *, device: str = "auto", precision: str = "float32"
    ) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(f"precision={precision}: no such precision; there are {', '.join(PRECISIONS)}")
        self._dtype = PRECISIONS[precision]
        self.device = _find_device(device)
        self.model = model.to(self.device).to(memory_format=torch.channels_last).eval()
        self.postprocess = postprocess

    @property
    def class_names(self) -> tuple[str, ...]:
        """The C classes, in the order of the labels."""
        return self.model.class_names

    @torch.inference_mode()
    def __call__(self, images: Sequence[ImageArray]) -> list[Detections]:
        """Detections of each image (uint8 RGB HWC, upright), on the CPU; boxes are fractions of the image."""
        if not images:
            return []
        small = np.stack([warp(image, size=self.model.image_size) for image in images])
        batch = torch.from_numpy(small).permute(0, 3, 1, 2).to(self.device)
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not torch.float32):
            predictions = self.model(batch)
        return [found.to("cpu") for found in self.postprocess(predictions, self.model.priors)]


def _find_device(name: str) -> torch.device:
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        device = torch.device(chosen)
    except RuntimeError:
        raise ConfigError(f"device={name}: no such device; there are auto, cpu, cuda, cuda:1, mps, ...") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MachineError(f"device={name}: not on this machine ({reason}); use device=cpu") from error
    return device


def as_record(
    detections: Detections,
    *,
    source: str,
    frame: int | None,
    size: tuple[int, int],
    class_names: Sequence[str],
    track_ids: Sequence[int | None] | None = None,
) -> dict[str, Any]:
    """The line of predictions.jsonl for one image of (H, W) pixels."""
    height, width = size
    boxes = detections.boxes.double() * torch.tensor([width, height, width, height], dtype=torch.float64)
    rows = zip(boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    found: list[dict[str, Any]] = [
        {
            "label": class_names[label],
            "class_id": label,
            "score": round(score, 4),
            "box": [round(edge, 2) for edge in box],
        }
        for box, score, label in rows
    ]
    for item, track_id in zip(found, track_ids or (), strict=bool(track_ids)):
        item["track_id"] = track_id
    return {"source": source, "frame": frame, "width": width, "height": height, "detections": found}
