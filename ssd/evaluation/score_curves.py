"""Precision, recall and F1 against the score threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ssd.evaluation.matching import Matches

ALL_CLASSES = "all classes"  # the name of the curve over all classes
_DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class ScoreCurve:
    """Precision, recall and F1 of the K best detections, for each K, at IoU 0.5; K1 is K + 1: row 0 keeps none.

    `scores` is the lowest score kept, descending; detections of equal score are kept or dropped together. `kept` is the
    number of detections kept, `objects` the number of boxes to detect.
    """

    scores: Float[np.ndarray, "K1"]
    kept: Int[np.ndarray, "K1"]
    precision: Float[np.ndarray, "K1"]
    recall: Float[np.ndarray, "K1"]
    f1: Float[np.ndarray, "K1"]
    objects: int

    @property
    def best_threshold(self) -> float:
        """The score threshold with the best F1: halfway to the next lower score. NaN without a true positive."""
        row = int(self.f1.argmax())
        if row == 0:
            return float("nan")
        next_score = self.scores[row + 1] if row + 1 < len(self.scores) else 0.0
        return float(self.scores[row] + next_score) / 2

    @property
    def suggested_threshold(self) -> float:
        """The best threshold, or 0.5 if there is none."""
        best = self.best_threshold
        return _DEFAULT_THRESHOLD if math.isnan(best) else best

    def at(self, thresholds: Float[np.ndarray, "K"]) -> Int[np.ndarray, "K"]:
        """The row that keeps the detections above each threshold."""
        return np.searchsorted(-self.scores, -thresholds, side="left") - 1


def score_curve(matches: Matches, label: int | None = None) -> ScoreCurve:
    """The curve of one class, or of the detections of all classes together."""
    rows = ~matches.ignored[:, 0]
    if label is not None:
        rows &= matches.labels == label
    objects = int(matches.objects.sum() if label is None else matches.objects[:, label].sum())
    scores = matches.scores[rows]
    last_of_equal = np.append(np.diff(scores) < 0, True)[: len(scores)]
    hits = np.append(0, matches.true_positive[rows, 0].cumsum()[last_of_equal])
    kept = np.append(0, np.flatnonzero(last_of_equal) + 1)
    return ScoreCurve(
        scores=np.append(np.inf, scores[last_of_equal]),
        kept=kept,
        precision=np.where(kept > 0, hits / np.maximum(kept, 1), 1.0),
        recall=hits / max(objects, 1),
        f1=2 * hits / np.maximum(kept + objects, 1),
        objects=objects,
    )
