from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssd.common.structures import Detections
from ssd.visualization.draw import class_colours, draw, draw_boxes, printable

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
            assert tuple(image[y, x]) == class_colours(CLASS_NAMES)[label]
        assert tuple(image[100, 90]) == (128, 128, 128)
        assert tuple(image[180, 200]) == (128, 128, 128)


def test_the_result_is_a_writable_image_of_the_same_size() -> None:
    for found in (detections(), detections((0.1, 0.1, 0.5, 0.5))):
        image = draw(gray(), found, CLASS_NAMES)
        assert image.shape == (200, 300, 3)
        assert image.dtype == np.uint8
        assert image.flags.writeable


def test_without_detections_the_image_is_equal() -> None:
    assert np.array_equal(draw(gray(), detections(), CLASS_NAMES), gray())


def test_the_argument_is_not_changed() -> None:
    image = gray()
    draw(image, detections((0.1, 0.1, 0.5, 0.5)), CLASS_NAMES)[:] = 0
    draw(image, detections(), CLASS_NAMES)[:] = 0
    assert np.array_equal(image, gray())


@pytest.mark.parametrize("x", [0, 0.02, 0.98, 1])
@pytest.mark.parametrize("y", [0, 0.02, 0.5, 0.98, 1])
@pytest.mark.parametrize("label", [0, 1])
def test_the_whole_label_is_inside_the_image(x: float, y: float, label: int) -> None:
    """For a box without area there is little but the label: as large at the edge as in the middle."""

    def label_size(x: float, y: float) -> tuple[int, int]:
        x1, y1, x2, y2 = changed(draw(gray(), detections((x, y, x, y), label=label), CLASS_NAMES))
        return x2 - x1, y2 - y1

    assert np.abs(np.subtract(label_size(x, y), label_size(0.3, 0.5))).max() <= 4


def test_labels_move_to_a_free_place() -> None:
    box = (0.2, 0.3, 0.6, 0.8)
    once = draw(gray(), detections(box), CLASS_NAMES)
    thrice = draw(gray(), detections(box, box, box), CLASS_NAMES)
    assert (thrice != 128).any(axis=2).sum() > (once != 128).any(axis=2).sum() + 400


def test_line_and_text_grow_with_the_image() -> None:
    box = (0.25, 0.25, 0.75, 0.75)
    small, large = (draw(gray(side, side), detections(box), CLASS_NAMES) for side in (200, 2000))
    x1, y1, _, _ = changed(small)
    assert changed(large)[1] < 500 - (50 - y1)  # the label above the box is taller
    assert x1 == 50
    assert tuple(large[1000, 504]) == class_colours(CLASS_NAMES)[0]
    assert tuple(small[100, 54]) == (128, 128, 128)


edge = st.floats(0, 1, width=32)


@given(st.integers(1, 60), st.integers(1, 60), st.lists(st.tuples(edge, edge, edge, edge), max_size=8))
def test_any_box_on_any_image_can_be_drawn(height: int, width: int, boxes: list[Box]) -> None:
    """Also boxes of no area, inverted ones, and images smaller than the text."""
    assert draw(gray(height, width), detections(*boxes, label=1), CLASS_NAMES).shape == (height, width, 3)


def test_no_two_classes_share_a_colour_and_few_classes_look_different() -> None:
    for count in (1, 20, 80, 600):
        colours = class_colours(tuple(f"class {number}" for number in range(count)))
        assert len(set(colours)) == count
    first = np.array(class_colours(("person", "car", "bus", "truck", "bicycle", "dog", "cat", "chair"))).astype(int)
    apart = [np.abs(one - other).sum() for one, other in combinations(first, 2)]
    assert min(apart) > 90


def test_a_class_keeps_its_colour_in_another_model() -> None:
    (alone,) = class_colours(("person",))
    assert class_colours(("person", "car"))[0] == alone
    assert class_colours(("car", "person"))[1] == alone


@pytest.mark.parametrize("name", ["사람", "자동차", "猫", "くるま", "Größe", "автобус", "person"])
def test_names_in_many_scripts_are_drawn(name: str) -> None:
    """No two letters look alike: a font without them draws the same box or question mark for each."""
    assert printable(name, 7) == name
    written = {draw(gray(), detections((0.3, 0.5, 0.3, 0.5)), (letter,)).tobytes() for letter in name}
    assert len(written) == len(set(name))


@pytest.mark.parametrize("name", ["รถ", "سيارة", "מכונית", "कार"])
def test_a_class_without_glyphs_is_drawn_by_number(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="ssd"):
        for _ in range(2):
            assert printable(name, 7) == "class 7"
    assert len(caplog.messages) == 1
    assert printable("what?", 7) == "what?"


def test_track_numbers_are_drawn() -> None:
    found = detections((0.2, 0.3, 0.6, 0.8))
    without, with_number = draw(gray(), found, CLASS_NAMES), draw(gray(), found, CLASS_NAMES, track_ids=[12])
    assert np.array_equal(without, draw(gray(), found, CLASS_NAMES, track_ids=[None]))
    assert changed(with_number) == changed(without)
    assert not np.array_equal(with_number, without)


def test_labels_do_not_cover_each_other() -> None:
    """The label of the best is what it is alone, and of many there is not one more than there is room for."""
    box = (0.1, 0.4, 0.4, 0.5)
    alone, few, many = (draw(gray(), detections(*[box] * count), CLASS_NAMES)[:80] for count in (1, 15, 200))
    label = (alone != 128).any(axis=2)
    assert label.sum() > 200
    assert np.array_equal(few[label], alone[label])
    assert (many == 128).all(axis=2).any()


def test_an_empty_text_has_no_label() -> None:
    box = np.array([[0.2, 0.3, 0.6, 0.8]])
    image = draw_boxes(gray(), box, [""], [(255, 0, 0)])
    np.testing.assert_allclose(changed(image), (60, 60, 180, 160), atol=1)
