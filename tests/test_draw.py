from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssd.draw import class_colour, draw
from ssd.structures import Detections

CLASS_NAMES = ("cat", "a class with a rather long name", "猫")
Box = tuple[float, float, float, float]


def detections(*boxes: Box, label: int = 0) -> Detections:
    count = len(boxes)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(count, 4),
        torch.linspace(0.9, 0.5, count),
        torch.full((count,), label),
    )


def gray(height: int = 200, width: int = 300) -> np.ndarray:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def changed(image: np.ndarray) -> Box:
    """xyxy of the pixels that are no longer gray."""
    rows, columns = np.nonzero((image != 128).any(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_the_box_is_drawn_in_the_colour_of_its_class() -> None:
    for label in range(3):
        image = draw(gray(), detections((0.1, 0.25, 0.5, 0.75), label=label), CLASS_NAMES)
        for y, x in ((100, 30), (100, 150), (150, 90)):  # left, right, bottom
            assert tuple(image[y, x]) == class_colour(label)
        assert tuple(image[100, 90]) == (128, 128, 128)
        assert tuple(image[180, 200]) == (128, 128, 128)


def test_the_result_is_a_picture_of_the_same_size_that_can_be_written_to() -> None:
    for found in (detections(), detections((0.1, 0.1, 0.5, 0.5))):
        image = draw(gray(), found, CLASS_NAMES)
        assert image.shape == (200, 300, 3)
        assert image.dtype == np.uint8
        assert image.flags.writeable


def test_without_detections_the_picture_is_equal() -> None:
    assert np.array_equal(draw(gray(), detections(), CLASS_NAMES), gray())


def test_the_argument_is_left_alone() -> None:
    image = gray()
    draw(image, detections((0.1, 0.1, 0.5, 0.5)), CLASS_NAMES)[:] = 0
    draw(image, detections(), CLASS_NAMES)[:] = 0
    assert np.array_equal(image, gray())


@pytest.mark.parametrize("x", [0, 0.02, 0.98, 1])
@pytest.mark.parametrize("y", [0, 0.02, 0.5, 0.98, 1])
@pytest.mark.parametrize("label", [0, 1])
def test_the_whole_label_is_inside_wherever_the_box_is(x: float, y: float, label: int) -> None:
    """For a box without area there is little but the label: as large at the edge as in the middle."""

    def label_size(x: float, y: float) -> tuple[int, int]:
        x1, y1, x2, y2 = changed(draw(gray(), detections((x, y, x, y), label=label), CLASS_NAMES))
        return x2 - x1, y2 - y1

    assert np.abs(np.subtract(label_size(x, y), label_size(0.3, 0.5))).max() <= 4


def test_labels_move_aside_for_one_another() -> None:
    box = (0.2, 0.3, 0.6, 0.8)
    once = draw(gray(), detections(box), CLASS_NAMES)
    thrice = draw(gray(), detections(box, box, box), CLASS_NAMES)
    assert (thrice != 128).any(axis=2).sum() > (once != 128).any(axis=2).sum() + 400


def test_line_and_text_grow_with_the_picture() -> None:
    box = (0.25, 0.25, 0.75, 0.75)
    small, large = (draw(gray(side, side), detections(box), CLASS_NAMES) for side in (200, 2000))
    x1, y1, _, _ = changed(small)
    assert changed(large)[1] < 500 - (50 - y1)  # the label above the box is taller
    assert x1 == 50
    assert tuple(large[1000, 504]) == class_colour(0)
    assert tuple(small[100, 54]) == (128, 128, 128)


edge = st.floats(0, 1, width=32)


@given(st.integers(1, 60), st.integers(1, 60), st.lists(st.tuples(edge, edge, edge, edge), max_size=8))
def test_any_box_on_any_picture_can_be_drawn(height: int, width: int, boxes: list[Box]) -> None:
    """Also boxes of no area, inverted ones, and pictures smaller than the text."""
    assert draw(gray(height, width), detections(*boxes, label=1), CLASS_NAMES).shape == (height, width, 3)


def test_neighbouring_classes_differ_in_colour() -> None:
    colours = [np.array(class_colour(label)) for label in range(20)]
    assert min(np.abs(one - other).sum() for one, other in pairwise(colours)) > 150
    assert len({tuple(colour) for colour in colours}) == 20
    assert class_colour(600) == class_colour(600)
