from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from ssd.common.errors import DataError
from ssd.data.formats import shapes
from ssd.data.formats.shapes import CLASS_NAMES, read_shapes, render
from ssd.data.index import DetectionIndex
from ssd.data.splits import Splits

SIDE = 96


@cache
def small() -> Splits:
    return read_shapes(train=200, val=60, test=40, side_px=SIDE, seed=0)


def every_index() -> list[DetectionIndex]:
    return [index for _, index in small().items()]


def images(index: DetectionIndex, count: int) -> list[np.ndarray]:
    return [index.load(index.paths[position]) for position in range(count)]


def test_splits_have_the_sizes_asked_for_and_the_same_classes() -> None:
    assert {name: len(index) for name, index in small().items()} == {"train": 200, "val": 60, "test": 40}
    assert {index.class_names for index in every_index()} == {CLASS_NAMES}


def test_reading_and_rendering_twice_gives_the_same() -> None:
    again = read_shapes(train=200, val=60, test=40, side_px=SIDE, seed=0)
    for first, second in zip(every_index(), (again.train, again.val, again.test), strict=True):
        assert np.array_equal(first.boxes, second.boxes)
        assert np.array_equal(first.labels, second.labels)
        for one, other in zip(images(first, 10), images(second, 10), strict=True):
            assert np.array_equal(one, other)


def test_a_longer_split_starts_with_the_shorter_one() -> None:
    shorter = read_shapes(train=20, val=0, test=0, side_px=SIDE, seed=0).train
    assert np.array_equal(shorter.boxes, small().train.take(range(20)).boxes)


def test_another_seed_gives_other_images() -> None:
    other = read_shapes(train=10, val=0, test=0, side_px=SIDE, seed=1).train
    assert not np.array_equal(other.sizes, small().train.sizes[:10])


def test_no_image_is_in_two_splits() -> None:
    scenes = [index.load(index.paths[position]).tobytes() for index in every_index() for position in range(40)]
    assert len(set(scenes)) == len(scenes)


def test_every_class_is_common_in_every_split() -> None:
    for index in every_index():
        counts = index.class_counts()
        assert counts.min() > 0.4 * counts.mean()


def test_some_images_have_no_object_and_most_have_several() -> None:
    counts = np.concatenate([np.diff(index.box_offsets) for index in every_index()])
    assert 0.01 < (counts == 0).mean() < 0.15
    assert (counts > 1).mean() > 0.5


def test_boxes_are_inside_and_vary_in_size_and_place() -> None:
    boxes = np.concatenate([index.boxes for index in every_index()])
    assert boxes.min() >= -1e-6
    assert boxes.max() <= 1 + 1e-6
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    assert np.quantile(sides, 0.05) < 0.2
    assert np.quantile(sides, 0.95) > 0.5
    assert (boxes[:, :2] < 0.05).any(axis=0).all()
    assert (boxes[:, 2:] > 0.95).any(axis=0).all()


def test_images_have_the_size_in_the_index_and_sizes_vary() -> None:
    index = small().train
    for position, image in enumerate(images(index, 20)):
        assert image.dtype == np.uint8
        assert image.shape == (*index.sizes[position], 3)
    assert 0.7 * SIDE < index.sizes.min() < 0.9 * SIDE
    assert 1.1 * SIDE < index.sizes.max() < 1.3 * SIDE


def test_boxes_are_tight_around_what_is_drawn() -> None:
    """Each outline of a scene, alone and white on black, against its row of the index.

    OpenCV fills half a pixel more than the outline on all sides.
    """
    index = small().train
    errors = []
    for position in range(60):
        height, width, scene = shapes._scene(shapes._generator(index.paths[position], 0), SIDE)
        boxes = index.boxes[index.rows(position)] * (width, height, width, height)
        for shape, box in zip(scene, boxes, strict=True):
            canvas = np.zeros((height, width, 3), dtype=np.uint8)
            shapes._fill(canvas, shape.outline, (255, 255, 255))
            rows, columns = np.nonzero(canvas[..., 0] > 127)
            errors.append(box - (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    left, top, right, bottom = np.mean(errors, axis=0)
    assert np.abs([left, top, right, bottom]).max() < 0.75
    assert abs(left + right) < 0.2
    assert abs(top + bottom) < 0.2
    assert np.abs(errors).max() < 2


def test_objects_can_be_seen() -> None:
    """The middle of an object differs in colour from its surroundings."""
    index = small().train
    single = [row for row in range(len(index)) if index.box_offsets[row + 1] - index.box_offsets[row] == 1]
    for position in single[:20]:
        image = index.load(index.paths[position]).astype(int)
        height, width = image.shape[:2]
        box = index.boxes[index.rows(position)][0] * (width, height, width, height)
        x1, y1, x2, y2 = np.round(box).astype(int)
        centre = image[(y1 + y2) // 2 - 2 : (y1 + y2) // 2 + 3, (x1 + x2) // 2 - 2 : (x1 + x2) // 2 + 3]
        outside = np.ones((height, width), dtype=bool)
        outside[y1:y2, x1:x2] = False
        assert np.abs(image[outside] - centre.mean(axis=(0, 1))).sum(axis=1).max() > 40


def test_render_needs_nothing_but_the_path_and_the_seed() -> None:
    index = small().val
    assert np.array_equal(render(index.paths[3], side_px=SIDE, seed=0), index.load(index.paths[3]))


def test_no_image_to_train_on_is_an_error() -> None:
    with pytest.raises(DataError, match=r"dataset\.train=0"):
        read_shapes(train=0, val=1, test=1, side_px=SIDE, seed=0)
