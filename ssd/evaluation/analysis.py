"""What to mend: where to cut the score, which classes are mixed up, which pictures are worst."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ssd.evaluation.matching import NO_OBJECT, Matches, Scene, match_scene
from ssd.evaluation.tide import FOREGROUND_IOU, Judgement, Kind, judge

ALL_CLASSES = "all classes"  # the name of their common curve
_WITHOUT_A_HIT = 0.5


@dataclass(frozen=True, slots=True)
class ScoreCurve:
    """Precision, recall and F1 of the K best detections, for each K; at IoU 0.5. K1 is K + 1: the first row is none.

    `scores` are those of the last detection that is kept, descending; equal scores are kept together. `objects` are
    those to be found.
    """

    scores: Float[np.ndarray, "K1"]
    kept: Int[np.ndarray, "K1"]
    precision: Float[np.ndarray, "K1"]
    recall: Float[np.ndarray, "K1"]
    f1: Float[np.ndarray, "K1"]
    objects: int

    @property
    def best_threshold(self) -> float:
        """The score to cut at for the best F1: halfway to the next lower score. NaN if nothing right is found."""
        row = int(self.f1.argmax())
        if row == 0:
            return float("nan")
        following = self.scores[row + 1] if row + 1 < len(self.scores) else 0.0
        return float(self.scores[row] + following) / 2

    @property
    def suggested_threshold(self) -> float:
        """The best, or 0.5 where no score is better than another."""
        best = self.best_threshold
        return _WITHOUT_A_HIT if math.isnan(best) else best

    def at(self, thresholds: Float[np.ndarray, "K"]) -> Int[np.ndarray, "K"]:
        """The rows that hold what is over the thresholds."""
        return np.searchsorted(-self.scores, -thresholds, side="left") - 1


def score_curve(matches: Matches, label: int | None = None) -> ScoreCurve:
    """The curve of a class, or of all detections together."""
    rows = ~matches.left_out[:, 0]
    if label is not None:
        rows &= matches.labels == label
    objects = int(matches.objects.sum() if label is None else matches.objects[:, label].sum())
    scores = matches.scores[rows]
    last_of_equal = np.append(np.diff(scores) < 0, True)[: len(scores)]
    hits = np.append(0, matches.hit[rows, 0].cumsum()[last_of_equal])
    kept = np.append(0, np.flatnonzero(last_of_equal) + 1)
    return ScoreCurve(
        scores=np.append(np.inf, scores[last_of_equal]),
        kept=kept,
        precision=np.where(kept > 0, hits / np.maximum(kept, 1), 1.0),
        recall=hits / max(objects, 1),
        f1=2 * hits / np.maximum(kept + objects, 1),
        objects=objects,
    )


def confusion_matrix(scenes: Sequence[Scene], classes: int) -> Int[np.ndarray, "C1 C1"]:
    """Rows are the true class, columns the one that was found; the last of each is background.

    The diagonal holds the hits. What is left over is matched at IoU 0.5 whatever the class, by descending score. Take
    scenes `above` a score: low ones would fill the background's row.
    """
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for scene in scenes:
        taken, left_out = (result[:, 0] for result in match_scene(scene, (FOREGROUND_IOU,)))
        hit = taken != NO_OBJECT
        np.add.at(matrix, (scene.found_labels[hit], scene.found_labels[hit]), 1)
        objects = np.flatnonzero(~scene.ignore & ~np.isin(np.arange(len(scene.boxes)), taken))
        false = scene.keep(~hit & ~left_out)
        mixed_up = match_scene(_without_classes(false, objects), (FOREGROUND_IOU,))[0][:, 0]
        true = np.append(scene.labels[objects], classes)[mixed_up]  # NO_OBJECT is the last: background
        np.add.at(matrix, (true, false.found_labels), 1)
        missed = np.delete(scene.labels[objects], mixed_up[mixed_up != NO_OBJECT])
        np.add.at(matrix, (missed, np.full_like(missed, classes)), 1)
    return matrix


def _without_classes(scene: Scene, objects: Int[np.ndarray, "G"]) -> Scene:
    return Scene(
        boxes=scene.boxes[objects],
        labels=np.zeros(len(objects), dtype=np.int64),
        ignore=np.zeros(len(objects), dtype=bool),
        found_boxes=scene.found_boxes,
        found_labels=np.zeros_like(scene.found_labels),
        found_scores=scene.found_scores,
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """How wrong a picture is; `picture` is its place in the scenes."""

    picture: int
    cost: float
    judgement: Judgement


def worst_pictures(scenes: Sequence[Scene], *, count: int) -> list[Verdict]:
    """Pictures with errors, the worst first: a missed object costs 1, a false detection its score.

    Take scenes `above` a score: an object that is found with a score of 0.02 only is missed in practice.
    """
    verdicts = []
    for picture, scene in enumerate(scenes):
        judgement = judge(scene)
        false = judgement.kinds >= Kind.WRONG_CLASS
        cost = float(judgement.missed.sum() + scene.found_scores[false].sum())
        verdicts.append(Verdict(picture, cost, judgement))
    return sorted((verdict for verdict in verdicts if verdict.cost > 0), key=lambda verdict: -verdict.cost)[:count]
