"""Images on which an exported network is compared, calibrated and timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from ssd.common.errors import ConfigError, DataError
from ssd.common.images import ImageArray, read_image
from ssd.data.formats.shapes import render
from ssd.data.index import DetectionIndex
from ssd.inference.sources import find_files

MAX_IMAGES = 32


def rendered_images() -> list[ImageArray]:
    """Ten images of shapes, and one of noise.

    None is uniform: with equal cells the scores are equal, and which detections NMS keeps is arbitrary.
    """
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    return [*(render(f"test/{number:06d}", side_px=320, seed=0) for number in range(10)), noise]


def read_images(source: str) -> list[ImageArray]:
    """Up to MAX_IMAGES images of a file, folder or glob, evenly spread.

    Raises:
        ConfigError: there is no image.
        DataError: an image cannot be read.
    """
    paths = [str(medium.path) for medium in find_files(source) if medium.kind != "video"]
    if not paths:
        raise ConfigError(f"images={source}: has videos only; give a folder of images")
    return [read_image(paths[position]) for position in _evenly_spread(len(paths), MAX_IMAGES)]


def sample_images(index: DetectionIndex, count: int) -> Iterator[ImageArray]:
    """Up to `count` images of a dataset, evenly spread, read one by one; unreadable ones are skipped."""
    for position in _evenly_spread(len(index), count):
        with suppress(DataError):
            yield index.load(index.paths[position])


def _evenly_spread(length: int, count: int) -> list[int]:
    return np.linspace(0, length - 1, min(length, count)).round().astype(int).tolist()
