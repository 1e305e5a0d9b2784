from __future__ import annotations

import os
import pickle
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd.common.images import Picture
from ssd.data.index import DetectionIndex, PackedStrings, PictureRecord, build_index

CLASSES = ("cat", "dog", "owl")
BOX = st.tuples(*[st.integers(-4, 12).map(lambda eighths: eighths / 8)] * 4)
OBJECTS = st.lists(st.tuples(BOX, st.integers(0, 2), st.booleans()), max_size=5)
PICTURES = st.lists(OBJECTS, max_size=7)
Objects = list[tuple[tuple[float, float, float, float], int, bool]]


def gray(path: str, *, value: int) -> Picture:
    return np.full((2, 2, 3), value + len(path), dtype=np.uint8)


def packed(pictures: list[Objects]) -> DetectionIndex:
    records = [
        PictureRecord(
            path=f"folder/{number}.jpg",
            id=f"ímg-{number}",
            size=(100 + number, 200 + number),
            boxes=[box for box, _, _ in objects],
            labels=[label for _, label, _ in objects],
            ignore=[flag for _, _, flag in objects],
        )
        for number, objects in enumerate(pictures)
    ]
    return build_index(records, class_names=CLASSES, load=partial(gray, value=7))


def unpacked(index: DetectionIndex) -> list[Objects]:
    pictures = []
    for position in range(len(index)):
        rows = index.rows(position)
        columns = (index.boxes[rows].tolist(), index.labels[rows].tolist(), index.ignore[rows].tolist())
        pictures.append([(tuple(box), label, flag) for box, label, flag in zip(*columns, strict=True)])
    return pictures


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


@given(PICTURES)
def test_what_is_packed_comes_back(pictures: list[Objects]) -> None:
    index = packed(pictures)
    assert unpacked(index) == pictures
    assert names(index) == [
        (f"folder/{number}.jpg", f"ímg-{number}", [100 + number, 200 + number]) for number in range(len(pictures))
    ]
    assert index.picture_of_box().tolist() == [number for number, objects in enumerate(pictures) for _ in objects]


@given(PICTURES, st.data())
def test_take_picks_whole_pictures_in_the_order_asked_for(pictures: list[Objects], data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, len(pictures) - 1), max_size=9) if pictures else st.just([]))
    index = packed(pictures)
    taken = index.take(positions)
    assert unpacked(taken) == [pictures[position] for position in positions]
    assert names(taken) == [names(index)[position] for position in positions]
    assert taken.class_names == CLASSES


@given(PICTURES, st.data())
def test_keep_boxes_keeps_the_pictures_and_those_boxes(pictures: list[Objects], data: st.DataObject) -> None:
    index = packed(pictures)
    count = sum(map(len, pictures))
    flags = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    kept = index.keep_boxes(np.array(flags, dtype=bool))
    wanted = iter(flags)
    assert unpacked(kept) == [[item for item in objects if next(wanted)] for objects in pictures]
    assert names(kept) == names(index)
    assert unpacked(index) == pictures


@given(PICTURES)
def test_class_counts_leave_ignored_objects_out(pictures: list[Objects]) -> None:
    everything = [item for objects in pictures for item in objects]
    expected = [sum(label == wanted and not flag for _, label, flag in everything) for wanted in range(3)]
    assert packed(pictures).class_counts().tolist() == expected


@pytest.mark.parametrize("pictures", [[], [[]], [[], []]])
def test_empty_index_has_the_types_of_a_full_one(pictures: list[Objects]) -> None:
    for index in (packed(pictures), packed(pictures).take([]), packed(pictures).keep_boxes(np.zeros(0, dtype=bool))):
        assert index.boxes.shape == (0, 4)
        assert index.boxes.dtype == np.float32
        assert (index.labels.dtype, index.ignore.dtype, index.sizes.dtype) == (np.int32, np.bool_, np.int32)
        assert index.sizes.shape[1:] == (2,)


def test_index_travels_to_a_worker() -> None:
    index = packed([[((0.0, 0.0, 0.5, 0.5), 1, True)], []])
    copy = pickle.loads(pickle.dumps(index))
    assert unpacked(copy) == unpacked(index)
    assert np.array_equal(copy.load("ab"), index.load("ab"))
