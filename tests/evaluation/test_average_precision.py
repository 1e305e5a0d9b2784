"""Average precision: published numbers, slow loops, torchmetrics; and what the bootstrap promises."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from scenes import Box, random_scenes, scene
from torchmetrics.detection import MeanAveragePrecision

from ssd.evaluation.matching import (
    AREA,
    COCO_POINTS,
    VOC07_POINTS,
    ImageResult,
    Matches,
    average_precision,
    bootstrap_weights,
    confidence_interval,
    match_coco,
    match_voc,
    mean_over_classes,
)

CLASSES = 3


def ranked(hits: list[bool], objects: int) -> Matches:
    """Detections of one class, the best first."""
    count = len(hits)
    zeros = np.zeros(count, dtype=np.int64)
    hit = np.array(hits, dtype=bool)[:, None]
    return Matches(zeros, zeros, -np.arange(count, dtype=np.float64), hit, np.zeros_like(hit), np.array([[objects]]))


def test_a_published_example() -> None:
    """24 detections of 15 objects: 26.84 % by 11 points, 24.56 % by area (from recalls cut to four decimals).

    Source: README of github.com/rafaelpadilla/Object-Detection-Metrics, "An illustrated example".
    """
    matches = ranked([letter in "RJBPEXG" for letter in "RYJAUCMFDBHPEXNTKQVILSGO"], 15)
    assert average_precision(matches, points=VOC07_POINTS).item() == pytest.approx(0.2684, abs=5e-5)
    assert average_precision(matches, points=AREA).item() == pytest.approx(0.2456, abs=1e-4)


def test_levels_of_recall_are_reached_exactly() -> None:
    """3 of 10 objects reach recall 0.3, though 0.1 * 3 is more than 0.3 in floating point."""
    assert average_precision(ranked([True] * 3, 10), points=VOC07_POINTS).item() == pytest.approx(4 / 11)
    assert average_precision(ranked([True] * 29, 100), points=COCO_POINTS).item() == pytest.approx(30 / 101)


@pytest.mark.parametrize("points", [COCO_POINTS, VOC07_POINTS, AREA])
def test_ap_is_1_or_0_or_undefined(points: int) -> None:
    assert average_precision(ranked([True] * 4, 4), points=points).item() == pytest.approx(1.0)
    assert average_precision(ranked([], 4), points=points).item() == 0.0
    assert math.isnan(average_precision(ranked([False], 0), points=points).item())


def test_classes_without_objects_do_not_count() -> None:
    assert mean_over_classes(np.array([[0.5, np.nan, 1.0]])).tolist() == [0.75]
    assert math.isnan(mean_over_classes(np.array([np.nan, np.nan])))


# --- PASCAL VOC --------------------------------------------------------------------------------------------------


def slow_voc(scenes: list[ImageResult], label: int, *, eleven: bool) -> float:
    """VOC's evaluation, one detection after the other."""
    found = [
        (-float(scores), number, row)
        for number, item in enumerate(scenes)
        for row, (scores, own) in enumerate(zip(item.pred_scores, item.pred_labels, strict=True))
        if own == label
    ]
    claimed: set[tuple[int, int]] = set()
    hits, false, points = 0, 0, []
    objects = sum(int((~item.ignore[item.labels == label]).sum()) for item in scenes)
    for _, number, row in sorted(found):
        item = scenes[number]
        best, best_object = -1.0, -1
        for candidate, box in enumerate(item.boxes):
            value = inclusive_iou(item.pred_boxes[row], box) if item.labels[candidate] == label else -1.0
            if value > best:
                best, best_object = value, candidate
        if best >= 0.5 and item.ignore[best_object]:
            continue
        if best >= 0.5 and (number, best_object) not in claimed:
            claimed.add((number, best_object))
            hits += 1
        else:
            false += 1
        points.append((hits, hits / (hits + false)))
    levels = range(11) if eleven else range(1, objects + 1)
    total = 0.0
    for level in levels:
        reached = [p for count, p in points if (count * 10 >= level * objects if eleven else count >= level)]
        total += max(reached, default=0.0)
    return total / len(levels)


def inclusive_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Pixel 3 to pixel 5 is three pixels wide."""
    ax1, ay1, ax2, ay2 = map(float, a)
    bx1, by1, bx2, by2 = map(float, b)
    width, height = min(ax2, bx2) - max(ax1, bx1) + 1, min(ay2, by2) - max(ay1, by1) + 1
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((ax2 - ax1 + 1) * (ay2 - ay1 + 1) + (bx2 - bx1 + 1) * (by2 - by1 + 1) - both)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("points", [VOC07_POINTS, AREA])
def test_voc_equals_slow_loops(seed: int, points: int) -> None:
    scenes = random_scenes(seed, images=30, classes=CLASSES, ignored=0.2)
    ap = average_precision(match_voc(scenes, CLASSES), points=points)[0, 0]
    expected = [slow_voc(scenes, label, eleven=points == VOC07_POINTS) for label in range(CLASSES)]
    assert ap.tolist() == pytest.approx(expected, abs=1e-12)
    assert min(expected) > 0.02


def test_voc_counts_the_last_pixel() -> None:
    """Pixels 0 to 9 against 0 to 4: 50 of 100 pixels, though the edges are 9 and 4 apart."""
    row: Box = (0, 0, 9, 9)
    half = scene([(row, 0)], [((0, 0, 9, 4), 0, 0.9)])
    assert match_voc([half], 1).true_positive.item()
    assert not match_coco([half], 1).true_positive[0, 0]


def test_voc_assigns_a_detection_to_its_nearest_object_only() -> None:
    """The second detection is nearest to the first object, which is matched: wrong in VOC; COCO takes the other."""
    objects = [((0, 0, 99, 99), 0), ((30, 0, 129, 99), 0)]
    both = scene(objects, [((0, 0, 99, 99), 0, 0.9), ((10, 0, 109, 99), 0, 0.8)])
    assert match_voc([both], 1).true_positive[:, 0].tolist() == [True, False]
    assert match_coco([both], 1).true_positive[:, 0].tolist() == [True, True]


def test_voc_ignores_every_detection_of_a_difficult_object() -> None:
    difficult = scene([((0, 0, 50, 50), 0)], [((0, 0, 50, 50), 0, 0.9), ((0, 0, 50, 49), 0, 0.8)], ignored=[0])
    matches = match_voc([difficult], 1)
    assert matches.ignored[:, 0].tolist() == [True, True]
    assert matches.objects.tolist() == [[0]]


# --- COCO --------------------------------------------------------------------------------------------------------


def torchmetrics_precision(scenes: list[ImageResult]) -> np.ndarray:
    """AP [T C] from the library's table of precisions."""
    levels = [
        level / 100 for level in range(101)
    ]  # its own are rounded to float32, which may shift the third decimal of AP
    metric = MeanAveragePrecision(backend="faster_coco_eval", extended_summary=True, rec_thresholds=levels)
    metric.warn_on_many_detections = False
    metric.update(
        [
            {
                "boxes": torch.from_numpy(item.pred_boxes),
                "scores": torch.from_numpy(item.pred_scores),
                "labels": torch.from_numpy(item.pred_labels),
            }
            for item in scenes
        ],
        [
            {
                "boxes": torch.from_numpy(item.boxes),
                "labels": torch.from_numpy(item.labels),
                "iscrowd": torch.from_numpy(item.ignore).long(),
            }
            for item in scenes
        ],
    )
    return metric.compute()["precision"][:, :, :, 0, -1].mean(dim=1).numpy()


@pytest.mark.parametrize(("seed", "detections", "ignored"), [(0, 40, 0.0), (1, 40, 0.2), (2, 500, 0.1)])
def test_coco_agrees_with_torchmetrics(seed: int, detections: int, ignored: float) -> None:
    """At every IoU and class; also with 500 detections, of which the 100 best of a class and image count."""
    scenes = random_scenes(seed, images=25, classes=CLASSES, detections=detections, ignored=ignored)
    ap = average_precision(match_coco(scenes, CLASSES), points=COCO_POINTS)[0]
    np.testing.assert_allclose(ap, torchmetrics_precision(scenes), atol=1e-6)
    assert ap[0].min() > 0.02


def test_101_and_11_points_approximate_the_area() -> None:
    """On the same matches at IoU 0.5 the three differ by how they sum, by less than a step of recall each."""
    matches = match_coco(random_scenes(0, images=200, classes=CLASSES), CLASSES)
    coco, voc07, area = (average_precision(matches, points=n)[0, 0] for n in (COCO_POINTS, VOC07_POINTS, AREA))
    assert np.abs(coco - area).max() < 1 / 101
    assert np.abs(voc07 - area).max() < 1 / 11
    assert np.abs(coco - area).max() > 0


# --- bootstrap ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [COCO_POINTS, AREA])
def test_a_weight_equals_repeating_the_image(points: int) -> None:
    scenes = random_scenes(3, images=20, classes=CLASSES, ignored=0.2)
    weights = bootstrap_weights(len(scenes), samples=4, seed=1)
    weighted = average_precision(match_coco(scenes, CLASSES), points=points, weights=weights)
    for row, drawn in zip(weighted, weights, strict=True):
        again = [scenes[number] for number in np.repeat(np.arange(len(scenes)), drawn)]
        np.testing.assert_allclose(
            row, average_precision(match_coco(again, CLASSES), points=points)[0], atol=1e-12, equal_nan=True
        )


def test_bootstrap_samples_are_seeded_and_have_the_size_of_the_set() -> None:
    weights = bootstrap_weights(50, samples=7, seed=3)
    assert weights.sum(axis=1).tolist() == [50] * 7
    np.testing.assert_array_equal(weights, bootstrap_weights(50, samples=7, seed=3))
    assert (weights != bootstrap_weights(50, samples=7, seed=4)).any()


def test_the_interval_of_a_share_is_binomial() -> None:
    """One object an image, 60 of 100 found, all before any false one: AP by area is the share that is found."""
    scenes = [scene([((0, 0, 50, 50), 0)], [((0, 0, 50, 50), 0, 0.9)] * (number < 60)) for number in range(100)]
    ap = average_precision(match_coco(scenes, 1), points=AREA, weights=bootstrap_weights(100, samples=2000, seed=0))[
        :, 0, 0
    ]
    low, high = confidence_interval(ap)
    spread = 1.96 * math.sqrt(0.6 * 0.4 / 100)
    assert (low, high) == (pytest.approx(0.6 - spread, abs=0.02), pytest.approx(0.6 + spread, abs=0.02))


def test_bootstrap_is_fast() -> None:
    matches = match_coco(random_scenes(0, images=500, classes=CLASSES, detections=100), CLASSES)
    start = time.process_time()
    average_precision(matches, points=COCO_POINTS, weights=bootstrap_weights(500, samples=1000, seed=0))
    assert time.process_time() - start < 60  # 1 to 2 on a free machine; sample by sample, minutes
