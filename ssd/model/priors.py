"""Prior (default) boxes, built for the grid sizes that were measured on the backbone.

Source: SSD paper, section 2.2; the published configurations are in the modules of their backbones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ssd.common.errors import ConfigError
from ssd.common.image_size import ImageSize, height_width

Clip = Literal["all", "sizes", "none"]
Grid = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PriorSpec:
    """Scales, aspect ratios and spacing of the priors on each feature map.

    Args:
        scales: L + 1 ascending sides of the squares, as fractions of the input's shorter side. Level k has a small
            square of side scales[k], a square of side sqrt(scales[k] * scales[k+1]), then for each ratio r two boxes
            with the small square's area: wide (w/h = r) and tall (h/w = r), in pixels of the input.
        aspect_ratios: for each level, the ratios r > 1; the squares are always included.
        steps_px: input side in pixels -> published distance between cell centres, per level. An input side that is
            not listed uses ceil(side / cells).
        clip: what is clamped to [0, 1]: `all` of cx, cy, w, h (amdegroot, qfgaohao, lufficc, NVIDIA), the `sizes`
            w, h (torchvision), or `none` (Caffe). With `all`, priors at the border of coarse grids move their centres.

    Raises:
        ConfigError: a value that is not a number or out of its range, or lists of different lengths.
    """

    scales: Sequence[float]
    aspect_ratios: Sequence[Sequence[float]]
    clip: Clip
    steps_px: Mapping[Any, Sequence[float]] = field(default_factory=dict)  # int keys; text from JSON becomes int

    def __post_init__(self) -> None:
        try:
            values = {
                "scales": list(map(float, self.scales)),
                "aspect_ratios": [list(map(float, ratios)) for ratios in self.aspect_ratios],
                "steps_px": {int(side): list(map(float, steps)) for side, steps in self.steps_px.items()},
            }
        except (TypeError, ValueError) as error:
            raise ConfigError(f"priors: scales, aspect_ratios and steps_px must hold numbers: {error}") from error
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if self.clip not in ("all", "sizes", "none"):
            raise ConfigError(f"priors.clip={self.clip}: choose all, sizes or none")
        if len(self.scales) != len(self.aspect_ratios) + 1:
            raise ConfigError(
                f"priors.scales has {len(self.scales)} entries, priors.aspect_ratios {len(self.aspect_ratios)}: "
                "give one scale more than levels (the last level uses two)"
            )
        if not all(0 < low < high for low, high in pairwise(self.scales)):
            raise ConfigError(f"priors.scales={self.scales}: must be above 0 and ascending")
        if not all(ratio > 0 for ratios in self.aspect_ratios for ratio in ratios):
            raise ConfigError(f"priors.aspect_ratios={self.aspect_ratios}: must be above 0")
        for side, steps in self.steps_px.items():
            if len(steps) != self.levels or not all(step > 0 for step in steps):
                raise ConfigError(
                    f"priors.steps_px.{side}={steps}: give {self.levels} steps above 0, one per level, or remove "
                    f"{side} to derive them"
                )

    @property
    def levels(self) -> int:
        """Number of feature levels (L)."""
        return len(self.aspect_ratios)

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Number of priors per cell, for each level."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    def build(self, grids: Sequence[Grid], *, image_size: ImageSize) -> Float[Tensor, "P 4"]:
        """The priors level by level, cells row by row, within a cell in the order given above.

        Args:
            grids: (rows, columns) of each feature map.
            image_size: the side, or (height, width), in pixels.

        Returns:
            cxcywh fractions of the image, float32.

        Raises:
            ConfigError: the number of levels differs from the number of feature maps.
        """
        if len(grids) != self.levels:
            raise ConfigError(
                f"{self.levels} levels of priors, {len(grids)} feature maps: give priors of as many levels, or "
                "priors=auto for those of the backbone"
            )
        height, width = height_width(image_size)
        published = self.steps_px.get(height) if height == width else None
        levels = []
        for level, (rows, columns) in enumerate(grids):
            step_px = published[level] if published else None
            steps = (step_px or math.ceil(height / rows)) / height, (step_px or math.ceil(width / columns)) / width
            sizes = [(w * min(height, width) / width, h * min(height, width) / height) for w, h in self._sizes(level)]
            levels.append(_priors_of_level((rows, columns), steps=steps, sizes=sizes))
        priors = torch.cat(levels)
        if self.clip == "all":
            priors.clamp_(0, 1)
        elif self.clip == "sizes":
            priors[:, 2:].clamp_(0, 1)
        return priors.float()

    def _sizes(self, level: int) -> list[tuple[float, float]]:
        small, next_small = self.scales[level], self.scales[level + 1]
        middle = math.sqrt(small * next_small)
        sizes = [(small, small), (middle, middle)]
        for ratio in self.aspect_ratios[level]:
            root = math.sqrt(ratio)
            sizes += [(small * root, small / root), (small / root, small * root)]
        return sizes

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for a checkpoint's recipe; `PriorSpec(**spec.as_dict())` is the same spec."""
        return asdict(self)


def _priors_of_level(
    grid: Grid, *, steps: tuple[float, float], sizes: Iterable[tuple[float, float]]
) -> Float[Tensor, "N 4"]:
    rows, columns = grid
    centre_y = (torch.arange(rows, dtype=torch.float64) + 0.5) * steps[0]
    centre_x = (torch.arange(columns, dtype=torch.float64) + 0.5) * steps[1]
    centres = torch.stack(torch.meshgrid(centre_y, centre_x, indexing="ij")[::-1], dim=-1)  # [rows, columns, xy]
    sizes_wh = torch.tensor(list(sizes), dtype=torch.float64)
    shape = (rows, columns, len(sizes_wh), 2)
    return torch.cat((centres[:, :, None].expand(shape), sizes_wh.expand(shape)), dim=-1).reshape(-1, 4)
