"""Boxes whose annotation was written for another frame than the image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ssd.data.reading.written_sizes import Frame, to_fractions

HEIGHT, WIDTH = 40, 60  # as stored


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


@given(st.integers(5, 8), st.integers(0, WIDTH - 8), st.integers(0, HEIGHT - 8))
def test_boxes_of_the_stored_image_turn_with_it(orientation: int, x: int, y: int) -> None:
    stored = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    stored[y : y + 3, x : x + 5] = 255
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image))
    size = upright.shape
    found, frame = to_fractions(
        boxes((x, y, x + 5, y + 3)), written=(HEIGHT, WIDTH), size=size, orientation=lambda: orientation
    )
    rows, columns = np.nonzero(upright)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert frame == Frame.STORED
    assert (found * (size[1], size[0], size[1], size[0])).round(6).tolist() == [expected]


@pytest.mark.parametrize("scale", [0.5, 2, 1.37])
def test_boxes_of_a_resized_image_are_rescaled(scale: float) -> None:
    size = (round(HEIGHT * scale), round(WIDTH * scale))
    found, frame = to_fractions(boxes((6, 4, 30, 20)), written=(HEIGHT, WIDTH), size=size, orientation=lambda: 1)
    assert frame == Frame.RESIZED
    assert found.tolist() == [[0.1, 0.1, 0.5, 0.5]]


@pytest.mark.parametrize(
    ("box", "written", "frame"),
    [
        ((6, 4, 30, 20), None, Frame.IMAGE),
        ((6, 4, 30, 20), (HEIGHT, WIDTH), Frame.IMAGE),
        ((6, 4, 300, 20), (HEIGHT, WIDTH), Frame.IMAGE),  # validation clips and reports it
        ((6, 4, 30, 20), (HEIGHT, WIDTH + 9), Frame.UNKNOWN),
        ((6, 4, 30, 20), (WIDTH, HEIGHT), Frame.UNKNOWN),  # swapped, but the image has no EXIF rotation
        ((6, 4, 55, 20), (20, 30), Frame.UNKNOWN),  # fits the image only
        ((6, 4, 300, 20), (20, 30), Frame.NEITHER),
        ((-9, 4, 30, 20), (20, 30), Frame.NEITHER),
    ],
)
def test_the_image_is_used_unless_the_written_size_explains_the_boxes(
    box: tuple[float, float, float, float], written: tuple[int, int] | None, frame: Frame
) -> None:
    found, seen = to_fractions(boxes(box), written=written, size=(HEIGHT, WIDTH), orientation=lambda: 1)
    assert seen == frame
    assert np.allclose(found, np.array([box]) / (WIDTH, HEIGHT, WIDTH, HEIGHT))


def test_an_image_without_boxes_flows_through() -> None:
    found, frame = to_fractions(boxes(), written=(7, 30), size=(HEIGHT, WIDTH), orientation=lambda: 6)
    assert found.shape == (0, 4)
    assert frame == Frame.UNKNOWN
