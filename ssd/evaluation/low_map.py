"""Why a detector finds nothing: it is tried on images that it has learned from, and its boxes without their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ssd.common.structures import Predict
from ssd.data.index import DetectionIndex
from ssd.evaluation.evaluator import detect_results
from ssd.evaluation.matching import COCO_POINTS, ImageResult, average_precision, match_coco, mean_over_classes

LOW = 0.05  # mAP@0.5 below which there is an explanation
_CLEAR = 0.2  # of a value that says what is wrong
_NEAR_IOU = 0.1
_LOW_COVERAGE = 0.5
_IMAGES = 64  # looked at, of each split


@dataclass(frozen=True, slots=True)
class LowMap:
    """mAP@0.5 (0..1) on training images and on others; on the others also with any class, and at IoU 0.1."""

    train: float
    unseen: float
    any_class: float
    near: float

    @classmethod
    def measure(
        cls, predict: Predict, train: DetectionIndex, unseen: DetectionIndex, *, batch_size: int, seed: int
    ) -> LowMap:
        """Runs a detector on a sample of both splits; their classes are those of the detector.

        Raises:
            DataError: too many images are unreadable.
        """
        results = []
        for index in (train, unseen):
            with_objects = np.unique(index.image_of_box()[~index.ignore])
            chosen = np.random.default_rng(seed).permutation(with_objects)[:_IMAGES]
            sample = index.take(np.sort(chosen))
            found = detect_results(
                predict, sample, class_names=index.class_names, batch_size=batch_size, num_workers=None
            )
            results.append(list(found.values()))
        classes = len(train.class_names)
        return cls(
            train=_map(results[0], classes),
            unseen=_map(results[1], classes),
            any_class=_map([_without_classes(result) for result in results[1]], 1),
            near=_map(results[1], classes, iou=_NEAR_IOU),
        )


def explain(
    found: LowMap, *, stage: str, coverage: float, steps: int, planned_steps: int, pretrained: bool
) -> list[str]:
    """The likely cause of a low mAP, and what to try next.

    Args:
        found: of the detector.
        stage: name of the split with the images that it was not trained on.
        coverage: share of the training boxes that a prior matches (0..1).
        steps: optimizer steps done.
        planned_steps: those that the plan takes for such data.
        pretrained: whether the base net started from weights.
    """
    look = "look at the boxes in report.html of python -m ssd inspect"
    measured = f"on training images it is {found.train:.3f}"
    if found.any_class >= max(_CLEAR, 2 * found.unseen):
        cause = f"the objects of {stage} are found, under other names ({found.any_class:.3f} if classes do not count)"
        remedy = f"compare the class names, and their order, in the labels of train and {stage}; {look}"
    elif found.near >= max(_CLEAR, 2 * found.unseen):
        cause = f"the boxes lie beside the objects of {stage} ({found.near:.3f} at IoU {_NEAR_IOU})"
        remedy = f"the labels may be shifted, or made for images of another size; {look}"
    elif found.train >= _CLEAR:
        cause = f"the detector knows the training images and not those of {stage}"
        remedy = f"more training images, or ones like those of {stage}; {look}"
    elif coverage < _LOW_COVERAGE:
        cause = f"the priors match {coverage:.0%} of the boxes, so most objects are not learned"
        remedy = "leave image_size, priors and backbone.first_stride to the plan, or give a larger image_size"
    elif 2 * steps < planned_steps:
        cause = f"{steps} optimizer steps are too few"
        remedy = f"leave out steps, epochs and plan: the plan takes {planned_steps} steps for this data"
    elif not pretrained:
        cause = "the network learned nothing from random weights, or the boxes do not lie on the objects"
        remedy = f"start from weights (backbone.weights=FILE or init_from=FILE); {look}"
    else:
        cause = "the network learned nothing: the boxes may not lie on the objects, or the learning rate does not fit"
        remedy = f"{look}; then optimizer.lr=3e-4"
    return [f"mAP@0.5 is {found.unseen:.3f} on {stage}; {measured}", f"likely cause: {cause}", f"next: {remedy}"]


def _without_classes(result: ImageResult) -> ImageResult:
    return replace(result, labels=np.zeros_like(result.labels), pred_labels=np.zeros_like(result.pred_labels))


def _map(results: Sequence[ImageResult], classes: int, *, iou: float = 0.5) -> float:
    matches = match_coco(results, classes, ious=(iou,))
    return float(mean_over_classes(average_precision(matches, points=COCO_POINTS))[0, 0])
