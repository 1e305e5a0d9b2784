from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from omegaconf import OmegaConf

from ssd.data.augmentation import WHOLE, Augmentation, Sample, SSDWindow, Window, accepts_crop

CONF = Path(__file__).parents[2] / "conf" / "augmentation"
SIZE = 96
Box = tuple[float, float, float, float]


def window(**settings: Any) -> SSDWindow:
    """The paper's settings, with black beyond the image."""
    paper = {
        "image_size": SIZE,
        "zoom_out_probability": 0.5,
        "max_zoom_out": 4.0,
        "crop_min_ious": [None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0],
        "crop_scale": (0.3, 1.0),
        "crop_aspect": (0.5, 2.0),
        "flip_probability": 0.5,
        "fill": (0, 0, 0),
    }
    return SSDWindow(**(paper | settings))


def crop_only(min_iou: float | None, **settings: Any) -> SSDWindow:
    return window(crop_min_ious=[min_iou], zoom_out_probability=0.0, flip_probability=0.0, **settings)


def from_conf(name: str) -> Augmentation:
    config = OmegaConf.create({"image_size": SIZE, "augmentation": OmegaConf.load(CONF / f"{name}.yaml")})
    return instantiate(config.augmentation, _convert_="all")


def augment(
    augmentation: Augmentation, image: np.ndarray, boxes: list[Box], *, seed: tuple[int, ...] = (0, 0, 0)
) -> Sample:
    """Label and flag identify each box."""
    return augmentation(
        image,
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.arange(len(boxes), dtype=np.int32),
        ignore=np.arange(len(boxes)) % 3 == 1,
        id="image",
        seed=seed,
    )


def draw_window(transform: SSDWindow, boxes: list[Box], seed: int) -> Window:
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return transform.get_params_dependent_on_data({}, {"bboxes": np.array(boxes).reshape(-1, 4)})["window"]


def random_boxes(seed: int) -> list[Box]:
    rng = np.random.default_rng(seed)
    sides = rng.uniform(0.05, 0.95, size=(rng.integers(1, 6), 2))
    corners = rng.uniform(0, 1, size=sides.shape) * (1 - sides)
    return [tuple(box) for box in np.column_stack((corners, corners + sides)).tolist()]


def rectangle(box: Box, height: int, width: int) -> np.ndarray:
    """White on black."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    x1, y1, x2, y2 = (round(edge * side) for edge, side in zip(box, (width, height) * 2, strict=True))
    image[y1:y2, x1:x2] = 255
    return image


def bright(image: np.ndarray) -> list[float]:
    """xyxy of what is white rather than black, in pixels."""
    rows, columns = np.nonzero(image.mean(axis=2) > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


# Crops


@pytest.mark.parametrize("min_iou", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_crops_overlap_some_object_by_the_iou_requested_and_keep_a_centre(min_iou: float) -> None:
    """In other implementations crops that should have IoU 0.9 had a mean of 0.24."""
    transform = crop_only(min_iou)
    height, width = 300, 400
    in_pixels = np.array([width, height, width, height])
    found = []
    for seed in range(300):
        boxes = random_boxes(seed)
        crop = draw_window(transform, boxes, seed)
        if crop == WHOLE:
            continue
        crop_px, boxes_px = np.array(crop) * in_pixels, np.array(boxes) * in_pixels
        best = max(reference.iou(crop_px, box) for box in boxes_px)
        assert best >= min_iou - 1e-9
        centres = (boxes_px[:, :2] + boxes_px[:, 2:]) / 2
        assert ((crop_px[:2] < centres) & (centres < crop_px[2:])).all(axis=1).any()
        found.append(crop)
    assert len(found) >= (10 if min_iou == 0.9 else 150)  # few objects are large enough for 0.9
    sides = np.array(found)[:, 2:] - np.array(found)[:, :2]
    assert sides.min() >= 0.3 - 1e-9
    assert sides.max() <= 1.0
    aspect = sides[:, 0] / sides[:, 1]
    assert aspect.min() >= 0.5 - 1e-9
    assert aspect.max() <= 2 + 1e-9
    assert np.array(found).min() >= 0
    assert np.array(found).max() <= 1 + 1e-9


def test_crops_come_in_all_sizes_and_places() -> None:
    crops = np.array([draw_window(crop_only(0.0), [(0.1, 0.1, 0.9, 0.9)], seed) for seed in range(300)])
    assert len(np.unique(crops, axis=0)) == 300
    areas = (crops[:, 2:] - crops[:, :2]).prod(axis=1)
    assert areas.min() < 0.2
    assert areas.max() > 0.8
    assert (crops[:, :2].min(axis=0) < 0.05).all()
    assert (crops[:, 2:].max(axis=0) > 0.95).all()


def test_without_a_matching_crop_the_whole_image_is_used() -> None:
    speck = (0.5, 0.5, 0.51, 0.51)
    assert {draw_window(crop_only(0.9), [speck], seed) for seed in range(50)} == {WHOLE}
    assert {draw_window(crop_only(0.5, crop_aspect=(7.0, 9.0)), [speck], seed) for seed in range(50)} == {WHOLE}


def test_no_crop_is_the_whole_image() -> None:
    assert {draw_window(crop_only(None), random_boxes(seed), seed) for seed in range(50)} == {WHOLE}


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.5, 0.9]))
def test_accepts_crop_agrees_with_a_loop(seed: int, min_iou: float) -> None:
    crops, boxes = random_boxes(seed), random_boxes(seed + 1)
    expected = []
    for crop in crops:
        centres = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in boxes]
        holds = any(crop[0] < x < crop[2] and crop[1] < y < crop[3] for x, y in centres)
        expected.append(holds and max(reference.iou(crop, box) for box in boxes) >= min_iou)
    assert accepts_crop(np.array(crops), np.array(boxes), min_iou=min_iou).tolist() == expected


def test_without_objects_every_crop_is_accepted() -> None:
    assert accepts_crop(np.array(random_boxes(0)), np.zeros((0, 4)), min_iou=0.9).all()
    assert draw_window(crop_only(0.9), [], 0) != WHOLE


# Zoom-out and flip


def test_zoom_out_places_the_image_on_a_larger_canvas() -> None:
    transform = window(zoom_out_probability=1.0, crop_min_ious=[None])
    canvases = np.array([draw_window(transform, random_boxes(seed), seed) for seed in range(300)])
    assert (canvases[:, :2] <= 0).all()
    assert (canvases[:, 2:] >= 1 - 1e-9).all()
    sides = canvases[:, 2:] - canvases[:, :2]
    assert_allclose(sides[:, 0], sides[:, 1])
    assert 1 <= sides.min() < 1.2
    assert 3.8 < sides.max() <= 4


def test_zoomed_out_object_is_smaller_and_complete() -> None:
    box = (0.25, 0.25, 0.75, 0.5)
    augmentation = Augmentation([window(zoom_out_probability=1.0, crop_min_ious=[None], flip_probability=0.0)])
    for seed in range(20):
        sample = augment(augmentation, rectangle(box, 256, 256), [box], seed=(seed,))
        width, height = sample.boxes[0, 2:] - sample.boxes[0, :2]
        assert_allclose(width / height, 2, rtol=1e-4)
        assert 0.5 / 4 <= width <= 0.5
        assert_allclose(sample.boxes[0] * SIZE, bright(sample.image), atol=1.5)


def test_flip_mirrors_image_and_boxes() -> None:
    box = (0.125, 0.25, 0.5, 0.75)
    image = rectangle(box, SIZE, SIZE)
    geometry = {"zoom_out_probability": 0.0, "crop_min_ious": [None]}
    straight = augment(Augmentation([window(flip_probability=0.0, **geometry)]), image, [box])
    mirrored = augment(Augmentation([window(flip_probability=1.0, **geometry)]), image, [box])
    assert np.array_equal(straight.image, image)
    assert np.array_equal(mirrored.image, image[:, ::-1])
    assert_allclose(straight.boxes, [box])
    assert_allclose(mirrored.boxes, [(0.5, 0.25, 0.875, 0.75)])


# Boxes and pixels


@pytest.mark.parametrize(("height", "width"), [(96, 96), (300, 400), (640, 90), (31, 57)])
def test_boxes_stay_on_their_pixels(height: int, width: int) -> None:
    augmentation = Augmentation([window()])
    rng = np.random.default_rng(height)
    compared = 0
    for seed in range(120):
        x1, y1 = rng.integers(0, width // 2), rng.integers(0, height // 2)
        x2, y2 = rng.integers(x1 + width // 5, width + 1), rng.integers(y1 + height // 5, height + 1)
        box = (x1 / width, y1 / height, x2 / width, y2 / height)
        sample = augment(augmentation, rectangle(box, height, width), [box], seed=(seed, height))
        if len(sample.boxes) and ((sample.boxes[0, 2:] - sample.boxes[0, :2]) * SIZE).min() > 3:
            assert_allclose(sample.boxes[0] * SIZE, bright(sample.image), atol=1.5)
            compared += 1
    assert compared > 90


def test_colours_leave_the_geometry_alone() -> None:
    """The configured pipeline draws the same windows as its first transform alone."""
    config = OmegaConf.create({"image_size": SIZE, "augmentation": OmegaConf.load(CONF / "ssd.yaml")})
    geometry = Augmentation([instantiate(config.augmentation.transforms[0], _convert_="all")])
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    differ = 0
    for seed in range(40):
        full = augment(from_conf("ssd"), image, random_boxes(seed), seed=(seed,))
        plain = augment(geometry, image, random_boxes(seed), seed=(seed,))
        assert np.array_equal(full.boxes, plain.boxes)
        assert np.array_equal(full.labels, plain.labels)
        differ += not np.array_equal(full.image, plain.image)
    assert differ > 20


@pytest.mark.parametrize("name", ["ssd", "light", "none"])
def test_labels_and_flags_stay_with_their_boxes(name: str) -> None:
    """One shift and scale takes every box to the place of the one with its label."""
    augmentation = from_conf(name)
    boxes = [(0.05, 0.05, 0.95, 0.95)]  # large: without it no crop would do
    boxes += [(x / 4 + 0.02, y / 4 + 0.02, x / 4 + 0.23, y / 4 + 0.23) for y in range(4) for x in range(4)]
    lost = fitted = 0
    for seed in range(30):
        sample = augment(augmentation, np.zeros((128, 128, 3), dtype=np.uint8), boxes, seed=(seed,))
        assert np.array_equal(sample.ignore, sample.labels % 3 == 1)
        assert sample.labels.dtype == np.int32
        assert len(sample.boxes) == len(sample.labels) == len(sample.ignore)
        whole = (sample.boxes > 0.001).all(axis=1) & (sample.boxes < 0.999).all(axis=1)
        before, after = np.array(boxes)[sample.labels[whole]], sample.boxes[whole]
        for axis in (0, 1):
            centres = [(side[:, axis] + side[:, axis + 2]) / 2 for side in (before, after)]
            if len(np.unique(centres[0])) > 2:
                assert_allclose(np.polyval(np.polyfit(*centres, deg=1), centres[0]), centres[1], atol=1e-4)
                fitted += 1
        lost += len(boxes) - len(sample.boxes)
    assert fitted > 30
    assert (lost > 0) == (name != "none")


@pytest.mark.parametrize("name", ["ssd", "light", "none"])
def test_boxes_are_inside_and_have_area(name: str) -> None:
    augmentation = from_conf(name)
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    for seed in range(60):
        sample = augment(augmentation, image, random_boxes(seed), seed=(seed,))
        assert sample.image.shape == (SIZE, SIZE, 3)
        assert sample.size == (60, 80)
        assert ((sample.boxes >= 0) & (sample.boxes <= 1)).all()
        assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()


def test_none_keeps_every_box_as_it_is() -> None:
    tiny = [(0.0, 0.0, 1e-5, 1e-5), (0.99999, 0.99999, 1.0, 1.0), (0.5, 0.0, 0.50001, 1.0), WHOLE]
    for boxes in ([], tiny, *(random_boxes(seed) for seed in range(30))):
        sample = augment(from_conf("none"), np.zeros((500, 333, 3), dtype=np.uint8), boxes)
        assert_allclose(sample.boxes, np.array(boxes, dtype=np.float32).reshape(-1, 4), atol=1e-7)
        assert sample.labels.tolist() == list(range(len(boxes)))


def test_resize_is_what_validation_sees() -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    resized = augment(Augmentation([SSDWindow.resize(SIZE)]), image, random_boxes(0))
    configured = augment(from_conf("none"), image, random_boxes(0), seed=(9, 9, 9))
    assert np.array_equal(resized.image, configured.image)
    assert np.array_equal(resized.boxes, configured.boxes)


# Without objects


@pytest.mark.parametrize("name", ["ssd", "light", "none"])
def test_image_without_objects_works(name: str) -> None:
    for seed in range(20):
        sample = augment(from_conf(name), np.full((50, 70, 3), 9, dtype=np.uint8), [], seed=(seed,))
        assert (sample.boxes.shape, sample.labels.shape, sample.ignore.shape) == ((0, 4), (0,), (0,))
        assert (sample.boxes.dtype, sample.labels.dtype, sample.ignore.dtype) == (np.float32, np.int32, np.bool_)


def test_objects_that_are_cropped_away_leave_empty_arrays() -> None:
    boxes = np.array([(0.0, 0.0, 0.2, 0.2, 0.0), (0.1, 0.1, 0.3, 0.3, 1.0)])
    kept = window().apply_to_bboxes(boxes, window=(0.5, 0.5, 1.0, 1.0), flip=True)
    assert kept.shape == (0, 5)


def test_object_stays_when_its_centre_does_and_is_cut_at_the_edge() -> None:
    boxes = np.array([(0.4, 0.4, 0.8, 0.8, 7.0), (0.1, 0.4, 0.8, 0.8, 8.0)])
    kept = window().apply_to_bboxes(boxes, window=(0.5, 0.5, 1.0, 1.0), flip=False)
    assert_allclose(kept, [(0.0, 0.0, 0.6, 0.6, 7.0)])


# Randomness is a function of (seed, epoch, position)


def same(first: Sample, second: Sample) -> bool:
    return np.array_equal(first.image, second.image) and np.array_equal(first.boxes, second.boxes)


def test_a_sample_depends_on_seed_epoch_and_position_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    boxes = random_boxes(0)
    used, fresh = from_conf("ssd"), from_conf("ssd")
    for number in range(10):
        augment(used, image, boxes, seed=(99, number, number))
    for seed in ((0, 0, 0), (3, 2, 1), (3, 1, 2)):
        np.random.seed(seed[0])
        random.seed(seed[1])
        assert same(augment(used, image, boxes, seed=seed), augment(fresh, image, boxes, seed=seed))


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_another_seed_epoch_or_position_gives_another_sample(other: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    augmentation = Augmentation([window(zoom_out_probability=1.0)])
    boxes = random_boxes(0)
    assert not same(
        augment(augmentation, image, boxes, seed=(0, 0, 0)), augment(augmentation, image, boxes, seed=other)
    )


def test_augmentation_leaves_its_arguments_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    before = image.copy()
    boxes = np.array(random_boxes(0), dtype=np.float32)
    boxes_before = boxes.copy()
    for seed in range(10):
        sample = from_conf("ssd")(
            image,
            boxes=boxes,
            labels=np.zeros(len(boxes), dtype=np.int32),
            ignore=np.zeros(len(boxes), dtype=bool),
            id="image",
            seed=(seed,),
        )
        sample.image[:] = 0
        sample.boxes[:] = 0
    assert np.array_equal(image, before)
    assert np.array_equal(boxes, boxes_before)
