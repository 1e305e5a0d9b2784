"""Pictures on which predictors are compared, timed and calibrated."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ssd.data.index import DetectionIndex
from ssd.data.shapes import render
from ssd.errors import ConfigError
from ssd.images import Picture, read_image
from ssd.prediction.sources import find_files

MAX_PICTURES = 32


def example_pictures(source: str | None) -> list[Picture]:
    """Up to MAX_PICTURES of a folder, spread over it; without one rendered shapes and noise.

    No empty picture: where all cells look alike, scores are equal, and which ones are kept is arbitrary.
    """
    if source is None:
        noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
        return [*(render(f"test/{number:06d}", side_px=320, seed=0) for number in range(10)), noise]
    paths = [str(medium.path) for medium in find_files(source) if not medium.is_video]
    if not paths:
        raise ConfigError(f"pictures={source}: only videos there; give a folder of pictures")
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), MAX_PICTURES)).round().astype(int)
    return [read_image(paths[position]) for position in chosen]


def spread_over(index: DetectionIndex, count: int) -> Iterator[Picture]:
    """Up to `count` pictures of a dataset, read one by one."""
    for position in np.linspace(0, len(index) - 1, min(len(index), count)).round().astype(int):
        yield index.load(index.paths[position])
