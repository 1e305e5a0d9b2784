"""Images for the comparison and calibration of exported networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from media import write_image, write_video

from ssd.cli.sample_images import MAX_IMAGES, read_images, rendered_images, sample_images
from ssd.common.errors import ConfigError
from ssd.common.images import read_image
from ssd.data.formats.shapes import read_shapes


def test_rendered_images_are_reproducible_and_not_uniform() -> None:
    for image, again in zip(rendered_images(), rendered_images(), strict=True):
        assert np.array_equal(image, again)
        assert image.std() > 0


def test_images_are_spread_over_a_folder(tmp_path: Path) -> None:
    paths = [write_image(tmp_path / f"{number:03}.png", seed=number) for number in range(MAX_IMAGES + 8)]
    images = read_images(str(tmp_path))
    assert len(images) == MAX_IMAGES
    assert np.array_equal(images[0], read_image(paths[0]))
    assert np.array_equal(images[-1], read_image(paths[-1]))


def test_folder_without_images_is_an_error(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames=2)
    with pytest.raises(ConfigError, match=f"images={tmp_path}: "):
        read_images(str(tmp_path))


def test_images_are_spread_over_a_dataset() -> None:
    index = read_shapes(train=9, val=1, test=1, side_px=64, seed=0).train
    spread, everything = list(sample_images(index, 3)), list(sample_images(index, 20))
    assert (len(spread), len(everything)) == (3, 9)
    for image, position in zip(spread, (0, 4, 8), strict=True):
        assert np.array_equal(image, everything[position])
