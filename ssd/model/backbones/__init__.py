"""Backbones: an image batch (raw pixels, RGB) in, a list of feature maps out, the finest grid first.

Any module of that shape will do. Those with a name in BACKBONES can also be rebuilt from a checkpoint's recipe; they
have `name`, `arguments` (plain types, enough to build them again) and `base`, the part that ImageNet weights exist for.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from ssd.model.backbones.mobilenet_v1 import MobileNetV1
from ssd.model.backbones.vgg16 import VGG16


class Backbone(Protocol):
    """What SSD asks of a backbone."""

    name: str
    base: nn.Module

    @property
    def arguments(self) -> dict[str, Any]: ...

    def __call__(self, images: Tensor) -> list[Tensor]: ...


BACKBONES: dict[str, type[nn.Module]] = {VGG16.name: VGG16, MobileNetV1.name: MobileNetV1}

__all__ = ["BACKBONES", "VGG16", "Backbone", "MobileNetV1"]
