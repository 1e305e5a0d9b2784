"""Kinds of errors and what they cost, confusion, thresholds and worst images, on cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scenes import Box, random_scenes, scene

from ssd.evaluation.matching import COCO_POINTS, NO_OBJECT, Scene, average_precision, match_coco, mean_over_classes
from ssd.evaluation.tide import ERRORS, Kind, confusion_matrix, error_costs, judge, score_curve, worst_images

CAT, DOG = 0, 1
PLACE: Box = (0, 0, 100, 100)
FAR: Box = (200, 200, 300, 300)
NEAR: Box = (0, 0, 100, 40)  # IoU 0.4 with PLACE
EDGE: Box = (0, 0, 100, 50)  # IoU 0.5


@pytest.mark.parametrize(
    ("box", "label", "kind"),
    [
        (PLACE, CAT, Kind.HIT),
        (EDGE, CAT, Kind.HIT),
        (NEAR, CAT, Kind.POOR_BOX),
        ((0, 0, 100, 10), CAT, Kind.POOR_BOX),  # IoU 0.1
        ((0, 0, 100, 9), CAT, Kind.BACKGROUND),
        (PLACE, DOG, Kind.WRONG_CLASS),
        (EDGE, DOG, Kind.WRONG_CLASS),
        (NEAR, DOG, Kind.BOTH),
        ((0, 0, 100, 9), DOG, Kind.BACKGROUND),
        (FAR, CAT, Kind.BACKGROUND),
    ],
)
def test_a_detection_beside_one_cat(box: Box, label: int, kind: Kind) -> None:
    judged = judge(scene([(PLACE, CAT)], [(box, label, 0.9)]))
    assert judged.kinds.tolist() == [kind]
    means = kind in (Kind.HIT, Kind.POOR_BOX, Kind.WRONG_CLASS)
    assert judged.targets.tolist() == [0 if means else NO_OBJECT]
    assert judged.found.tolist() == [kind is Kind.HIT]
    assert judged.missed.tolist() == [not means]


def test_a_second_detection_is_a_duplicate_and_the_better_score_is_the_hit() -> None:
    judged = judge(scene([(PLACE, CAT)], [(EDGE, CAT, 0.9), (PLACE, CAT, 0.8)]))
    assert judged.kinds.tolist() == [Kind.HIT, Kind.DUPLICATE]


def test_a_poor_box_comes_before_a_wrong_class() -> None:
    """As in TIDE's own code; its paper leaves it open."""
    judged = judge(scene([(PLACE, CAT), (NEAR, DOG)], [(NEAR, CAT, 0.9)]))
    assert judged.kinds.tolist() == [Kind.POOR_BOX]


def test_what_lies_on_an_ignored_object_is_no_error() -> None:
    """By its share inside: a small box in a crowd. The class must be that of the crowd; nothing there is missed."""
    crowd = scene([((0, 0, 200, 200), CAT)], [(PLACE, CAT, 0.9), (PLACE, DOG, 0.8)], ignored=[0])
    judged = judge(crowd)
    assert judged.kinds.tolist() == [Kind.LEFT_OUT, Kind.BACKGROUND]
    assert not judged.missed.any()


def test_images_without_objects_or_detections() -> None:
    assert judge(scene([], [(PLACE, CAT, 0.9)])).kinds.tolist() == [Kind.BACKGROUND]
    assert judge(scene([(PLACE, CAT)])).missed.tolist() == [True]
    assert judge(scene([])).kinds.tolist() == []


def test_every_detection_and_object_has_one_kind() -> None:
    for item in random_scenes(0, images=30, classes=3, ignored=0.2):
        judged = judge(item)
        assert set(judged.kinds.tolist()) <= set(Kind) - {Kind.MISSED}
        assert not (judged.found & judged.missed).any()
        np.testing.assert_array_equal(judged.kinds == Kind.HIT, match_coco([item], 3).hit[:, 0])


# --- what errors cost --------------------------------------------------------------------------------------------


def ap50(scenes: list[Scene], classes: int = 2) -> float:
    return float(mean_over_classes(average_precision(match_coco(scenes, classes), points=COCO_POINTS)[0, 0]))


def found_in(*found: tuple[Box, int, float]) -> list[Scene]:
    """One cat that is found, and one of whose image this is found."""
    return [scene([(PLACE, CAT)], [(PLACE, CAT, 0.5)]), scene([(PLACE, CAT)], found)]


HALF, WITH_FALSE_FIRST = 51 / 101, 51 / 101 / 2  # one of two cats: recall 0 to 0.5, at precision 1 or 1/2


@pytest.mark.parametrize(
    ("found", "now", "gains"),
    [
        ((PLACE, DOG, 0.9), HALF, {"wrong class": 1 - HALF, "false negatives": 1 - HALF}),
        (
            (NEAR, CAT, 0.9),
            WITH_FALSE_FIRST,
            {
                "poor box": 1 - WITH_FALSE_FIRST,
                "false positives": HALF - WITH_FALSE_FIRST,
                "false negatives": 0.5 - WITH_FALSE_FIRST,
            },
        ),
        (
            (FAR, CAT, 0.9),
            WITH_FALSE_FIRST,
            {
                "background": HALF - WITH_FALSE_FIRST,
                "missed": 0.5 - WITH_FALSE_FIRST,
                "false positives": HALF - WITH_FALSE_FIRST,
                "false negatives": 0.5 - WITH_FALSE_FIRST,
            },
        ),
        ((NEAR, DOG, 0.9), HALF, {"missed": 1 - HALF, "false negatives": 1 - HALF}),
    ],
)
def test_the_cost_of_a_single_error(found: tuple[Box, int, float], now: float, gains: dict[str, float]) -> None:
    scenes = found_in(found)
    assert ap50(scenes) == pytest.approx(now)
    costs = error_costs(scenes, 2)
    assert list(costs) == [*(kind.title for kind in ERRORS), "false positives", "false negatives"]
    assert {name: cost for name, cost in costs.items() if cost} == {
        name: pytest.approx(gain) for name, gain in gains.items()
    }


def test_of_two_errors_that_mean_one_object_the_better_is_mended() -> None:
    """Duplicates of a mended box are suppressed, as are errors on an object that is found."""
    scenes = found_in((NEAR, CAT, 0.9), (NEAR, CAT, 0.8))
    assert error_costs(scenes, 1)["poor box"] == pytest.approx(1 - ap50(scenes, 1))
    found = found_in((PLACE, CAT, 0.9), (NEAR, CAT, 0.8))
    assert ap50(found, 1) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert error_costs(found, 1)["poor box"] == pytest.approx(1 - ap50(found, 1))


def test_duplicates_and_wrong_boxes_of_the_wrong_class_go() -> None:
    scenes = found_in((PLACE, CAT, 0.9), (PLACE, CAT, 0.8), (NEAR, DOG, 0.7))
    assert error_costs(scenes, 1)["duplicate"] == pytest.approx(1 - (51 + 50 * 2 / 3) / 101)
    dogs = [*scenes, scene([(FAR, DOG)], [(FAR, DOG, 0.1)])]
    costs = error_costs(dogs, 2)
    assert costs["wrong class and box"] == pytest.approx((1 - 1 / 2) / 2)


def test_costs_are_those_of_the_tool_of_the_papers_authors() -> None:
    """In percent, from tidecv 1.0.1 on the same boxes. Without ignored objects: it calls detections on them errors."""
    costs = error_costs(random_scenes(0, images=60, classes=3), 3)
    assert {name: 100 * cost for name, cost in costs.items()} == {
        "wrong class": pytest.approx(1.225033, abs=1e-5),
        "poor box": pytest.approx(8.257943, abs=1e-5),
        "wrong class and box": pytest.approx(1.432511, abs=1e-5),
        "duplicate": pytest.approx(1.160326, abs=1e-5),
        "background": pytest.approx(8.040809, abs=1e-5),
        "missed": pytest.approx(3.568561, abs=1e-5),
        "false positives": pytest.approx(48.031242, abs=1e-5),
        "false negatives": pytest.approx(8.054591, abs=1e-5),
    }


def test_a_perfect_detector_has_nothing_to_gain() -> None:
    scenes = [scene([(PLACE, CAT), (FAR, DOG)], [(PLACE, CAT, 0.9), (FAR, DOG, 0.8)])]
    assert not any(error_costs(scenes, 2).values())


def test_a_detector_that_finds_nothing_misses_everything() -> None:
    costs = error_costs([scene([(PLACE, CAT)]), scene([(PLACE, DOG)])], 2)
    assert {name for name, cost in costs.items() if cost} == {"missed", "false negatives"}
    assert costs["missed"] == 1.0


def test_mending_all_that_is_missing_and_false_is_worth_the_rest() -> None:
    """Without false positives, precision is 1: AP is recall."""
    scenes = random_scenes(0, images=40, classes=3, ignored=0.1)
    costs, matches = error_costs(scenes, 3), match_coco(scenes, 3)
    recall = [
        (math.floor(100 * matches.hit[matches.labels == label, 0].sum() / matches.objects[:, label].sum()) + 1) / 101
        for label in range(3)
    ]
    assert ap50(scenes, 3) + costs["false positives"] == pytest.approx(np.mean(recall))
    assert all(0 <= cost < 1 for cost in costs.values())


# --- confusion ---------------------------------------------------------------------------------------------------


def test_the_confusion_matrix_of_one_of_each() -> None:
    scenes = [
        scene([(PLACE, CAT)], [(PLACE, CAT, 0.9)]),
        scene([(PLACE, CAT)], [(PLACE, DOG, 0.9)]),
        scene([(PLACE, DOG)], [(FAR, CAT, 0.9)]),
        scene([(PLACE, DOG)], ignored=[0]),
    ]
    assert confusion_matrix(scenes, 2).tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_a_hit_comes_before_a_better_score_of_another_class() -> None:
    """So the diagonal holds the hits that precision and recall count."""
    mixed = scene([(PLACE, CAT)], [(PLACE, DOG, 0.9), (PLACE, CAT, 0.4)])
    assert confusion_matrix([mixed], 2).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_rows_of_the_matrix_sum_to_objects_and_columns_to_detections() -> None:
    scenes = random_scenes(1, images=30, classes=3, ignored=0.2)
    matrix, matches = confusion_matrix(scenes, 3), match_coco(scenes, 3)
    assert matrix[:3].sum(axis=1).tolist() == matches.objects.sum(axis=0).tolist()
    counted = matches.labels[~matches.left_out[:, 0]]
    assert matrix[:, :3].sum(axis=0).tolist() == np.bincount(counted, minlength=3).tolist()
    assert matrix.diagonal()[:3].tolist() == np.bincount(matches.labels[matches.hit[:, 0]], minlength=3).tolist()
    assert matrix[3, 3] == 0


# --- thresholds --------------------------------------------------------------------------------------------------


def test_the_best_threshold_lies_between_the_last_hit_and_the_next_false_detection() -> None:
    found = [(PLACE, CAT, 0.75), (FAR, CAT, 0.25)]
    curve = score_curve(match_coco([scene([(PLACE, CAT)], found)], 2), CAT)
    assert curve.precision.tolist() == [1.0, 1.0, 0.5]
    assert curve.recall.tolist() == [0.0, 1.0, 1.0]
    assert curve.f1.tolist() == [0.0, 1.0, pytest.approx(2 / 3)]
    assert curve.best_threshold == 0.5
    assert curve.at(np.array([0.9, 0.75, 0.5, 0.25, 0.0])).tolist() == [0, 0, 1, 1, 2]


def test_equal_scores_are_kept_or_dropped_together() -> None:
    found = [(PLACE, CAT, 0.5), (FAR, CAT, 0.5)]
    curve = score_curve(match_coco([scene([(PLACE, CAT)], found)], 1))
    assert curve.precision.tolist() == [1.0, 0.5]


def test_cutting_at_the_threshold_gives_what_the_curve_promises() -> None:
    scenes = random_scenes(2, images=50, classes=3, ignored=0.1)
    curve = score_curve(match_coco(scenes, 3))
    matrix = confusion_matrix([item.above(curve.best_threshold) for item in scenes], 3)
    hits, row = matrix.diagonal().sum(), curve.f1.argmax()
    assert hits / matrix[:, :3].sum() == pytest.approx(curve.precision[row])
    assert hits / matrix[:3].sum() == pytest.approx(curve.recall[row])


def test_without_a_hit_there_is_no_threshold() -> None:
    assert math.isnan(score_curve(match_coco([scene([(PLACE, CAT)])], 2), CAT).best_threshold)
    assert math.isnan(score_curve(match_coco([scene([], [(PLACE, CAT, 0.9)])], 2), CAT).best_threshold)


# --- worst images ----------------------------------------------------------------------------------------------


def test_the_worst_image_comes_first_and_says_why() -> None:
    good = scene([(PLACE, CAT)], [(PLACE, CAT, 0.9)])
    false = scene([(PLACE, CAT)], [(PLACE, CAT, 0.9), (FAR, CAT, 0.7)])
    bad = scene([(PLACE, CAT), (FAR, DOG), ((200, 0, 300, 90), DOG)], [(PLACE, DOG, 0.9)])
    worst = worst_images([good, false, bad], count=5)
    assert [(item.image, item.judgement.reason) for item in worst] == [
        (2, "2 missed, 1 wrong class"),
        (1, "1 background"),
    ]
    assert [item.cost for item in worst] == [pytest.approx(2.9), pytest.approx(0.7)]
    assert len(worst_images([false, bad], count=1)) == 1
