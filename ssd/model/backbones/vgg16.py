"""VGG16 as SSD uses it: fc6 and fc7 as (dilated) convolutions, normalised conv4_3, extra levels.

`base` has the layer numbers of amdegroot's `vgg` and of torchvision's `features`, so that importing their weights is a
matter of renaming.

Source: SSD paper, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from ssd.common.errors import ConfigError
from ssd.model.backbones.layers import ExtraLevel, L2Norm, PixelNorm, initialize, select_base
from ssd.model.priors import PriorSpec

MEAN, STD = (123.0, 117.0, 104.0), (1.0, 1.0, 1.0)
PRIORS = {  # on VOC, by `extras`
    "300": PriorSpec(  # squares of 30, 60, 111, 162, 213, 264, 315 of 300 pixels
        scales=(0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05),
        aspect_ratios=((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        steps_px={300: (8, 16, 32, 64, 100, 300)},
        clip="sizes",
    ),
    "512": PriorSpec(  # squares of 35.84, 76.8, 153.6, 230.4, 307.2, 384, 460.8, 537.6 of 512 pixels
        scales=(0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05),
        aspect_ratios=((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        steps_px={512: (8, 16, 32, 64, 128, 256, 512)},
        clip="sizes",
    ),
}

# channels of a convolution; M, C: max pooling, C in ceil mode
_BASE = (64, 64, "M", 128, 128, "M", 256, 256, 256, "C", 512, 512, 512, "M", 512, 512, 512)
_CONV4_3 = 23  # base[:23] ends with conv4_3's ReLU

_HALVE = {"stride": 2, "padding": 1}
_EXTRAS: dict[str, list[tuple[int, int, int, dict[str, int]]]] = {
    "300": [(1024, 256, 512, _HALVE), (512, 128, 256, _HALVE), (256, 128, 256, {}), (256, 128, 256, {})],
    "512": [
        (1024, 256, 512, _HALVE),
        *[(channels, 128, 256, _HALVE) for channels in (512, 256, 256)],
        (256, 128, 256, {"kernel_size": 4, "padding": 1}),
    ],
}


class VGG16(nn.Module):
    """Feature maps of conv4_3 (normalised), fc7 and the extra levels: 6 for `extras` 300, 7 for 512.

    Args:
        extras: extra levels of SSD300 or of SSD512.
        conv4_3_norm: `l2` as in the paper, or the `batch` norm of qfgaohao's code.
        mean, std: pixel normalisation of the RGB input, for pixels 0..255.
    """

    name = "vgg16"
    fresh_base_keys = ("31.", "33.")  # torchvision's VGG16 has no dilated fc6 and fc7

    def __init__(
        self,
        *,
        extras: Literal["300", "512"] = "300",
        conv4_3_norm: Literal["l2", "batch"] = "l2",  # missing in the recipes of the first checkpoints
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__()
        if conv4_3_norm not in ("l2", "batch"):
            raise ConfigError(f"backbone.conv4_3_norm={conv4_3_norm}: choose l2 or batch")
        self._extras, self._conv4_3_norm = str(extras), conv4_3_norm
        self.pixel_norm = PixelNorm(mean=mean, std=std)
        self.base = _base()
        self.conv4_3_norm = L2Norm(512, scale=20.0) if conv4_3_norm == "l2" else nn.BatchNorm2d(512)
        self.extras = nn.ModuleList(ExtraLevel(*level[:3], **level[3]) for level in _EXTRAS[self._extras])
        initialize(self)

    @property
    def arguments(self) -> dict[str, Any]:
        return {"extras": self._extras, "conv4_3_norm": self._conv4_3_norm, **self.pixel_norm.arguments()}

    @property
    def default_priors(self) -> PriorSpec:
        return PRIORS[self._extras]

    @property
    def default_image_size(self) -> int:
        return int(self._extras)

    def forward(self, images: Tensor) -> list[Float[Tensor, "B _ _ _"]]:
        conv4_3 = self.base[:_CONV4_3](self.pixel_norm(images))
        features = [self.conv4_3_norm(conv4_3), self.base[_CONV4_3:](conv4_3)]
        for level in self.extras:
            features.append(level(features[-1]))
        return features

    @property
    def imagenet_weights(self) -> str:
        """torchvision's copy of the weights that the SSD paper starts from."""
        return "vgg16_imagenet"

    @staticmethod
    def base_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Reads vgg16_reducedfc.pth and torchvision's VGG16."""
        return select_base(state, r"\d+\.(?:weight|bias)")


def _base() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for item in _BASE:
        if isinstance(item, int):
            layers += [nn.Conv2d(channels, item, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
            channels = item
        else:
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=item == "C"))
    pool5 = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
    fc6 = nn.Conv2d(512, 1024, kernel_size=3, padding=6, dilation=6)
    fc7 = nn.Conv2d(1024, 1024, kernel_size=1)
    return nn.Sequential(*layers, pool5, fc6, nn.ReLU(inplace=True), fc7, nn.ReLU(inplace=True))
