"""Matches detections to ground truth by the rules of COCO and PASCAL VOC; average precision from the matches.

One letter per dimension: G ground-truth boxes and D detections of an image, I images, N detections of all images,
T IoU thresholds, C classes, R bootstrap samples. Plain numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

COCO_IOUS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
COCO_POINTS, VOC07_POINTS = 101, 11
AREA = 0  # as a number of recall points: the area under the whole curve
UNMATCHED = -1

_COCO_MAX_DETECTIONS = 100  # per class and image, as in COCO's own evaluation
_VOC_IOU = 0.5
_CONFIDENCE = 0.95
_BLOCK_ROWS = 50  # bootstrap samples computed at once, to bound memory


@dataclass(frozen=True, slots=True)
class ImageResult:
    """Ground truth and detections of one image; boxes are xyxy in pixels of the image, detections by descending score.

    A box marked `ignore` need not be detected, and detections on it are neither right nor wrong.
    """

    boxes: Float[np.ndarray, "G 4"]
    labels: Int[np.ndarray, "G"]
    ignore: Bool[np.ndarray, "G"]
    pred_boxes: Float[np.ndarray, "D 4"]
    pred_labels: Int[np.ndarray, "D"]
    pred_scores: Float[np.ndarray, "D"]

    def where(self, keep: Bool[np.ndarray, "D"]) -> ImageResult:
        """The same image with the detections that `keep` marks."""
        parts = {name: getattr(self, name)[keep] for name in ("pred_boxes", "pred_labels", "pred_scores")}
        return replace(self, **parts)

    def above(self, score_threshold: float) -> ImageResult:
        """The same image with the detections whose score exceeds `score_threshold`."""
        return self.where(self.pred_scores > score_threshold)


@dataclass(frozen=True, slots=True)
class Matches:
    """Detections of all images by descending score, and the number of boxes to detect per image and class.

    `ignored` marks detections on ignored boxes; they count neither as true nor as false positives.
    """

    images: Int[np.ndarray, "N"]
    labels: Int[np.ndarray, "N"]
    scores: Float[np.ndarray, "N"]
    true_positive: Bool[np.ndarray, "N T"]
    ignored: Bool[np.ndarray, "N T"]
    objects: Int[np.ndarray, "I C"]


def match_coco(results: Sequence[ImageResult], num_classes: int, *, ious: Sequence[float] = COCO_IOUS) -> Matches:
    """COCO's rule: by descending score, a detection takes the free box of its class that it overlaps most.

    A detection without a match is ignored if it lies on an ignored box of its class (by the share of its own area).
    The 100 best detections of each class and image count.
    """
    results = [top_per_class(result) for result in results]
    rows = [match_image(result, ious) for result in results]
    return _collect(results, num_classes, [(matched_gt != UNMATCHED, ignored) for matched_gt, ignored in rows])


def match_voc(results: Sequence[ImageResult], num_classes: int) -> Matches:
    """The VOC devkit's rule at IoU 0.5: a detection is assigned to the box of its class that it overlaps most.

    It is ignored if that box is difficult, and wrong if a better detection already matched it. Boxes include their last
    pixel, as in the devkit: width is x2 - x1 + 1. A box 20 pixels wide that is off by 2 pixels has IoU 0.826 that way
    and 0.818 without; published VOC numbers include it. Source: VOCevaldet.m of VOCdevkit 2012.
    """
    rows = []
    for result in results:
        iou = np.where(_same_class(result), overlaps(result.pred_boxes, result.boxes, last_pixel=1.0)[0], 0.0)
        best_iou, target = row_max(iou)
        above = best_iou >= _VOC_IOU
        on_difficult = above & np.append(result.ignore, False)[target]
        _, first = np.unique(np.where(above, target, UNMATCHED), return_index=True)
        is_first = np.zeros(len(iou), dtype=bool)
        is_first[first] = True
        rows.append(((above & ~on_difficult & is_first)[:, None], on_difficult[:, None]))
    return _collect(results, num_classes, rows)


def match_image(result: ImageResult, ious: Sequence[float]) -> tuple[Int[np.ndarray, "D T"], Bool[np.ndarray, "D T"]]:
    """(matched ground-truth box of each detection or UNMATCHED, whether it is ignored) by COCO's rule."""
    iou, inside = overlaps(result.pred_boxes, result.boxes)
    same_class = _same_class(result)
    thresholds = np.array(ious)
    candidates = np.where(same_class & ~result.ignore, iou, 0.0)
    matched_gt = np.full((len(iou), len(thresholds)), UNMATCHED)
    free = np.ones((len(thresholds), len(result.boxes)), dtype=bool)
    for row in np.flatnonzero(candidates.max(axis=1, initial=0.0) >= thresholds.min()):
        best_iou, target = row_max(candidates[row] * free)
        levels = np.flatnonzero(best_iou >= thresholds)
        matched_gt[row, levels] = target[levels]
        free[levels, target[levels]] = False
    on_ignored = np.where(same_class & result.ignore, inside, 0.0).max(axis=1, initial=0.0)
    return matched_gt, (matched_gt == UNMATCHED) & (on_ignored[:, None] >= thresholds)


def top_per_class(result: ImageResult) -> ImageResult:
    """The detections that COCO's evaluation considers: the 100 best of each class."""
    order = np.argsort(result.pred_labels, kind="stable")
    grouped = result.pred_labels[order]
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - np.searchsorted(grouped, grouped)
    return result.where(rank < _COCO_MAX_DETECTIONS)


def overlaps(
    a: Float[np.ndarray, "A 4"], b: Float[np.ndarray, "B 4"], *, last_pixel: float = 0.0
) -> tuple[Float[np.ndarray, "A B"], Float[np.ndarray, "A B"]]:
    """(IoU, share of a's area inside b) of each pair; `last_pixel` is added to every width and height."""
    first, second = a[:, None].astype(np.float64), b[None].astype(np.float64)
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    intersection = np.prod((high - low + last_pixel).clip(0), axis=-1)
    area_a, area_b = (np.prod(box[..., 2:] - box[..., :2] + last_pixel, axis=-1) for box in (first, second))
    tiny = np.finfo(np.float64).tiny
    return intersection / np.maximum(area_a + area_b - intersection, tiny), intersection / np.maximum(area_a, tiny)


def row_max(values: Float[np.ndarray, "A B"]) -> tuple[Float[np.ndarray, "A"], Int[np.ndarray, "A"]]:
    """(maximum, its column) of each row; (0, 0) for a row without columns."""
    padded = np.concatenate((values, np.zeros((len(values), 1), dtype=values.dtype)), axis=1)  # np.pad is slow
    return padded.max(axis=1), padded.argmax(axis=1)


def _same_class(result: ImageResult) -> Bool[np.ndarray, "D G"]:
    return result.pred_labels[:, None] == result.labels[None]


def _collect(
    results: Sequence[ImageResult], num_classes: int, rows: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Matches:
    """From (true positive, ignored) of the detections of each image."""
    images = np.repeat(np.arange(len(results)), [len(result.pred_scores) for result in results])
    scores = np.concatenate([result.pred_scores for result in results])
    order = np.argsort(-scores, kind="stable")
    objects = [np.bincount(result.labels[~result.ignore], minlength=num_classes) for result in results]
    return Matches(
        images=images[order],
        labels=np.concatenate([result.pred_labels for result in results])[order],
        scores=scores[order],
        true_positive=np.concatenate([hits for hits, _ in rows])[order],
        ignored=np.concatenate([ignored for _, ignored in rows])[order],
        objects=np.stack(objects),
    )


def average_precision(
    matches: Matches, *, points: int, weights: Int[np.ndarray, "R I"] | None = None
) -> Float[np.ndarray, "R T C"]:
    """AP per IoU threshold and class, for each row of image weights (one row of ones if None).

    Precision is interpolated: the best at the same or a higher recall. It is averaged over `points` recall levels from
    0 to 1, or over the whole curve (AREA). NaN for a class without ground truth.
    """
    if weights is None:
        weights = np.ones((1, len(matches.objects)), dtype=np.int64)
    blocks = [weights[row : row + _BLOCK_ROWS] for row in range(0, len(weights), _BLOCK_ROWS)]
    return np.concatenate([_block_ap(matches, block, points) for block in blocks])


def mean_over_classes(ap: Float[np.ndarray, "*N C"]) -> Float[np.ndarray, "*N"]:
    """The mean over the classes with ground truth; NaN if there is none."""
    defined = ~np.isnan(ap)
    total = np.where(defined, ap, 0.0).sum(axis=-1)
    return np.divide(total, defined.sum(axis=-1), out=np.full(total.shape, np.nan), where=defined.any(axis=-1))


def bootstrap_weights(images: int, *, samples: int, seed: int) -> Int[np.ndarray, "R I"]:
    """How often each image is drawn in each of `samples` samples with replacement."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=samples)


def confidence_interval(values: Float[np.ndarray, "R"]) -> tuple[float, float]:
    """The middle 95 % of bootstrap values."""
    low, high = np.nanquantile(values, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


def _block_ap(matches: Matches, weights: np.ndarray, points: int) -> np.ndarray:
    objects = weights @ matches.objects
    ap = np.full((len(weights), matches.true_positive.shape[1], objects.shape[1]), np.nan)
    for label in np.flatnonzero(matches.objects.any(axis=0)):
        rows = np.flatnonzero(matches.labels == label)
        weight = weights[:, matches.images[rows]]
        counted = weight.cumsum(axis=1)
        for level in range(ap.shape[1]):
            hits, ignored = (np.flatnonzero(mask[rows, level]) for mask in (matches.true_positive, matches.ignored))
            uncounted = np.pad(weight[:, ignored].cumsum(axis=1), ((0, 0), (1, 0)))
            total = counted[:, hits] - uncounted[:, np.searchsorted(ignored, hits)]
            ap[:, level, label] = _interpolated_ap(weight[:, hits].cumsum(axis=1), total, objects[:, label], points)
    return ap


def _interpolated_ap(hits: np.ndarray, total: np.ndarray, objects: np.ndarray, points: int) -> np.ndarray:
    """AP from the weights of true positives and of all detections up to each true positive, both [R K].

    Recall levels are compared as integers: 0.1 * 3 exceeds 0.3 in floating point.
    """
    precision = hits / np.maximum(total, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    known = np.maximum(objects, 1)[:, None]
    recall = hits / known if points == AREA else (hits * (points - 1) // known + 1) / points
    return np.where(objects > 0, (envelope * np.diff(recall, axis=1, prepend=0.0)).sum(axis=1), np.nan)
