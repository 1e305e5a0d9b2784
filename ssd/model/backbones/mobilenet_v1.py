"""MobileNetV1 (arXiv 1704.04861) with the taps and extra levels of MobileNetV1-SSD.

`base` has the layer numbers of qfgaohao's `base_net`, so that importing its weights is a matter of renaming.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from ssd.model.backbones.layers import ExtraLevel, PixelNorm, initialize, select_base
from ssd.model.priors import PriorSpec

MEAN, STD = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
PRIORS = PriorSpec(  # MobileNetV1-SSD: squares of 60, 105, 150, 195, 240, 285, 330 of 300 pixels
    scales=(0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.1),
    aspect_ratios=((2, 3),) * 6,
    steps_px={300: (16, 32, 64, 100, 150, 300)},
    clip="sizes",
)
FINE_PRIORS = PriorSpec(  # and squares of 30 pixels on a grid of 38 x 38
    scales=(0.1, *PRIORS.scales),
    aspect_ratios=((2, 3),) * 7,
    steps_px={300: (8, *PRIORS.steps_px[300])},
    clip="sizes",
)

# channels out, stride
_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
_TAPS = {8: 6, 16: 12}  # base[:6] ends with the last block of stride 8

_TIMM_STEM = {"conv_stem": "0.0", "bn1": "0.1"}
_TIMM_BLOCK = {"conv_dw": 0, "bn1": 1, "conv_pw": 3, "bn2": 4}


class MobileNetV1(nn.Module):
    """Six feature maps: strides 16 and 32 of the base, then four extra levels that each halve the grid.

    Args:
        width_multiplier: factor on the number of channels.
        first_stride: 8 adds a seventh map, the finest, for small objects.
        mean, std: pixel normalisation of the RGB input, for pixels 0..255.
    """

    name = "mobilenet_v1"
    default_image_size = 300
    fresh_base_keys: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        width_multiplier: float = 1.0,
        first_stride: Literal[8, 16] = 16,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__()
        self.width_multiplier = float(width_multiplier)
        self.first_stride = first_stride

        def width(channels: int) -> int:
            return max(8, round(channels * width_multiplier))

        self.pixel_norm = PixelNorm(mean=mean, std=std)
        channels = width(32)
        blocks: list[nn.Module] = [Conv2dNormActivation(3, channels, stride=2)]
        for channels_out, stride in _BLOCKS:
            blocks.append(_separable(channels, width(channels_out), stride=stride))
            channels = width(channels_out)
        self.base = nn.Sequential(*blocks)  # PyTorch's initialisation: He's, by fan-out, learns far more slowly here
        self.extras = nn.ModuleList(
            ExtraLevel(width(before), width(middle), width(after), stride=2, padding=1)
            for before, middle, after in ((1024, 256, 512), (512, 128, 256), (256, 128, 256), (256, 128, 256))
        )
        initialize(self.extras)

    @property
    def arguments(self) -> dict[str, Any]:
        own = {"width_multiplier": self.width_multiplier, "first_stride": self.first_stride}
        return own | self.pixel_norm.arguments()

    @property
    def default_priors(self) -> PriorSpec:
        return PRIORS if self.first_stride == 16 else FINE_PRIORS

    def forward(self, images: Tensor) -> list[Float[Tensor, "B _ _ _"]]:
        features, last, start = [], self.pixel_norm(images), 0
        for stride, end in (*_TAPS.items(), (32, len(self.base))):
            if stride >= self.first_stride:
                last, start = self.base[start:end](last), end
                features.append(last)
        for level in self.extras:
            features.append(level(features[-1]))
        return features

    @property
    def imagenet_weights(self) -> str | None:
        """timm's (mean and std of 0.5, close to MEAN and STD)."""
        return "mobilenet_v1_imagenet" if self.width_multiplier == 1 else None

    @staticmethod
    def base_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Reads timm's layout, and the conv_bn and conv_dw blocks of the common PyTorch MobileNetV1."""
        return _rename_timm(state) if "conv_stem.weight" in state else select_base(state, r"\d+\.\d+\.\w+")


def _rename_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """conv_stem, bn1 and blocks.<stage>.<index> to the layer numbers of `base`."""
    blocks = sorted({tuple(map(int, key.split(".")[1:3])) for key in state if key.startswith("blocks.")})
    number = {block: position for position, block in enumerate(blocks, start=1)}
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] in _TIMM_STEM:
            renamed[f"{_TIMM_STEM[parts[0]]}.{parts[1]}"] = value
        elif parts[0] == "blocks" and parts[3] in _TIMM_BLOCK:
            block = number[int(parts[1]), int(parts[2])]
            renamed[f"{block}.{_TIMM_BLOCK[parts[3]]}.{parts[4]}"] = value
    return renamed


def _separable(channels_in: int, channels_out: int, *, stride: int) -> nn.Sequential:
    """A depthwise 3x3 convolution, then a pointwise 1x1 convolution."""
    return nn.Sequential(
        *Conv2dNormActivation(channels_in, channels_in, stride=stride, groups=channels_in),
        *Conv2dNormActivation(channels_in, channels_out, kernel_size=1),
    )
