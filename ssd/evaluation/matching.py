"""Which detections hit an object, by the rules of COCO and of PASCAL VOC: once for each image, then flat arrays.

One letter a dimension: G objects and D detections of an image, P images, N detections of all images, T IoU
thresholds, C classes. Plain numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

COCO_POINTS, VOC07_POINTS = 101, 11
AREA = 0  # in place of a number of points

_ROWS_AT_ONCE = 50
_CONFIDENCE = 0.95


def average_precision(
    matches: Matches, *, points: int, weights: Int[np.ndarray, "R P"] | None = None
) -> Float[np.ndarray, "R T C"]:
    """AP of each class at each IoU threshold, for each row of weights of the images (one row of ones if None).

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


def resampled(images: int, *, times: int, seed: int) -> Int[np.ndarray, "R P"]:
    """How often each image is drawn in `times` samples with replacement."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=times)


def interval(values: Float[np.ndarray, "R"]) -> tuple[float, float]:
    """The middle 95 % of resampled values."""
    low, high = np.nanquantile(values, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


def _of_block(matches: Matches, weights: np.ndarray, points: int) -> np.ndarray:
    objects = weights @ matches.objects
    ap = np.full((len(weights), matches.hit.shape[1], objects.shape[1]), np.nan)
    for label in np.flatnonzero(matches.objects.any(axis=0)):
        rows = np.flatnonzero(matches.labels == label)
        weight = weights[:, matches.images[rows]]
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


COCO_IOUS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
NO_OBJECT = -1

_COCO_DETECTIONS = 100  # of a class in an image, as in COCO's own evaluation
_VOC_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Scene:
    """What is in an image, and what was found there, by descending score. Boxes are xyxy in pixels of the image.

    `ignore` marks objects that need not be found; what is found there is neither right nor wrong.
    """

    boxes: Float[np.ndarray, "G 4"]
    labels: Int[np.ndarray, "G"]
    ignore: Bool[np.ndarray, "G"]
    found_boxes: Float[np.ndarray, "D 4"]
    found_labels: Int[np.ndarray, "D"]
    found_scores: Float[np.ndarray, "D"]

    def keep(self, chosen: Bool[np.ndarray, "D"]) -> Scene:
        """The same image with fewer detections."""
        return replace(
            self,
            found_boxes=self.found_boxes[chosen],
            found_labels=self.found_labels[chosen],
            found_scores=self.found_scores[chosen],
        )

    def above(self, score: float) -> Scene:
        """The same image with the detections over a score."""
        return self.keep(self.found_scores > score)


@dataclass(frozen=True, slots=True)
class Matches:
    """All detections, the best first. `objects` counts those of each image that are to be found."""

    images: Int[np.ndarray, "N"]
    labels: Int[np.ndarray, "N"]
    scores: Float[np.ndarray, "N"]
    hit: Bool[np.ndarray, "N T"]
    left_out: Bool[np.ndarray, "N T"]  # on an ignored object
    objects: Int[np.ndarray, "P C"]


def match_coco(scenes: Sequence[Scene], classes: int, *, ious: Sequence[float] = COCO_IOUS) -> Matches:
    """COCO's rule: by descending score a detection takes the free object of its class that it overlaps most.

    One that gets none, but lies on an ignored object of its class (by its share inside), is left out. The 100 best of
    a class in an image count.
    """
    scenes = [best_of_each_class(scene) for scene in scenes]
    rows = [match_scene(scene, ious) for scene in scenes]
    return _flat(scenes, classes, [taken != NO_OBJECT for taken, _ in rows], [left_out for _, left_out in rows])


def match_voc(scenes: Sequence[Scene], classes: int) -> Matches:
    """The rule of the VOC devkit at IoU 0.5: a detection goes to the object of its class that it overlaps most.

    If that is difficult, it is left out; if a better detection has taken it, it is wrong. Boxes hold their last
    pixel, as in the devkit: width is x2 - x1 + 1. A box 20 pixels wide that is 2 pixels off has an IoU of 0.826 then,
    without 0.818; published VOC numbers have it. Source: VOCevaldet.m of VOCdevkit 2012.
    """
    hits, left_out = [], []
    for scene in scenes:
        iou = np.where(_same_class(scene), overlaps(scene.found_boxes, scene.boxes, last_pixel=1.0)[0], 0.0)
        share, target = best_of_row(iou)
        near = share >= _VOC_IOU
        ignored = near & np.append(scene.ignore, False)[target]
        _, first = np.unique(np.where(near, target, NO_OBJECT), return_index=True)
        best = np.zeros(len(iou), dtype=bool)
        best[first] = True
        hits.append((near & ~ignored & best)[:, None])
        left_out.append(ignored[:, None])
    return _flat(scenes, classes, hits, left_out)


def match_scene(scene: Scene, ious: Sequence[float]) -> tuple[Int[np.ndarray, "D T"], Bool[np.ndarray, "D T"]]:
    """(the object that each detection takes, or NO_OBJECT; whether it is left out), by COCO's rule."""
    iou, inside = overlaps(scene.found_boxes, scene.boxes)
    same = _same_class(scene)
    thresholds = np.array(ious)
    real = np.where(same & ~scene.ignore, iou, 0.0)
    taken = np.full((len(iou), len(thresholds)), NO_OBJECT)
    free = np.ones((len(thresholds), len(scene.boxes)), dtype=bool)
    for row in np.flatnonzero(real.max(axis=1, initial=0.0) >= thresholds.min()):
        open_iou = real[row] * free
        share, target = best_of_row(open_iou)
        levels = np.flatnonzero(share >= thresholds)
        taken[row, levels] = target[levels]
        free[levels, target[levels]] = False
    on_ignored = np.where(same & scene.ignore, inside, 0.0).max(axis=1, initial=0.0)
    return taken, (taken == NO_OBJECT) & (on_ignored[:, None] >= thresholds)


def overlaps(
    a: Float[np.ndarray, "A 4"], b: Float[np.ndarray, "B 4"], *, last_pixel: float = 0.0
) -> tuple[Float[np.ndarray, "A B"], Float[np.ndarray, "A B"]]:
    """(IoU, share of a's box that lies in b's) of each pair; `last_pixel` is added to every width and height."""
    first, second = a[:, None].astype(np.float64), b[None].astype(np.float64)
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    common = np.prod((high - low + last_pixel).clip(0), axis=-1)
    area_a, area_b = (np.prod(box[..., 2:] - box[..., :2] + last_pixel, axis=-1) for box in (first, second))
    tiny = np.finfo(np.float64).tiny
    return common / np.maximum(area_a + area_b - common, tiny), common / np.maximum(area_a, tiny)


def best_of_row(values: Float[np.ndarray, "A B"]) -> tuple[Float[np.ndarray, "A"], Int[np.ndarray, "A"]]:
    """(largest value, its column) of each row; (0, 0) in rows without columns."""
    padded = np.concatenate((values, np.zeros((len(values), 1), dtype=values.dtype)), axis=1)  # np.pad is slow
    return padded.max(axis=1), padded.argmax(axis=1)


def best_of_each_class(scene: Scene) -> Scene:
    """The detections that COCO looks at."""
    order = np.argsort(scene.found_labels, kind="stable")
    grouped = scene.found_labels[order]
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - np.searchsorted(grouped, grouped)
    return scene.keep(rank < _COCO_DETECTIONS)


def _same_class(scene: Scene) -> Bool[np.ndarray, "D G"]:
    return scene.found_labels[:, None] == scene.labels[None]


def _flat(scenes: Sequence[Scene], classes: int, hits: Sequence[np.ndarray], left_out: Sequence[np.ndarray]) -> Matches:
    images = np.repeat(np.arange(len(scenes)), [len(scene.found_scores) for scene in scenes])
    scores = np.concatenate([scene.found_scores for scene in scenes])
    best_first = np.argsort(-scores, kind="stable")
    counts = [np.bincount(scene.labels[~scene.ignore], minlength=classes) for scene in scenes]
    return Matches(
        images=images[best_first],
        labels=np.concatenate([scene.found_labels for scene in scenes])[best_first],
        scores=scores[best_first],
        hit=np.concatenate(hits)[best_first],
        left_out=np.concatenate(left_out)[best_first],
        objects=np.stack(counts),
    )
