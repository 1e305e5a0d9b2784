"""Backbones: a batch of images (raw RGB pixels) in, a list of feature maps out, the finest grid first.

Any module of that shape works in `SSD`. A backbone that a config or a checkpoint can name is a class with a `name` in a
module of this package: BACKBONES finds it, and nothing else has to list it.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from ssd.model.backbones.mobilenet_v1 import MobileNetV1
from ssd.model.backbones.vgg16 import VGG16
from ssd.model.priors import PriorSpec


class Backbone(Protocol):
    """A backbone that can be named in a config and rebuilt from a checkpoint."""

    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """Plain types: `cls(**arguments)` is the same network, with fresh weights."""

    @property
    def default_priors(self) -> PriorSpec:
        """The published priors of its detector."""

    @property
    def default_image_size(self) -> int:
        """Input side in pixels of its published detector."""

    def __call__(self, images: Tensor) -> list[Tensor]: ...


@runtime_checkable
class PretrainedBackbone(Protocol):
    """A backbone whose `base` can start from ImageNet weights."""

    base: nn.Module
    fresh_base_keys: tuple[str, ...]  # prefixes of the tensors of `base` that ImageNet weights may lack

    @property
    def imagenet_weights(self) -> str | None:
        """The name of its entry in `ssd.weights.published`; None if the published ones do not fit its arguments."""

    @staticmethod
    def base_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a base net stored in any known layout, under the names of `base`; empty for other layouts."""


def find_backbones() -> dict[str, type[nn.Module]]:
    """The backbone classes defined in the modules of this package, by name."""
    found: dict[str, type[nn.Module]] = {}
    for info in pkgutil.iter_modules(__path__, f"{__name__}."):
        for item in vars(importlib.import_module(info.name)).values():
            if isinstance(item, type) and item.__module__ == info.name and "name" in vars(item):
                other = found.setdefault(vars(item)["name"], item)
                if other is not item:
                    raise ValueError(f"two backbones are named {vars(item)['name']}: {other} and {item}; rename one")
    return found


BACKBONES = find_backbones()

__all__ = ["BACKBONES", "VGG16", "Backbone", "MobileNetV1", "PretrainedBackbone", "find_backbones"]
