"""Evaluates detectors on a dataset: the one path for every mAP that is printed, compared or used to guard an export."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np
from jaxtyping import Float, Int

from ssd.common.structures import Detections, Predict
from ssd.data.index import DetectionIndex
from ssd.evaluation.detect import Speed, detect
from ssd.evaluation.matching import (
    AREA,
    COCO_POINTS,
    VOC07_POINTS,
    ImageResult,
    Matches,
    average_precision,
    confidence_interval,
    match_coco,
    match_voc,
    mean_over_classes,
)
from ssd.evaluation.metrics import coco_metrics, image_result
from ssd.evaluation.score_curves import ALL_CLASSES, ScoreCurve, score_curve
from ssd.evaluation.tide import confusion_matrix, count_errors, delta_ap

_MAX_THRESHOLD_IMAGES = 1_000


@dataclass(frozen=True, slots=True)
class ClassResult:
    """Results of one class, None where undefined. Precision and recall are those above `threshold`, the best for F1."""

    name: str
    objects: int
    map: float | None
    map_50: float | None
    voc07_ap: float | None
    voc_ap: float | None
    threshold: float | None
    precision: float | None
    recall: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results of one detector on one split.

    `metrics` are COCO's, `voc07_map` (11 points) and `voc_map` (area); metrics without ground truth are left out.
    `samples` are map and map_50 of each bootstrap sample of the images, `intervals` the middle 95 % of them.
    `error_counts` and `confusion` count detections above `threshold`; `delta_ap` is the AP that each error type costs.
    """

    name: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    classes: list[ClassResult]
    threshold: float
    delta_ap: dict[str, float]
    error_counts: dict[str, int]
    confusion: Int[np.ndarray, "C1 C1"]
    speed: Speed
    curves: dict[str, ScoreCurve]
    image_results: list[ImageResult]
    samples: dict[str, Float[np.ndarray, "R"]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """By how much one detector is better than another, and the middle 95 % of that over the same bootstrap samples."""

    metric: str
    better: str
    other: str
    difference: float
    low: float
    high: float

    @property
    def exceeds_noise(self) -> bool:
        """Whether the choice of images cannot explain the difference; the seed of the training still may."""
        return self.low > 0


def mean_ap(
    predict: Predict,
    index: DetectionIndex,
    *,
    class_names: Sequence[str],
    batch_size: int = 8,
    num_workers: int | None = None,
) -> float | None:
    """COCO mAP of a detector, None without ground truth; for the arguments see `detect`."""
    results = detect_results(predict, index, class_names=class_names, batch_size=batch_size, num_workers=num_workers)
    return coco_metrics(results, index.class_names).get("map")


def evaluate(
    name: str, detections: Sequence[Detections], index: DetectionIndex, *, speed: Speed, weights: Int[np.ndarray, "R I"]
) -> Evaluation:
    """All results of the detector `name` from its detections in each image of the index, see `detect`.

    `weights` are those of bootstrap samples of the images.
    """
    by_id = _image_results(detections, index)
    metrics = coco_metrics(by_id, index.class_names)
    results = list(by_id.values())
    num_classes = len(index.class_names)
    matches = match_coco(results, num_classes)
    curves = {label: score_curve(matches, row) for row, label in enumerate(index.class_names)}
    curves[ALL_CLASSES] = score_curve(matches)
    threshold = curves[ALL_CLASSES].suggested_threshold
    above = [result.above(threshold) for result in results]
    classes = _class_results(results, matches, curves)
    ap = mean_over_classes(average_precision(matches, points=COCO_POINTS, weights=weights))
    samples = {"map": ap.mean(axis=1), "map_50": ap[:, 0]}
    return Evaluation(
        name=name,
        metrics=metrics | _voc_means(classes),
        intervals={key: confidence_interval(values) for key, values in samples.items() if key in metrics},
        classes=classes,
        threshold=threshold,
        delta_ap=delta_ap(results, num_classes),
        error_counts=count_errors(above),
        confusion=confusion_matrix(above, num_classes),
        speed=speed,
        curves=curves,
        image_results=results,
        samples=samples,
    )


def best_thresholds(
    predict: Predict, index: DetectionIndex, *, batch_size: int, num_workers: int | None, seed: int
) -> tuple[float, ...]:
    """Of each class the score with the best F1 at IoU 0.5, on at most 1,000 of the images.

    A class without a correct detection has that of all classes together. The detector has the classes of the index.

    Raises:
        DataError: too many images are unreadable.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(index))[:_MAX_THRESHOLD_IMAGES])
    results = detect_results(
        predict, index.take(chosen), class_names=index.class_names, batch_size=batch_size, num_workers=num_workers
    )
    matches = match_coco(list(results.values()), len(index.class_names))
    common = score_curve(matches).suggested_threshold
    best = [score_curve(matches, label).best_threshold for label in range(len(index.class_names))]
    return tuple(round(common if math.isnan(value) else value, 4) for value in best)


def compare(evaluations: Sequence[Evaluation]) -> list[Comparison]:
    """Each detector against each that is worse, by mAP and by mAP at IoU 0.5."""
    comparisons = []
    for metric in ("map", "map_50"):
        ranked = sorted(evaluations, key=lambda item: -item.metrics.get(metric, -1.0))
        for better, other in combinations(ranked, 2):
            if metric in other.metrics:
                low, high = confidence_interval(better.samples[metric] - other.samples[metric])
                difference = better.metrics[metric] - other.metrics[metric]
                comparisons.append(Comparison(metric, better.name, other.name, difference, low, high))
    return comparisons


def detect_results(
    predict: Predict, index: DetectionIndex, *, class_names: Sequence[str], batch_size: int, num_workers: int | None
) -> dict[str, ImageResult]:
    """Ground truth and detections of the readable images by id, in the order of the index; see `detect`."""
    found = detect(predict, index, class_names=class_names, batch_size=batch_size, num_workers=num_workers)
    return _image_results(found.detections, found.index)


def _image_results(detections: Sequence[Detections], index: DetectionIndex) -> dict[str, ImageResult]:
    """By id, in the order of the index."""
    results = {}
    for position, (name, found) in enumerate(zip(index.ids, detections, strict=True)):
        rows = index.rows(position)
        truth = index.boxes[rows], index.labels[rows], index.ignore[rows]
        results[name] = image_result(name, found, *truth, size=index.sizes[position])
    return results


def _class_results(
    results: Sequence[ImageResult], matches: Matches, curves: Mapping[str, ScoreCurve]
) -> list[ClassResult]:
    objects = matches.objects.sum(axis=0)
    voc = match_voc(results, len(objects))
    coco_ap = average_precision(matches, points=COCO_POINTS)[0]
    columns = [coco_ap.mean(axis=0), coco_ap[0]]
    columns += [average_precision(voc, points=points)[0, 0] for points in (VOC07_POINTS, AREA)]
    classes = []
    for name, count, *numbers in zip(curves, objects.tolist(), *columns, strict=False):
        curve, best = curves[name], curves[name].f1.argmax()
        numbers += [curve.best_threshold, curve.precision[best] if best else math.nan]
        numbers += [curve.recall[best] if count else math.nan]
        classes.append(ClassResult(name, count, *(None if math.isnan(value) else float(value) for value in numbers)))
    return classes


def _voc_means(classes: Sequence[ClassResult]) -> dict[str, float]:
    columns = {"voc07_map": [item.voc07_ap for item in classes], "voc_map": [item.voc_ap for item in classes]}
    defined = {name: [ap for ap in column if ap is not None] for name, column in columns.items()}
    return {name: fmean(values) for name, values in defined.items() if values}
