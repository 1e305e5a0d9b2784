from __future__ import annotations

import os
import pickle
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd.common.images import ImageArray
from ssd.data.index import DetectionIndex, ImageRecord, PackedStrings, build_index

CLASSES = ("cat", "dog", "owl")
BOX = st.tuples(*[st.integers(-4, 12).map(lambda eighths: eighths / 8)] * 4)
OBJECTS = st.lists(st.tuples(BOX, st.integers(0, 2), st.booleans()), max_size=5)
IMAGES = st.lists(OBJECTS, max_size=7)
Objects = list[tuple[tuple[float, float, float, float], int, bool]]


def gray(path: str, *, value: int) -> ImageArray:
    return np.full((2, 2, 3), value + len(path), dtype=np.uint8)


def packed(images: list[Objects]) -> DetectionIndex:
    records = [
        ImageRecord(
            path=f"folder/{number}.jpg",
            id=f"ímg-{number}",
            size=(100 + number, 200 + number),
            boxes=[box for box, _, _ in objects],
            labels=[label for _, label, _ in objects],
            ignore=[flag for _, _, flag in objects],
            source_lines=[10 * number + row for row in range(len(objects))],
        )
        for number, objects in enumerate(images)
    ]
    return build_index(records, class_names=CLASSES, load=partial(gray, value=7))


def unpacked(index: DetectionIndex) -> list[Objects]:
    images = []
    for position in range(len(index)):
        rows = index.rows(position)
        columns = (index.boxes[rows].tolist(), index.labels[rows].tolist(), index.ignore[rows].tolist())
        images.append([(tuple(box), label, flag) for box, label, flag in zip(*columns, strict=True)])
    return images


def names(index: DetectionIndex) -> list[tuple[str, str, list[int]]]:
    return [(index.paths[row], index.ids[row], index.sizes[row].tolist()) for row in range(len(index))]


# Strings


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_packed_strings_come_back(strings: list[str]) -> None:
    packed_strings = PackedStrings.pack(strings)
    assert [packed_strings[position] for position in range(len(packed_strings))] == strings


def test_packed_strings_of_many_bytes_a_letter() -> None:
    strings = ["", "a", "größe", "猫/犬.jpg", "🦝", ""]
    packed_strings = PackedStrings.pack(iter(strings))
    assert [packed_strings[position] for position in range(6)] == strings
    assert packed_strings[-1] == ""
    assert len(packed_strings.data) == sum(len(string.encode()) for string in strings)


def test_file_names_that_are_not_unicode_come_back() -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    assert PackedStrings.pack([name])[0] == name


@given(st.lists(st.text("aé猫"), min_size=1), st.data())
def test_taking_packed_strings_is_taking_strings(strings: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(strings) - 1)))
    taken = PackedStrings.pack(strings).take(np.array(rows, dtype=np.int64))
    assert [taken[position] for position in range(len(taken))] == [strings[row] for row in rows]


# The index


@given(IMAGES)
def test_what_is_packed_comes_back(images: list[Objects]) -> None:
    index = packed(images)
    assert unpacked(index) == images
    assert names(index) == [
        (f"folder/{number}.jpg", f"ímg-{number}", [100 + number, 200 + number]) for number in range(len(images))
    ]
    assert index.image_of_box().tolist() == [number for number, objects in enumerate(images) for _ in objects]


@given(IMAGES, st.data())
def test_take_picks_whole_images_in_the_order_asked_for(images: list[Objects], data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, len(images) - 1), max_size=9) if images else st.just([]))
    index = packed(images)
    taken = index.take(positions)
    assert unpacked(taken) == [images[position] for position in positions]
    assert names(taken) == [names(index)[position] for position in positions]
    assert taken.class_names == CLASSES
    assert taken.source_lines.tolist() == [10 * n + row for n in positions for row in range(len(images[n]))]


@given(IMAGES, st.data())
def test_keep_boxes_keeps_the_images_and_those_boxes(images: list[Objects], data: st.DataObject) -> None:
    index = packed(images)
    count = sum(map(len, images))
    flags = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    kept = index.keep_boxes(np.array(flags, dtype=bool))
    wanted = iter(flags)
    assert unpacked(kept) == [[item for item in objects if next(wanted)] for objects in images]
    assert names(kept) == names(index)
    assert kept.source_lines.tolist() == index.source_lines[np.array(flags, dtype=bool)].tolist()
    assert unpacked(index) == images


@given(IMAGES)
def test_class_counts_leave_ignored_objects_out(images: list[Objects]) -> None:
    everything = [item for objects in images for item in objects]
    expected = [sum(label == wanted and not flag for _, label, flag in everything) for wanted in range(3)]
    assert packed(images).class_counts().tolist() == expected


@pytest.mark.parametrize("images", [[], [[]], [[], []]])
def test_empty_index_has_the_types_of_a_full_one(images: list[Objects]) -> None:
    for index in (packed(images), packed(images).take([]), packed(images).keep_boxes(np.zeros(0, dtype=bool))):
        assert index.boxes.shape == (0, 4)
        assert index.boxes.dtype == np.float32
        assert (index.labels.dtype, index.ignore.dtype, index.sizes.dtype) == (np.int32, np.bool_, np.int32)
        assert index.sizes.shape[1:] == (2,)


def test_index_can_be_pickled() -> None:
    index = packed([[((0.0, 0.0, 0.5, 0.5), 1, True)], []])
    copy = pickle.loads(pickle.dumps(index))
    assert unpacked(copy) == unpacked(index)
    assert np.array_equal(copy.load("ab"), index.load("ab"))
