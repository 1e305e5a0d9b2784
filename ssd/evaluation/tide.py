"""Errors by kind, and the AP that each kind costs, as TIDE defines them (arXiv 2008.08115)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float, Int

from ssd.evaluation.matching import (
    COCO_POINTS,
    NO_OBJECT,
    Matches,
    Scene,
    average_precision,
    best_of_each_class,
    best_of_row,
    match_scene,
    mean_over_classes,
    overlaps,
)

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
    """How wrong an image is; `image` is its place in the scenes."""

    image: int
    cost: float
    judgement: Judgement


def worst_images(scenes: Sequence[Scene], *, count: int) -> list[Verdict]:
    """Images with errors, the worst first: a missed object costs 1, a false detection its score.

    Take scenes `above` a score: an object that is found with a score of 0.02 only is missed in practice.
    """
    verdicts = []
    for image, scene in enumerate(scenes):
        judgement = judge(scene)
        false = judgement.kinds >= Kind.WRONG_CLASS
        cost = float(judgement.missed.sum() + scene.found_scores[false].sum())
        verdicts.append(Verdict(image, cost, judgement))
    return sorted((verdict for verdict in verdicts if verdict.cost > 0), key=lambda verdict: -verdict.cost)[:count]


FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1


class Kind(IntEnum):
    """What became of a detection; of an object, for MISSED."""

    HIT = 0
    LEFT_OUT = 1  # on an ignored object
    WRONG_CLASS = 2
    POOR_BOX = 3
    BOTH = 4
    DUPLICATE = 5
    BACKGROUND = 6
    MISSED = 7

    @property
    def title(self) -> str:
        """For people to read."""
        special = {Kind.LEFT_OUT: "ignored", Kind.BOTH: "wrong class and box"}
        return special.get(self, self.name.lower().replace("_", " "))


ERRORS = tuple(kind for kind in Kind if kind >= Kind.WRONG_CLASS)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One image. `targets`: the object that a detection hits or means, or NO_OBJECT."""

    kinds: Int[np.ndarray, "D"]
    targets: Int[np.ndarray, "D"]
    found: Bool[np.ndarray, "G"]
    missed: Bool[np.ndarray, "G"]

    @property
    def reason(self) -> str:
        """The errors, such as: 2 missed, 1 background."""
        counts = Counter(self.kinds.tolist()) | Counter({int(Kind.MISSED): int(self.missed.sum())})
        return ", ".join(
            f"{counts[kind]} {kind.title}" for kind in sorted(ERRORS, key=lambda kind: -counts[kind]) if counts[kind]
        )

    def of_objects(self, ignore: Bool[np.ndarray, "G"]) -> Int[np.ndarray, "G"]:
        """The kind of each object: that of the detection that hits or means it."""
        kinds = np.where(ignore, Kind.LEFT_OUT, Kind.MISSED)
        meant = np.isin(self.kinds, (Kind.POOR_BOX, Kind.WRONG_CLASS))
        kinds[self.targets[meant]] = self.kinds[meant]
        kinds[self.found] = Kind.HIT
        return kinds


def judge(scene: Scene) -> Judgement:
    """The kind of each detection of an image; the first that fits, in this order.

    hit, left out: by COCO's matching at IoU 0.5. poor box: IoU of 0.1 to 0.5 with an object of its class. wrong
    class: 0.5 or more with one of another class. duplicate: 0.5 or more with an object that a better detection hit.
    background: at most 0.1 with any object. wrong class and box: the rest. An object is missed if nothing hits it and
    no poor box or wrong class means it.
    """
    taken, left_out = (result[:, 0] for result in match_scene(scene, (FOREGROUND_IOU,)))
    iou, _ = overlaps(scene.found_boxes, scene.boxes)
    same = scene.found_labels[:, None] == scene.labels[None]
    own, own_target = best_of_row(np.where(same & ~scene.ignore, iou, 0.0))
    other, other_target = best_of_row(np.where(~same & ~scene.ignore, iou, 0.0))
    cases = {
        Kind.HIT: taken != NO_OBJECT,
        Kind.LEFT_OUT: left_out,
        Kind.POOR_BOX: (own >= BACKGROUND_IOU) & (own < FOREGROUND_IOU),
        Kind.WRONG_CLASS: other >= FOREGROUND_IOU,
        Kind.DUPLICATE: own >= FOREGROUND_IOU,
        Kind.BACKGROUND: np.maximum(own, other) <= BACKGROUND_IOU,
    }
    kinds = np.select(list(cases.values()), list(cases), default=Kind.BOTH)
    meant = (kinds == Kind.HIT, np.isin(kinds, (Kind.POOR_BOX, Kind.DUPLICATE)), kinds == Kind.WRONG_CLASS)
    targets = np.select(meant, (taken, own_target, other_target), default=NO_OBJECT)
    rows = np.arange(len(scene.boxes))
    return Judgement(
        kinds=kinds,
        targets=targets,
        found=np.isin(rows, targets[kinds == Kind.HIT]),
        missed=~scene.ignore & ~np.isin(rows, targets),
    )


def error_costs(scenes: Sequence[Scene], classes: int) -> dict[str, float]:
    """AP at IoU 0.5 that would be gained if all errors of a kind were mended, by the kind's title.

    A poor box becomes a hit, a wrong class a hit of the right one: for each object that nothing hits, the best one of
    both kinds that means it; the others of the kind go. Other false detections go. Missed objects are no longer asked
    for. Besides: `false positives`, all false detections go; `false negatives`, only objects that are hit are asked
    for. Gains do not add up. A class that is left without objects has no say, as in COCO.
    """
    now = _flatten([best_of_each_class(scene) for scene in scenes])
    better = {kind.title: _mended(now, kind) for kind in ERRORS}
    without_false = np.where(now.kinds == Kind.HIT, now.kinds, Kind.LEFT_OUT)
    better["false positives"] = replace(now, kinds=without_false)
    better["false negatives"] = replace(now, asked=now.found)
    ap = _ap(now, classes)
    return {title: max(0.0, _ap(outcome, classes) - ap) for title, outcome in better.items()}


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The detections of all images, the best first, and the objects."""

    kinds: Int[np.ndarray, "N"]
    labels: Int[np.ndarray, "N"]
    targets: Int[np.ndarray, "N"]
    object_labels: Int[np.ndarray, "M"]
    asked: Bool[np.ndarray, "M"]
    found: Bool[np.ndarray, "M"]
    missed: Bool[np.ndarray, "M"]


def _flatten(scenes: Sequence[Scene]) -> _Outcome:
    judged = [judge(scene) for scene in scenes]
    starts = np.cumsum([0, *(len(scene.labels) for scene in scenes)])
    targets = [
        np.where(item.targets >= 0, item.targets + start, NO_OBJECT)
        for item, start in zip(judged, starts, strict=False)
    ]
    best_first = np.argsort(-np.concatenate([scene.found_scores for scene in scenes]), kind="stable")
    return _Outcome(
        kinds=np.concatenate([item.kinds for item in judged])[best_first],
        labels=np.concatenate([scene.found_labels for scene in scenes])[best_first],
        targets=np.concatenate(targets)[best_first],
        object_labels=np.concatenate([scene.labels for scene in scenes]),
        asked=np.concatenate([~scene.ignore for scene in scenes]),
        found=np.concatenate([item.found for item in judged]),
        missed=np.concatenate([item.missed for item in judged]),
    )


def _mended(now: _Outcome, kind: Kind) -> _Outcome:
    if kind is Kind.MISSED:
        return replace(now, asked=now.asked & ~now.missed)
    kinds, labels = np.where(now.kinds == kind, Kind.LEFT_OUT, now.kinds), now.labels.copy()
    if kind in (Kind.POOR_BOX, Kind.WRONG_CLASS):
        rows = np.flatnonzero(np.isin(now.kinds, (Kind.POOR_BOX, Kind.WRONG_CLASS)))
        rows = rows[~now.found[now.targets[rows]]]
        _, first = np.unique(now.targets[rows], return_index=True)
        best = rows[first][now.kinds[rows[first]] == kind]
        kinds[best] = Kind.HIT
        labels[best] = now.object_labels[now.targets[best]]
    return replace(now, kinds=kinds, labels=labels)


def _ap(outcome: _Outcome, classes: int) -> float:
    matches = Matches(
        images=np.zeros_like(outcome.labels),
        labels=outcome.labels,
        scores=-np.arange(len(outcome.labels), dtype=np.float64),  # only their order counts
        hit=(outcome.kinds == Kind.HIT)[:, None],
        left_out=(outcome.kinds == Kind.LEFT_OUT)[:, None],
        objects=np.bincount(outcome.object_labels[outcome.asked], minlength=classes)[None],
    )
    ap = mean_over_classes(average_precision(matches, points=COCO_POINTS)[0, 0])
    return float(np.nan_to_num(ap, nan=1.0))  # nothing is left to find
