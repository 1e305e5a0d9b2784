"""Average precision from matches: COCO's 101 points, VOC07's 11 points, the area of VOC 2010 and later; and its noise.

The noise is that of the choice of pictures: the bootstrap draws them anew and counts a picture that was drawn twice as
two, so the matches are weighted and the matcher does not run again.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from ssd.evaluation.matching import Matches

COCO_POINTS, VOC07_POINTS = 101, 11
AREA = 0  # in place of a number of points

_ROWS_AT_ONCE = 50
_CONFIDENCE = 0.95


def average_precision(
    matches: Matches, *, points: int, weights: Int[np.ndarray, "R P"] | None = None
) -> Float[np.ndarray, "R T C"]:
    """AP of each class at each IoU threshold, for each row of weights of the pictures (one row of ones if None).

    Precision is the best at this recall or a higher one; it is averaged over `points` levels of recall from 0 to 1,
    or over all recalls (AREA). NaN where a class has no object.
    """
    if weights is None:
        weights = np.ones((1, len(matches.objects)), dtype=np.int64)
    blocks = [weights[row : row + _ROWS_AT_ONCE] for row in range(0, len(weights), _ROWS_AT_ONCE)]
    return np.concatenate([_of_block(matches, block, points) for block in blocks])


def mean_over_classes(ap: Float[np.ndarray, "*N C"]) -> Float[np.ndarray, "*N"]:
    """Classes without an object have no say; NaN if there is none with one."""
    known = ~np.isnan(ap)
    total = np.where(known, ap, 0.0).sum(axis=-1)
    return np.divide(total, known.sum(axis=-1), out=np.full(total.shape, np.nan), where=known.any(axis=-1))


def resampled(pictures: int, *, times: int, seed: int) -> Int[np.ndarray, "R P"]:
    """How often each picture is drawn in `times` samples with replacement."""
    return np.random.default_rng(seed).multinomial(pictures, np.full(pictures, 1 / pictures), size=times)


def interval(values: Float[np.ndarray, "R"]) -> tuple[float, float]:
    """The middle 95 % of resampled values."""
    low, high = np.nanquantile(values, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


def _of_block(matches: Matches, weights: np.ndarray, points: int) -> np.ndarray:
    objects = weights @ matches.objects
    ap = np.full((len(weights), matches.hit.shape[1], objects.shape[1]), np.nan)
    for label in np.flatnonzero(matches.objects.any(axis=0)):
        rows = np.flatnonzero(matches.labels == label)
        weight = weights[:, matches.pictures[rows]]
        counted = weight.cumsum(axis=1)
        for level in range(ap.shape[1]):
            hits, left_out = (np.flatnonzero(mask[rows, level]) for mask in (matches.hit, matches.left_out))
            spoiled = np.pad(weight[:, left_out].cumsum(axis=1), ((0, 0), (1, 0)))
            total = counted[:, hits] - spoiled[:, np.searchsorted(left_out, hits)]
            ap[:, level, label] = _interpolate(weight[:, hits].cumsum(axis=1), total, objects[:, label], points)
    return ap


def _interpolate(found: np.ndarray, total: np.ndarray, objects: np.ndarray, points: int) -> np.ndarray:
    """[R K] weights found up to each hit, and detections up to there; the levels of recall are compared as integers."""
    precision = found / np.maximum(total, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    known = np.maximum(objects, 1)[:, None]
    reached = found / known if points == AREA else (found * (points - 1) // known + 1) / points
    gained = np.diff(reached, axis=1, prepend=0.0)
    return np.where(objects > 0, (envelope * gained).sum(axis=1), np.nan)
