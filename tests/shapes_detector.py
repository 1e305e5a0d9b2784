"""A small detector with random weights whose scores differ, and images for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jaxtyping
import numpy as np
import torch

from ssd.common.images import ImageArray, warp
from ssd.data.formats.shapes import CLASS_NAMES, render
from ssd.model.backbones import MobileNetV1
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD

SIZE = 96
SETTINGS: dict[str, Any] = {"nms_threshold": 0.45, "topk_candidates": 60, "max_detections": 40}
IMAGES: list[ImageArray] = [render(f"test/{number:06d}", side_px=120, seed=0) for number in range(5)]


def shapes_detector(priors: PriorSpec) -> SSD:
    """BatchNorm has seen images, otherwise all scores would be similar."""
    torch.manual_seed(3)
    backbone = MobileNetV1(width_multiplier=0.25, mean=[120.0, 110.0, 100.0], std=[50.0, 60.0, 70.0])
    network = SSD(backbone, priors, class_names=CLASS_NAMES, image_size=SIZE)
    batch = torch.from_numpy(np.stack([warp(image, size=SIZE) for image in IMAGES])).permute(0, 3, 1, 2)
    with torch.no_grad():
        for _ in range(20):
            network(batch)
    return network.eval()


@contextmanager
def unchecked() -> Iterator[None]:
    """Disables the annotation checks: they compare batch sizes, so the exporter would treat the size as fixed."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
