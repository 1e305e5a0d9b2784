"""Kinds of errors and what they cost, confusion, thresholds and worst images, on cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scenes import Box, random_scenes, scene

from ssd.evaluation.matching import (
    COCO_POINTS,
    UNMATCHED,
    ImageResult,
    average_precision,
    match_coco,
    mean_over_classes,
)
from ssd.evaluation.score_curves import score_curve
from ssd.evaluation.tide import ERRORS, Outcome, classify_errors, confusion_matrix, delta_ap

CAT, DOG = 0, 1
PLACE: Box = (0, 0, 100, 100)
FAR: Box = (200, 200, 300, 300)
NEAR: Box = (0, 0, 100, 40)  # IoU 0.4 with PLACE
EDGE: Box = (0, 0, 100, 50)  # IoU 0.5


@pytest.mark.parametrize(
    ("box", "label", "kind"),
    [
        (PLACE, CAT, Outcome.CORRECT),
        (EDGE, CAT, Outcome.CORRECT),
        (NEAR, CAT, Outcome.LOC),
        ((0, 0, 100, 10), CAT, Outcome.LOC),  # IoU 0.1
        ((0, 0, 100, 9), CAT, Outcome.BKG),
        (PLACE, DOG, Outcome.CLS),
        (EDGE, DOG, Outcome.CLS),
        (NEAR, DOG, Outcome.BOTH),
        ((0, 0, 100, 9), DOG, Outcome.BKG),
        (FAR, CAT, Outcome.BKG),
    ],
)
def test_the_outcome_of_a_single_detection(box: Box, label: int, kind: Outcome) -> None:
    errors = classify_errors(scene([(PLACE, CAT)], [(box, label, 0.9)]))
    assert errors.outcomes.tolist() == [kind]
    means = kind in (Outcome.CORRECT, Outcome.LOC, Outcome.CLS)
    assert errors.targets.tolist() == [0 if means else UNMATCHED]
    assert errors.detected.tolist() == [kind is Outcome.CORRECT]
    assert errors.missed.tolist() == [not means]


def test_the_lower_score_of_two_detections_is_the_duplicate() -> None:
    errors = classify_errors(scene([(PLACE, CAT)], [(EDGE, CAT, 0.9), (PLACE, CAT, 0.8)]))
    assert errors.outcomes.tolist() == [Outcome.CORRECT, Outcome.DUPE]


def test_a_poor_box_comes_before_a_wrong_class() -> None:
    """As in TIDE's own code; its paper leaves it open."""
    errors = classify_errors(scene([(PLACE, CAT), (NEAR, DOG)], [(NEAR, CAT, 0.9)]))
    assert errors.outcomes.tolist() == [Outcome.LOC]


def test_a_detection_on_an_ignored_box_is_no_error() -> None:
    """By its share inside: a small box in a crowd. The class must be that of the crowd; nothing there is missed."""
    crowd = scene([((0, 0, 200, 200), CAT)], [(PLACE, CAT, 0.9), (PLACE, DOG, 0.8)], ignored=[0])
    errors = classify_errors(crowd)
    assert errors.outcomes.tolist() == [Outcome.IGNORED, Outcome.BKG]
    assert not errors.missed.any()


def test_images_without_objects_or_detections() -> None:
    assert classify_errors(scene([], [(PLACE, CAT, 0.9)])).outcomes.tolist() == [Outcome.BKG]
    assert classify_errors(scene([(PLACE, CAT)])).missed.tolist() == [True]
    assert classify_errors(scene([])).outcomes.tolist() == []


def test_every_detection_has_one_outcome() -> None:
    for item in random_scenes(0, images=30, classes=3, ignored=0.2):
        errors = classify_errors(item)
        assert set(errors.outcomes.tolist()) <= set(Outcome) - {Outcome.MISS}
        assert not (errors.detected & errors.missed).any()
        np.testing.assert_array_equal(errors.outcomes == Outcome.CORRECT, match_coco([item], 3).true_positive[:, 0])


# --- what errors cost --------------------------------------------------------------------------------------------


def ap50(scenes: list[ImageResult], classes: int = 2) -> float:
    return float(mean_over_classes(average_precision(match_coco(scenes, classes), points=COCO_POINTS)[0, 0]))


def found_in(*found: tuple[Box, int, float]) -> list[ImageResult]:
    """One cat that is found, and one of whose image this is found."""
    return [scene([(PLACE, CAT)], [(PLACE, CAT, 0.5)]), scene([(PLACE, CAT)], found)]


HALF, WITH_FALSE_FIRST = 51 / 101, 51 / 101 / 2  # one of two cats: recall 0 to 0.5, at precision 1 or 1/2


@pytest.mark.parametrize(
    ("found", "now", "gains"),
    [
        ((PLACE, DOG, 0.9), HALF, {"Cls": 1 - HALF, "FalseNeg": 1 - HALF}),
        (
            (NEAR, CAT, 0.9),
            WITH_FALSE_FIRST,
            {
                "Loc": 1 - WITH_FALSE_FIRST,
                "FalsePos": HALF - WITH_FALSE_FIRST,
                "FalseNeg": 0.5 - WITH_FALSE_FIRST,
            },
        ),
        (
            (FAR, CAT, 0.9),
            WITH_FALSE_FIRST,
            {
                "Bkg": HALF - WITH_FALSE_FIRST,
                "Miss": 0.5 - WITH_FALSE_FIRST,
                "FalsePos": HALF - WITH_FALSE_FIRST,
                "FalseNeg": 0.5 - WITH_FALSE_FIRST,
            },
        ),
        ((NEAR, DOG, 0.9), HALF, {"Miss": 1 - HALF, "FalseNeg": 1 - HALF}),
    ],
)
def test_the_cost_of_a_single_error(found: tuple[Box, int, float], now: float, gains: dict[str, float]) -> None:
    scenes = found_in(found)
    assert ap50(scenes) == pytest.approx(now)
    costs = delta_ap(scenes, 2)
    assert list(costs) == [*(kind.title for kind in ERRORS), "FalsePos", "FalseNeg"]
    assert {name: cost for name, cost in costs.items() if cost} == {
        name: pytest.approx(gain) for name, gain in gains.items()
    }


def test_of_two_errors_on_one_box_only_the_better_is_fixed() -> None:
    """Duplicates of a fixed box are suppressed, as are errors on a detected box."""
    scenes = found_in((NEAR, CAT, 0.9), (NEAR, CAT, 0.8))
    assert delta_ap(scenes, 1)["Loc"] == pytest.approx(1 - ap50(scenes, 1))
    found = found_in((PLACE, CAT, 0.9), (NEAR, CAT, 0.8))
    assert ap50(found, 1) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert delta_ap(found, 1)["Loc"] == pytest.approx(1 - ap50(found, 1))


def test_dupe_and_both_errors_are_removed() -> None:
    scenes = found_in((PLACE, CAT, 0.9), (PLACE, CAT, 0.8), (NEAR, DOG, 0.7))
    assert delta_ap(scenes, 1)["Dupe"] == pytest.approx(1 - (51 + 50 * 2 / 3) / 101)
    dogs = [*scenes, scene([(FAR, DOG)], [(FAR, DOG, 0.1)])]
    costs = delta_ap(dogs, 2)
    assert costs["Both"] == pytest.approx((1 - 1 / 2) / 2)


def test_delta_ap_equals_that_of_tidecv() -> None:
    """In percent, from tidecv 1.0.1 on the same boxes. Without ignored objects: it calls detections on them errors."""
    costs = delta_ap(random_scenes(0, images=60, classes=3), 3)
    assert {name: 100 * cost for name, cost in costs.items()} == {
        "Cls": pytest.approx(1.225033, abs=1e-5),
        "Loc": pytest.approx(8.257943, abs=1e-5),
        "Both": pytest.approx(1.432511, abs=1e-5),
        "Dupe": pytest.approx(1.160326, abs=1e-5),
        "Bkg": pytest.approx(8.040809, abs=1e-5),
        "Miss": pytest.approx(3.568561, abs=1e-5),
        "FalsePos": pytest.approx(48.031242, abs=1e-5),
        "FalseNeg": pytest.approx(8.054591, abs=1e-5),
    }


def test_a_perfect_detector_has_nothing_to_gain() -> None:
    scenes = [scene([(PLACE, CAT), (FAR, DOG)], [(PLACE, CAT, 0.9), (FAR, DOG, 0.8)])]
    assert not any(delta_ap(scenes, 2).values())


def test_a_detector_that_finds_nothing_misses_everything() -> None:
    costs = delta_ap([scene([(PLACE, CAT)]), scene([(PLACE, DOG)])], 2)
    assert {name for name, cost in costs.items() if cost} == {"Miss", "FalseNeg"}
    assert costs["Miss"] == 1.0


def test_without_false_positives_ap_is_recall() -> None:
    """Without FalsePos, precision is 1: AP is recall."""
    scenes = random_scenes(0, images=40, classes=3, ignored=0.1)
    costs, matches = delta_ap(scenes, 3), match_coco(scenes, 3)
    recall = [
        (
            math.floor(100 * matches.true_positive[matches.labels == label, 0].sum() / matches.objects[:, label].sum())
            + 1
        )
        / 101
        for label in range(3)
    ]
    assert ap50(scenes, 3) + costs["FalsePos"] == pytest.approx(np.mean(recall))
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


def test_a_correct_detection_precedes_a_better_score_of_another_class() -> None:
    """So the diagonal holds the hits that precision and recall count."""
    mixed = scene([(PLACE, CAT)], [(PLACE, DOG, 0.9), (PLACE, CAT, 0.4)])
    assert confusion_matrix([mixed], 2).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_rows_of_the_matrix_sum_to_objects_and_columns_to_detections() -> None:
    scenes = random_scenes(1, images=30, classes=3, ignored=0.2)
    matrix, matches = confusion_matrix(scenes, 3), match_coco(scenes, 3)
    assert matrix[:3].sum(axis=1).tolist() == matches.objects.sum(axis=0).tolist()
    counted = matches.labels[~matches.ignored[:, 0]]
    assert matrix[:, :3].sum(axis=0).tolist() == np.bincount(counted, minlength=3).tolist()
    assert (
        matrix.diagonal()[:3].tolist() == np.bincount(matches.labels[matches.true_positive[:, 0]], minlength=3).tolist()
    )
    assert matrix[3, 3] == 0


# --- thresholds --------------------------------------------------------------------------------------------------


def test_the_best_threshold_is_between_the_last_true_and_the_next_false_positive() -> None:
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


def test_detections_above_the_threshold_have_the_precision_and_recall_of_the_curve() -> None:
    scenes = random_scenes(2, images=50, classes=3, ignored=0.1)
    curve = score_curve(match_coco(scenes, 3))
    matrix = confusion_matrix([item.above(curve.best_threshold) for item in scenes], 3)
    hits, row = matrix.diagonal().sum(), curve.f1.argmax()
    assert hits / matrix[:, :3].sum() == pytest.approx(curve.precision[row])
    assert hits / matrix[:3].sum() == pytest.approx(curve.recall[row])


def test_without_a_true_positive_there_is_no_threshold() -> None:
    assert math.isnan(score_curve(match_coco([scene([(PLACE, CAT)])], 2), CAT).best_threshold)
    assert math.isnan(score_curve(match_coco([scene([], [(PLACE, CAT, 0.9)])], 2), CAT).best_threshold)
