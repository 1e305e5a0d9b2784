"""Error types of detections and the AP that each type costs, as in TIDE; and the confusion matrix.

Source: TIDE, arXiv 2008.08115.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Int

from ssd.evaluation.matching import (
    COCO_POINTS,
    UNMATCHED,
    ImageResult,
    Matches,
    average_precision,
    match_image,
    mean_over_classes,
    overlaps,
    row_max,
    top_per_class,
)

FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1


class Outcome(IntEnum):
    """What a detection is: correct, ignored, or one of TIDE's error types; MISS is a ground-truth box not detected."""

    CORRECT = 0
    IGNORED = 1  # on an ignored box
    CLS = 2
    LOC = 3
    BOTH = 4
    DUPE = 5
    BKG = 6
    MISS = 7

    @property
    def title(self) -> str:
        """TIDE's name of the error type."""
        return self.name.capitalize() if self in ERRORS else self.name.lower()


ERRORS = {  # in plain words
    Outcome.CLS: "wrong class",
    Outcome.LOC: "poor box",
    Outcome.BOTH: "wrong class and poor box",
    Outcome.DUPE: "duplicate",
    Outcome.BKG: "background",
    Outcome.MISS: "missed",
}


@dataclass(frozen=True, slots=True)
class ErrorTypes:
    """Outcomes and labels of the detections of an image, and the ground-truth box that each refers to, or UNMATCHED."""

    outcomes: Int[np.ndarray, "D"]
    targets: Int[np.ndarray, "D"]
    pred_labels: Int[np.ndarray, "D"]
    labels: Int[np.ndarray, "G"]
    ignore: Bool[np.ndarray, "G"]

    @property
    def detected(self) -> Bool[np.ndarray, "G"]:
        """Which boxes have a correct detection."""
        return np.isin(np.arange(len(self.labels)), self.targets[self.outcomes == Outcome.CORRECT])

    @property
    def missed(self) -> Bool[np.ndarray, "G"]:
        """Which boxes no detection refers to; ignored ones are not missed."""
        return ~self.ignore & ~np.isin(np.arange(len(self.labels)), self.targets)

    def counts(self) -> Counter[int]:
        """Number of detections (for MISS: of ground-truth boxes) by outcome."""
        return Counter(self.outcomes.tolist()) + Counter({int(Outcome.MISS): int(self.missed.sum())})

    @property
    def summary(self) -> str:
        """The errors by frequency, such as: 2 Miss, 1 Bkg."""
        counts = self.counts()
        by_frequency = sorted(ERRORS, key=lambda error: -counts[error])
        return ", ".join(f"{counts[error]} {error.title}" for error in by_frequency if counts[error])

    def of_ground_truth(self) -> Int[np.ndarray, "G"]:
        """The outcome of each ground-truth box: that of the detection that refers to it."""
        outcomes = np.where(self.ignore, Outcome.IGNORED, Outcome.MISS)
        near = np.isin(self.outcomes, (Outcome.LOC, Outcome.CLS))
        outcomes[self.targets[near]] = self.outcomes[near]
        outcomes[self.detected] = Outcome.CORRECT
        return outcomes


def classify_errors(result: ImageResult) -> ErrorTypes:
    """The outcome of each detection of an image: the first of these that applies.

    correct, ignored: by COCO's matching at IoU 0.5. Loc: IoU of 0.1 to 0.5 with a box of its class. Cls: IoU of 0.5 or
    more with a box of another class. Dupe: IoU of 0.5 or more with a box that a better detection matched. Bkg: IoU of
    at most 0.1 with every box. Both: the rest.
    """
    matched_gt, ignored = (values[:, 0] for values in match_image(result, (FOREGROUND_IOU,)))
    iou, _ = overlaps(result.pred_boxes, result.boxes)
    same_class = result.pred_labels[:, None] == result.labels[None]
    same, same_target = row_max(np.where(same_class & ~result.ignore, iou, 0.0))
    other, other_target = row_max(np.where(~same_class & ~result.ignore, iou, 0.0))
    cases = {
        Outcome.CORRECT: matched_gt != UNMATCHED,
        Outcome.IGNORED: ignored,
        Outcome.LOC: (same >= BACKGROUND_IOU) & (same < FOREGROUND_IOU),
        Outcome.CLS: other >= FOREGROUND_IOU,
        Outcome.DUPE: same >= FOREGROUND_IOU,
        Outcome.BKG: np.maximum(same, other) <= BACKGROUND_IOU,
    }
    outcomes = np.select(list(cases.values()), list(cases), default=Outcome.BOTH)
    refers = (outcomes == Outcome.CORRECT, np.isin(outcomes, (Outcome.LOC, Outcome.DUPE)), outcomes == Outcome.CLS)
    targets = np.select(refers, (matched_gt, same_target, other_target), default=UNMATCHED)
    return ErrorTypes(outcomes, targets, result.pred_labels, result.labels, result.ignore)


def count_errors(results: Iterable[ImageResult]) -> dict[str, int]:
    """Number of errors of each type, by title."""
    counts: Counter[int] = Counter()
    for result in results:
        counts += classify_errors(result).counts()
    return {error.title: counts[error] for error in ERRORS}


def confusion_matrix(results: Iterable[ImageResult], num_classes: int) -> Int[np.ndarray, "C1 C1"]:
    """Counts of (true class, predicted class); the last row and column are background.

    The diagonal holds the correct detections. The rest is matched at IoU 0.5 whatever the class, by descending score.
    Pass results `above` a score: detections of low score would fill the row of background.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for result in results:
        matched_gt, ignored = (values[:, 0] for values in match_image(result, (FOREGROUND_IOU,)))
        correct = matched_gt != UNMATCHED
        np.add.at(matrix, (result.pred_labels[correct], result.pred_labels[correct]), 1)
        unmatched = np.flatnonzero(~result.ignore & ~np.isin(np.arange(len(result.boxes)), matched_gt))
        wrong = result.where(~correct & ~ignored)
        confused = match_image(_without_classes(wrong, unmatched), (FOREGROUND_IOU,))[0][:, 0]
        true = np.append(result.labels[unmatched], num_classes)[confused]  # UNMATCHED is the last: background
        np.add.at(matrix, (true, wrong.pred_labels), 1)
        missed = np.delete(result.labels[unmatched], confused[confused != UNMATCHED])
        np.add.at(matrix, (missed, np.full_like(missed, num_classes)), 1)
    return matrix


def _without_classes(result: ImageResult, boxes: Int[np.ndarray, "M"]) -> ImageResult:
    """Some of the ground-truth boxes and all detections, as if there were one class."""
    return replace(
        result,
        boxes=result.boxes[boxes],
        labels=np.zeros(len(boxes), dtype=np.int64),
        ignore=np.zeros(len(boxes), dtype=bool),
        pred_labels=np.zeros_like(result.pred_labels),
    )


def delta_ap(results: Sequence[ImageResult], num_classes: int) -> dict[str, float]:
    """AP at IoU 0.5 that fixing all errors of a type would gain, by the type's title.

    A Loc error gets the right box, a Cls error the right class: for each undetected box the best detection of the two
    types that refers to it; the others of the type are removed. Both, Dupe and Bkg errors are removed. Missed boxes are
    removed from the ground truth. In addition: `FalsePos`, all wrong detections are removed; `FalseNeg`, all undetected
    boxes are. The gains do not add up. A class left without ground truth does not count, as in COCO.
    """
    now = _join(results)
    correct = now.outcomes == Outcome.CORRECT
    fixed = {error.title: _fix(now, error) for error in ERRORS}
    fixed["FalsePos"] = replace(now, outcomes=np.where(correct, now.outcomes, Outcome.IGNORED))
    fixed["FalseNeg"] = replace(now, ignore=~now.detected)
    ap = _ap50(now, num_classes)
    return {title: max(0.0, _ap50(errors, num_classes) - ap) for title, errors in fixed.items()}


def _join(results: Sequence[ImageResult]) -> ErrorTypes:
    """The errors of all images as if they were one, detections by descending score."""
    results = [top_per_class(result) for result in results]
    errors = [classify_errors(result) for result in results]
    starts = np.cumsum([0, *(len(result.labels) for result in results)])
    targets = [
        np.where(item.targets == UNMATCHED, UNMATCHED, item.targets + start)
        for item, start in zip(errors, starts, strict=False)
    ]
    order = np.argsort(-np.concatenate([result.pred_scores for result in results]), kind="stable")
    return ErrorTypes(
        outcomes=np.concatenate([item.outcomes for item in errors])[order],
        targets=np.concatenate(targets)[order],
        pred_labels=np.concatenate([item.pred_labels for item in errors])[order],
        labels=np.concatenate([item.labels for item in errors]),
        ignore=np.concatenate([item.ignore for item in errors]),
    )


def _fix(now: ErrorTypes, error: Outcome) -> ErrorTypes:
    if error is Outcome.MISS:
        return replace(now, ignore=now.ignore | now.missed)
    outcomes, labels = np.where(now.outcomes == error, Outcome.IGNORED, now.outcomes), now.pred_labels.copy()
    if error in (Outcome.LOC, Outcome.CLS):
        rows = np.flatnonzero(np.isin(now.outcomes, (Outcome.LOC, Outcome.CLS)))
        rows = rows[~now.detected[now.targets[rows]]]
        _, first = np.unique(now.targets[rows], return_index=True)
        best = rows[first][now.outcomes[rows[first]] == error]
        outcomes[best] = Outcome.CORRECT
        labels[best] = now.labels[now.targets[best]]
    return replace(now, outcomes=outcomes, pred_labels=labels)


def _ap50(errors: ErrorTypes, num_classes: int) -> float:
    matches = Matches(
        images=np.zeros_like(errors.pred_labels),
        labels=errors.pred_labels,
        scores=-np.arange(len(errors.pred_labels), dtype=np.float64),  # only their order counts
        true_positive=(errors.outcomes == Outcome.CORRECT)[:, None],
        ignored=(errors.outcomes == Outcome.IGNORED)[:, None],
        objects=np.bincount(errors.labels[~errors.ignore], minlength=num_classes)[None],
    )
    ap = mean_over_classes(average_precision(matches, points=COCO_POINTS)[0, 0])
    return float(np.nan_to_num(ap, nan=1.0))  # no ground truth left: nothing to gain
