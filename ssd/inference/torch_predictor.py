"""Runs a checkpoint in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ssd.common.errors import ConfigError, MachineError
from ssd.common.images import ImageArray, warp
from ssd.common.structures import Detections
from ssd.model.postprocess import PostProcess
from ssd.model.ssd import SSD

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchPredictor:
    """Runs a trained network on images of any size; `class_names` are its C classes, in the order of the labels.

    Args:
        model: see `ssd.weights.checkpoint.load`.
        postprocess: thresholds and limits.
        device: `cpu`, `cuda`, ..., or `auto` (CUDA if available).
        precision: of the network, one of PRECISIONS; post-processing is always float32.

    Raises:
        ConfigError: unknown device or precision.
        MachineError: the device is not available.
    """

    def __init__(
        self, model: SSD, postprocess: PostProcess, *, device: str = "auto", precision: str = "float32"
    ) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(f"precision={precision}: unknown; use {', '.join(PRECISIONS)}")
        self._dtype = PRECISIONS[precision]
        self.device = _find_device(device)
        self.model = model.to(self.device).to(memory_format=torch.channels_last).eval()
        self.class_names = model.class_names
        self.thresholds = model.thresholds
        self.postprocess = postprocess

    @torch.inference_mode()
    def __call__(self, images: Sequence[ImageArray]) -> list[Detections]:
        """Detections of each image (uint8 RGB HWC, upright), on the CPU; boxes are fractions of the image."""
        if not images:
            return []
        resized = np.stack([warp(image, size=self.model.image_size) for image in images])
        batch = torch.from_numpy(resized).permute(0, 3, 1, 2).to(self.device)
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not torch.float32):
            predictions = self.model(batch)
        return [detections.to("cpu") for detections in self.postprocess(predictions, self.model.priors)]


def _find_device(name: str) -> torch.device:
    resolved = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        device = torch.device(resolved)
    except RuntimeError:
        raise ConfigError(f"device={name}: unknown; use auto, cpu, cuda, cuda:1, mps, ...") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MachineError(f"device={name}: not available on this machine ({reason}); use device=cpu") from error
    return device
