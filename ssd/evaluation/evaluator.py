"""What a detector is worth on a split: COCO's and VOC's numbers, their noise, errors and speed; and comparisons."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import track

from ssd.common.class_names import class_index
from ssd.common.images import ImageArray
from ssd.data.index import DetectionIndex
from ssd.evaluation.matching import (
    AREA,
    COCO_POINTS,
    VOC07_POINTS,
    Matches,
    Scene,
    average_precision,
    interval,
    match_coco,
    match_voc,
    mean_over_classes,
)
from ssd.evaluation.metrics import DetectionMetrics
from ssd.evaluation.tide import ALL_CLASSES, ERRORS, Kind, ScoreCurve, confusion_matrix, error_costs, judge, score_curve
from ssd.model.structures import Batch, Detections

_BATCHES_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds for `images`; `waiting` of them for images to be read, the rest for the network and around it."""

    images: int
    seconds: float
    waiting: float


@dataclass(frozen=True, slots=True)
class ClassResult:
    """One class; None is undefined. Precision and recall are those over `threshold`, the score with the best F1."""

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
    """One detector on one split.

    `metrics` has COCO's set, `voc07_map` (11 points) and `voc_map` (area); what has no ground truth is left out.
    `samples` are map and map_50 of each resample of the images, `intervals` the middle 95 % of them. `counts` are
    errors over `threshold`, `costs` the AP at IoU 0.5 that they take.
    """

    name: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    classes: list[ClassResult]
    threshold: float
    costs: dict[str, float]
    counts: dict[str, int]
    confusion: Int[np.ndarray, "C1 C1"]
    speed: Speed
    curves: dict[str, ScoreCurve]
    scenes: list[Scene]
    samples: dict[str, Float[np.ndarray, "R"]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much better one detector is than another, and the middle 95 % of that over the same resamples."""

    metric: str
    better: str
    other: str
    difference: float
    low: float
    high: float

    @property
    def exceeds_noise(self) -> bool:
        """Whether the choice of the images cannot explain the difference. That of the training's seed may."""
        return self.low > 0


def detect(
    predictor: Callable[[Sequence[ImageArray]], list[Detections]],
    index: DetectionIndex,
    *,
    batch_size: int,
    threads: int,
) -> tuple[list[Detections], Speed]:
    """The detections in each image of the index; images are read ahead by `threads`."""
    predictor([np.zeros((64, 64, 3), dtype=np.uint8)])  # the first call is slow
    found: list[Detections] = []
    waiting = 0.0
    start = mark = time.perf_counter()
    batches = track(
        _read_ahead(index, batch_size, threads),
        total=math.ceil(len(index) / batch_size),
        description="detecting",
        transient=True,
        disable=not Console().is_terminal,
    )
    for images in batches:
        waiting += time.perf_counter() - mark
        found += predictor(images)
        mark = time.perf_counter()
    return found, Speed(len(index), mark - start, waiting)


def _read_ahead(index: DetectionIndex, batch_size: int, threads: int) -> Iterator[list[ImageArray]]:
    pending: deque[list[Future[ImageArray]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(index), batch_size):
            places = range(start, min(start + batch_size, len(index)))
            pending.append([pool.submit(index.load, index.paths[place]) for place in places])
            if len(pending) > _BATCHES_AHEAD:
                yield [future.result() for future in pending.popleft()]
        for batch in pending:
            yield [future.result() for future in batch]


def with_classes(index: DetectionIndex, class_names: Sequence[str]) -> DetectionIndex:
    """The index with labels that count in `class_names`; objects of other classes are left out."""
    labels = _places(index.class_names, class_names)[index.labels]
    return replace(index, class_names=tuple(class_names), labels=labels.astype(np.int32)).keep_boxes(labels >= 0)


def relabelled(found: Iterable[Detections], own: Sequence[str], class_names: Sequence[str]) -> list[Detections]:
    """Detections of a network that knows the classes `own`, with labels that count in `class_names`."""
    places = torch.from_numpy(_places(own, class_names))
    known = [(item, places[item.labels]) for item in found]
    return [Detections(item.boxes[row >= 0], item.scores[row >= 0], row[row >= 0]) for item, row in known]


def _places(own: Sequence[str], class_names: Sequence[str]) -> Int[np.ndarray, "C"]:
    places = [class_index(name, class_names) for name in own]
    return np.array([-1 if place is None else place for place in places])


def measure(
    name: str, found: Sequence[Detections], index: DetectionIndex, *, speed: Speed, weights: Int[np.ndarray, "R P"]
) -> Evaluation:
    """Everything about the detections of a detector called `name`."""
    metrics = DetectionMetrics(index.class_names)
    for position, detections in enumerate(found):
        metrics.add([detections], _truth(index, position))
    values = metrics.results()
    by_id = metrics.scenes()
    scenes = [by_id[index.ids[position]] for position in range(len(index))]
    classes = len(index.class_names)
    matches = match_coco(scenes, classes)
    curves = {label: score_curve(matches, row) for row, label in enumerate(index.class_names)}
    curves[ALL_CLASSES] = score_curve(matches)
    threshold = curves[ALL_CLASSES].suggested_threshold
    cut = [scene.above(threshold) for scene in scenes]
    per_class = _class_results(scenes, matches, curves)
    resampled = mean_over_classes(average_precision(matches, points=COCO_POINTS, weights=weights))
    samples = {"map": resampled.mean(axis=1), "map_50": resampled[:, 0]}
    values |= _voc_means(per_class)
    return Evaluation(
        name=name,
        metrics=values,
        intervals={key: interval(sample) for key, sample in samples.items() if key in values},
        classes=per_class,
        threshold=threshold,
        costs=error_costs(scenes, classes),
        counts=_count_errors(cut),
        confusion=confusion_matrix(cut, classes),
        speed=speed,
        curves=curves,
        scenes=scenes,
        samples=samples,
    )


def compare(evaluations: Sequence[Evaluation]) -> list[Comparison]:
    """Each against each of those below it, by mAP and by mAP at IoU 0.5."""
    comparisons = []
    for metric in ("map", "map_50"):
        ranked = sorted(evaluations, key=lambda item: -item.metrics.get(metric, -1.0))
        for better, other in combinations(ranked, 2):
            if metric in other.metrics:
                low, high = interval(better.samples[metric] - other.samples[metric])
                difference = better.metrics[metric] - other.metrics[metric]
                comparisons.append(Comparison(metric, better.name, other.name, difference, low, high))
    return comparisons


def _truth(index: DetectionIndex, position: int) -> Batch:
    rows = index.rows(position)
    return Batch(
        images=torch.zeros(1, 3, 1, 1, dtype=torch.uint8),
        boxes=torch.from_numpy(index.boxes[rows])[None],
        labels=torch.from_numpy(index.labels[rows]).long()[None],
        ignore=torch.from_numpy(index.ignore[rows])[None],
        sizes=torch.from_numpy(index.sizes[position]).long()[None],
        ids=(index.ids[position],),
    )


def _class_results(scenes: Sequence[Scene], matches: Matches, curves: Mapping[str, ScoreCurve]) -> list[ClassResult]:
    objects = matches.objects.sum(axis=0)
    voc = match_voc(scenes, len(objects))
    coco_ap = average_precision(matches, points=COCO_POINTS)[0]
    columns = [coco_ap.mean(axis=0), coco_ap[0]]
    columns += [average_precision(voc, points=points)[0, 0] for points in (VOC07_POINTS, AREA)]
    results = []
    for name, count, *numbers in zip(curves, objects.tolist(), *columns, strict=False):
        curve, best = curves[name], curves[name].f1.argmax()
        numbers += [curve.best_threshold, curve.precision[best] if best else math.nan]
        numbers += [curve.recall[best] if count else math.nan]
        results.append(ClassResult(name, count, *(None if math.isnan(value) else float(value) for value in numbers)))
    return results


def _voc_means(results: Sequence[ClassResult]) -> dict[str, float]:
    means = {}
    for name, column in (("voc07_map", "voc07_ap"), ("voc_map", "voc_ap")):
        known = [ap for result in results if (ap := getattr(result, column)) is not None]
        if known:
            means[name] = fmean(known)
    return means


def _count_errors(scenes: Sequence[Scene]) -> dict[str, int]:
    counts: Counter[int] = Counter()
    for scene in scenes:
        judged = judge(scene)
        counts.update(judged.kinds.tolist())
        counts[Kind.MISSED] += int(judged.missed.sum())
    return {kind.title: counts[kind] for kind in ERRORS}
