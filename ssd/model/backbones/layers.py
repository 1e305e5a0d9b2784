"""Layers that the backbones share."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssd.common.errors import ConfigError


class L2Norm(nn.Module):
    """Scales the feature vector of each cell to unit length, then each channel by a learned `weight`.

    Source: ParseNet (arXiv 1506.04579); SSD uses it on conv4_3, whose features are larger than those of other levels.
    """

    def __init__(self, channels: int, *, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, features: Float[Tensor, "B K H W"]) -> Float[Tensor, "B K H W"]:
        return F.normalize(features, dim=1) * self.weight[:, None, None]


class PixelNorm(nn.Module):
    """Normalises raw pixels 0..255: (x - mean) / std for each channel of the RGB input.

    Raises:
        ConfigError: mean or std does not have three values, or a value of std is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        finite = all(math.isfinite(value) for value in (*mean, *std))
        if len(mean) != 3 or len(std) != 3 or not finite or not all(value > 0 for value in std):
            raise ConfigError(f"mean={list(mean)}, std={list(std)}: give three values each (R, G, B), std above 0")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1))

    def arguments(self) -> dict[str, list[float]]:
        """Current mean and std. Loading weights replaces them by those that the weights were trained with."""
        return {name: buffer.flatten().tolist() for name, buffer in self.named_buffers()}

    def forward(self, images: Tensor) -> Float[Tensor, "B 3 H W"]:
        return (images.to(self.mean.dtype) - self.mean) / self.std


def initialize(module: nn.Module) -> None:
    """Initialises convolutions with Xavier-uniform weights and zero biases (as Caffe SSD, amdegroot, torchvision)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


_BASE_PREFIX = r"(?:features\.|vgg\.|base_net\.|model\.|(?:model\.)?(?:backbone\.)?base\.)?"


def select_base(state: dict[str, Tensor], keys: str) -> dict[str, Tensor]:
    """The tensors of a base net file, or of one of our checkpoints, whose keys match the pattern `keys`.

    Prefixes in common use (`features.`, `base_net.`, `model.backbone.base.`, ...) are removed.
    """
    pattern = re.compile(rf"{_BASE_PREFIX}({keys})$")
    return {match[1]: value for key, value in state.items() if (match := pattern.match(key))}


class ExtraLevel(nn.Sequential):
    """A 1x1 convolution to `middle` channels, then a 3x3 one that shrinks the grid (`second` overrides its arguments).

    A grid smaller than the kernel is padded to the kernel's size, so that small inputs work.
    """

    def __init__(self, channels_in: int, middle: int, channels_out: int, **second: Any) -> None:
        super().__init__(
            nn.Conv2d(channels_in, middle, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, channels_out, **({"kernel_size": 3} | second)),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Float[Tensor, "B K H W"]) -> Float[Tensor, "B _ _ _"]:
        reduce, shrink = cast(nn.Conv2d, self[0]), cast(nn.Conv2d, self[2])
        # torch 2.15 leaves part of the bfloat16 weight gradient of a strided convolution unset on a 1x1 grid of the CPU
        in_float = features.device.type == "cpu" and features.shape[-2:] == (1, 1)
        with torch.autocast("cpu", enabled=False) if in_float else nullcontext():
            middle = reduce(features.to(reduce.weight.dtype) if in_float else features).relu_()
            missing = max(0, shrink.kernel_size[0] - 2 * int(shrink.padding[0]) - min(middle.shape[-2:]))
            return shrink(F.pad(middle, (0, missing, 0, missing)) if missing else middle).relu_()
