"""MobileNetV1 (arXiv 1704.04861) with the taps and extra levels of MobileNetV1-SSD.

`base` has the layer numbers of qfgaohao's `base_net`, so that importing its weights is a rename.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ssd.model.backbones.layers import ExtraLevel, PixelNorm, initialize

_BLOCKS = (  # channels out, stride
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)
_TAP = 12  # base[:12] ends with the last block of stride 16


class MobileNetV1(nn.Module):
    """Six feature maps: strides 16 and 32 of the base, then four extra levels, each of half the grid.

    Args:
        width_multiplier: factor on the number of channels.
        mean, std: pixel normalisation of the RGB input, on 0..255.
    """

    name = "mobilenet_v1"

    def __init__(self, *, width_multiplier: float, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.width_multiplier = float(width_multiplier)

        def width(channels: int) -> int:
            return max(8, round(channels * width_multiplier))

        self.pixel_norm = PixelNorm(mean=mean, std=std)
        channels = width(32)
        blocks = [nn.Sequential(*_convolution(3, channels, stride=2))]
        for channels_out, stride in _BLOCKS:
            blocks.append(_separable(channels, width(channels_out), stride=stride))
            channels = width(channels_out)
        self.base = nn.Sequential(*blocks)  # PyTorch's own initialisation: He's by fan-out learns far slower here
        self.extras = nn.ModuleList(
            ExtraLevel(width(before), width(middle), width(after), stride=2, padding=1)
            for before, middle, after in ((1024, 256, 512), (512, 128, 256), (256, 128, 256), (256, 128, 256))
        )
        initialize(self.extras)

    @property
    def arguments(self) -> dict[str, Any]:
        return {"width_multiplier": self.width_multiplier, **self.pixel_norm.arguments()}

    def forward(self, images: Tensor) -> list[Float[Tensor, "B _ _ _"]]:
        stride_16 = self.base[:_TAP](self.pixel_norm(images))
        features = [stride_16, self.base[_TAP:](stride_16)]
        for level in self.extras:
            features.append(level(features[-1]))
        return features


def _convolution(channels_in: int, channels_out: int, **convolution: Any) -> list[nn.Module]:
    arguments: dict[str, Any] = {"kernel_size": 3, "padding": 1} | convolution
    return [
        nn.Conv2d(channels_in, channels_out, bias=False, **arguments),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    ]


def _separable(channels_in: int, channels_out: int, *, stride: int) -> nn.Sequential:
    """A 3x3 convolution of each channel, then a 1x1 convolution across channels."""
    return nn.Sequential(
        *_convolution(channels_in, channels_in, stride=stride, groups=channels_in),
        *_convolution(channels_in, channels_out, kernel_size=1, padding=0),
    )
