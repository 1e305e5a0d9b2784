from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd.common.errors import DataError
from ssd.common.images import read_image
from ssd.data.index import DetectionIndex, ImageRecord, build_index
from ssd.data.validation import Report, check_unreadable, max_unreadable, validate

PIXELS = 64  # of either side: a power of two, so that pixels are exact fractions
EMPTY = "box without area (x2 <= x1 or y2 <= y1) dropped"
OUTSIDE = "box outside the image dropped"
CLIPPED = "box reaching outside the image clipped"
DUPLICATE = "duplicate box dropped"
Box = tuple[float, float, float, float]  # in pixels
Object = tuple[Box, int, bool]


def index_of(*images: list[Object]) -> DetectionIndex:
    records = [
        ImageRecord(
            path=f"{number}.jpg",
            id=str(number),
            size=(PIXELS, PIXELS),
            boxes=[tuple(edge / PIXELS for edge in box) for box, _, _ in objects],
            labels=[label for _, label, _ in objects],
            ignore=[flag for _, _, flag in objects],
            source_lines=[10 * number + row for row in range(len(objects))],
        )
        for number, objects in enumerate(images)
    ]
    return build_index(records, class_names=["cat", "dog"], load=partial(read_image))


def validated(*images: list[Object]) -> tuple[list[list[Object]], list[tuple[str, str]]]:
    """Objects of each image, and (file, rule) of every problem."""
    report = Report()
    index = validate(index_of(*images), report, strict=False)
    objects = []
    for position in range(len(index)):
        rows = index.rows(position)
        boxes = [tuple(box) for box in (index.boxes[rows].astype(float) * PIXELS).tolist()]
        objects.append(list(zip(boxes, index.labels[rows].tolist(), index.ignore[rows].tolist(), strict=True)))
    return objects, [(problem.file, problem.rule) for problem in report.problems]


def boxes(*edges: Box) -> list[Object]:
    return [(box, 0, False) for box in edges]


@pytest.mark.parametrize("box", [(20, 5, 10, 9), (5, 20, 9, 10), (20, 20, 10, 10), (5, 5, 5, 9), (5, 5, 9, 5)])
def test_inverted_box_and_box_without_area_are_dropped_and_counted_by_file(box: Box) -> None:
    good = (1.0, 2.0, 30.0, 40.0)
    assert validated(boxes(good), boxes(box, good)) == ([boxes(good), boxes(good)], [("1.jpg", EMPTY)])


def test_up_to_a_pixel_outside_is_clipped_silently() -> None:
    objects, problems = validated(boxes((-1, -0.5, 65, 64.5)))
    assert objects == [boxes((0, 0, 64, 64))]
    assert problems == []


@pytest.mark.parametrize("box", [(-1.5, 0, 64, 64), (0, -9, 64, 64), (0, 0, 65.5, 64), (0, 0, 64, 900)])
def test_more_than_a_pixel_outside_is_clipped_and_counted(box: Box) -> None:
    assert validated(boxes(box)) == ([boxes((0, 0, 64, 64))], [("0.jpg", CLIPPED)])


@pytest.mark.parametrize("box", [(-9, 5, 0, 9), (-9, 5, -3, 9), (64, 5, 70, 9), (5, 64, 9, 65), (5, -3, 9, -1)])
def test_box_wholly_outside_is_dropped_and_counted(box: Box) -> None:
    assert validated(boxes(box)) == ([[]], [("0.jpg", OUTSIDE)])


def test_duplicates_are_kept_once_and_counted() -> None:
    box = (1.0, 2.0, 30.0, 40.0)
    assert validated(boxes(box, box, box)) == ([boxes(box)], [("0.jpg", DUPLICATE)] * 2)


def test_equal_boxes_of_two_classes_or_two_images_are_no_duplicates() -> None:
    box = (1.0, 2.0, 30.0, 40.0)
    two_classes = [(box, 0, False), (box, 1, False)]
    assert validated(two_classes, boxes(box)) == ([two_classes, boxes(box)], [])


def test_boxes_that_clipping_makes_equal_are_duplicates() -> None:
    assert validated(boxes((-1, 0, 9, 9), (0, 0, 9, 9)))[0] == [boxes((0, 0, 9, 9))]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("strict", [False, True])
def test_coordinate_that_is_not_finite_is_an_error(value: float, strict: bool) -> None:
    index = index_of(boxes((1, 2, 3, 4)), boxes((5, 5, 5, 5), (1, 2, value, 4)))
    with pytest.raises(DataError, match=r"^1\.jpg: .*not finite.* px; 1\.jpg, 64 x 64 px$"):
        validate(index, Report(), strict=strict)


@pytest.mark.parametrize("wrong", [[(5, 5, 5, 9)], [(-3, 0, 9, 9)], [(70, 70, 80, 80)], [(1, 1, 9, 9)] * 2])
def test_strict_refuses_a_box_that_would_be_changed(wrong: list[Box]) -> None:
    report = Report()
    with pytest.raises(DataError, match=r"^1\.jpg: .* \(dataset\.strict=true\)$"):
        validate(index_of(boxes((1, 2, 3, 4)), boxes(*wrong)), report, strict=True)
    assert report.problems == []


def test_strict_allows_a_pixel() -> None:
    assert validate(index_of(boxes((-1, 0, 65, 64))), Report(), strict=True).boxes.tolist() == [[0, 0, 1, 1]]


EDGE = st.integers(-24, 88).map(float)
OBJECTS = st.lists(st.tuples(st.tuples(EDGE, EDGE, EDGE, EDGE), st.integers(0, 1), st.booleans()), max_size=6)


def naive(objects: list[Object]) -> tuple[list[Object], list[str]]:
    """The rules again, one box at a time."""
    kept: list[Object] = []
    rules: list[str] = []
    for (x1, y1, x2, y2), label, flag in objects:
        box = tuple(min(max(edge, 0.0), float(PIXELS)) for edge in (x1, y1, x2, y2))
        if x2 <= x1 or y2 <= y1:
            rules.append(EMPTY)
        elif box[2] <= box[0] or box[3] <= box[1]:
            rules.append(OUTSIDE)
        else:
            if min(x1, y1) < -1 or max(x2, y2) > PIXELS + 1:
                rules.append(CLIPPED)
            if any((box, label) == other[:2] for other in kept):
                rules.append(DUPLICATE)
            else:
                kept.append((box, label, flag))
    return kept, sorted(rules)


@given(st.lists(OBJECTS, max_size=4))
def test_validation_follows_its_rules_box_by_box(images: list[list[Object]]) -> None:
    """Labels and flags stay with their boxes, every image stays, every change is reported with its file."""
    objects, problems = validated(*images)
    assert objects == [naive(image)[0] for image in images]
    for number, image in enumerate(images):
        assert sorted(rule for file, rule in problems if file == f"{number}.jpg") == naive(image)[1]


@given(st.lists(OBJECTS, max_size=4))
def test_validating_twice_is_validating_once(images: list[list[Object]]) -> None:
    report = Report()
    once = validate(index_of(*images), Report(), strict=False)
    twice = validate(once, report, strict=True)
    assert np.array_equal(twice.boxes, once.boxes)
    assert np.array_equal(twice.box_offsets, once.box_offsets)
    assert report.problems == []


def test_validation_leaves_its_argument_alone() -> None:
    index = index_of(boxes((-9, 0, 99, 64), (5, 5, 5, 5)))
    before = index.boxes.copy()
    validate(index, Report(), strict=False)
    assert np.array_equal(index.boxes, before)


def test_problems_name_file_line_and_box() -> None:
    records = [
        ImageRecord("1.jpg", "1", (64, 64), [(1, 2, 3, 4)], [0], [False], [11], "1.xml:"),
        ImageRecord("2.jpg", "2", (64, 64), [(0.5, 0.5, 0.5, 0.75)], [0], [False], [7], "b.json: annotation "),
        ImageRecord("3.jpg", "3", (64, 64), [(0.5, 0.5, 0.5, 0.75)], [0], [False], [0]),
    ]
    report = Report()
    kept = validate(build_index(records, class_names=["cat"], load=read_image), report, strict=False)
    assert {problem.file: problem.value for problem in report.problems} == {
        "1.xml:11": "(64, 128, 192, 256) px; 1.jpg, 64 x 64 px",
        "b.json: annotation 7": "(32, 32, 32, 48) px; 2.jpg, 64 x 64 px",
        "3.jpg": "(32, 32, 32, 48) px; 3.jpg, 64 x 64 px",
    }
    assert len(kept.boxes) == 0


def test_collecting_report_lists_all_errors_and_strict_ones_are_fatal() -> None:
    report = Report(collect_all=True)
    kept = validate(index_of(boxes((5, 5, 5, 9), (1, np.nan, 3, 4), (1, 2, 3, 4))), report, strict=True)
    assert [problem.fatal for problem in report.problems] == [True, True]
    assert len(kept.boxes) == 1


# Unreadable images


@pytest.mark.parametrize(
    ("images", "limit"), [(0, 0), (4, 0), (5, 1), (49, 9), (50, 10), (1000, 10), (1100, 11), (10**6, 10**4)]
)
def test_training_skips_ten_images_or_a_hundredth_but_never_more_than_a_fifth(images: int, limit: int) -> None:
    assert max_unreadable(images, strict=False) == limit
    assert max_unreadable(images, strict=True) == 0
    broken = [(f"{number}.jpg", f"{number}.jpg: empty file") for number in range(limit + 1)]
    report = Report()
    check_unreadable(broken[:limit], images=images, report=report, split="val")
    assert [(problem.file, problem.skipped_from) for problem in report.problems] == [
        (path, "val") for path, _ in broken[:limit]
    ]
    with pytest.raises(DataError, match=rf"^{limit + 1} of {images} images .* at most {limit}\): 0.jpg: empty file"):
        check_unreadable(broken, images=images, report=Report())


def test_strict_names_the_setting() -> None:
    with pytest.raises(DataError, match=r"1 of 999 images .*dataset\.strict=true.*: a\.jpg: empty file"):
        check_unreadable([("a.jpg", "a.jpg: empty file")], images=999, report=Report(), strict=True)


def test_no_broken_image_is_fine_in_any_number_of_images() -> None:
    for images in (0, 1, 10**7):
        check_unreadable([], images=images, report=Report())


def test_report_has_a_line_for_each_rule_the_commonest_first() -> None:
    report = Report()
    report.add("a.jpg", "rare")
    for number in range(7):
        report.add(f"{number // 2}.jpg", "common")
    for number in range(6):
        report.add(f"{number}.jpg", "medium")
    assert report.summary_lines() == [
        "7 x common: 0.jpg, 1.jpg, 2.jpg, 3.jpg",
        "6 x medium: 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg and 1 more",
        "1 x rare: a.jpg",
    ]
