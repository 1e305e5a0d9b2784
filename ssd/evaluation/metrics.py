"""COCO metrics of a set of images, computed by torchmetrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, distributed
from torchmetrics.detection import MeanAveragePrecision

from ssd.common.structures import PADDING_LABEL, Batch, Detections
from ssd.evaluation.matching import ImageResult

_MAP = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
# torchmetrics' own are rounded to float32, so that a recall of 3 / 5 misses the level 0.6
_IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10).tolist()
_RECALL_THRESHOLDS = np.linspace(0, 1, 101).tolist()
_MAR = ("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large")


def metric_names(class_names: Sequence[str]) -> list[str]:
    """The names that `coco_metrics` may have."""
    return [*_MAP, *_MAR, *(f"map_class/{name}" for name in class_names)]


class DetectionMetrics:
    """Collects the images of an epoch and computes their COCO metrics at its end.

    Images are stored by id; in a distributed run the processes exchange them before the computation, because their
    shares may differ in size, and an image must count once.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self._images: dict[str, ImageResult] = {}
        self._last_epoch: dict[str, ImageResult] = {}

    def add(self, detections: Sequence[Detections], batch: Batch) -> None:
        """Adds a batch; boxes are fractions of the image.

        Raises:
            ValueError: a box or score is not finite (the metric would count it as correct).
        """
        self._images |= dict(zip(batch.ids, image_results(detections, batch), strict=True))

    def image_results(self) -> dict[str, ImageResult]:
        """The images of the last call of `results`, by id, for the error analysis."""
        return self._last_epoch

    def results(self) -> dict[str, float]:
        """The metrics of all images added since the last call; see `coco_metrics`."""
        self._last_epoch = dict(sorted(_gather(self._images).items()))
        self._images = {}
        return coco_metrics(self._last_epoch, self.class_names)


def coco_metrics(images: Mapping[str, ImageResult], class_names: Sequence[str]) -> dict[str, float]:
    """`map`, `map_50`, ..., `mar_100`, ..., `map_class/<name>`; metrics without ground truth are left out.

    Boxes are in original pixels, as COCO's small, medium and large are. Ignored boxes count as COCO's crowds. Images
    are evaluated in the order of their ids, so that ties between equal scores are broken the same way everywhere.
    """
    if not images:
        return {}
    metric = MeanAveragePrecision(
        backend="faster_coco_eval",
        extended_summary=True,
        sync_on_compute=False,
        iou_thresholds=_IOU_THRESHOLDS,
        rec_thresholds=_RECALL_THRESHOLDS,
    )
    metric.warn_on_many_detections = False
    ordered = [images[name] for name in sorted(images)]
    metric.update(
        [_tensors(boxes=each.pred_boxes, scores=each.pred_scores, labels=each.pred_labels) for each in ordered],
        [_tensors(boxes=each.boxes, labels=each.labels, iscrowd=each.ignore.astype(np.int64)) for each in ordered],
    )
    computed = metric.compute()
    values = {name: computed[name] for name in (*_MAP, *_MAR)}
    # precision is a table [IoU, recall, class, area, max detections]
    per_class = computed["precision"][:, :, :, 0, -1].permute(2, 0, 1).flatten(1)
    for label, precision in zip(computed["classes"].flatten().tolist(), per_class, strict=True):
        values[f"map_class/{class_names[label]}"] = precision.mean()
    return {name: float(value) for name, value in values.items() if float(value) >= 0}


def image_results(detections: Sequence[Detections], batch: Batch) -> list[ImageResult]:
    """The images of a batch with their detections."""
    results = []
    for row, found in enumerate(detections):
        real = (batch.labels[row] != PADDING_LABEL).cpu()
        boxes, labels, ignore = (
            values[row].cpu()[real].numpy() for values in (batch.boxes, batch.labels, batch.ignore)
        )
        size = batch.sizes[row].cpu().numpy()
        results.append(image_result(batch.ids[row], found, boxes, labels, ignore, size=size))
    return results


def image_result(
    name: str,
    detections: Detections,
    boxes: Float[np.ndarray, "G 4"],
    labels: Int[np.ndarray, "G"],
    ignore: Bool[np.ndarray, "G"],
    *,
    size: Int[np.ndarray, "2"],
) -> ImageResult:
    """Converts boxes from fractions to pixels of an image of `size` (H, W); `name` is for error messages.

    Raises:
        ValueError: a box or score is not finite.
    """
    pred_boxes, pred_scores = detections.boxes.cpu().numpy(), detections.scores.cpu().numpy()
    if not (np.isfinite(pred_boxes).all() and np.isfinite(pred_scores).all()):
        raise ValueError(f"{name}: a detection is not finite")
    scale = size[[1, 0, 1, 0]].astype(np.float32)
    return ImageResult(
        boxes=boxes * scale,
        labels=labels.astype(np.int64),
        ignore=ignore,
        pred_boxes=pred_boxes * scale,
        pred_labels=detections.labels.cpu().numpy(),
        pred_scores=pred_scores,
    )


def _tensors(**arrays: np.ndarray) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _gather(images: dict[str, ImageResult]) -> dict[str, ImageResult]:
    """The images of all processes."""
    if not distributed.is_initialized():
        return images
    shares: list[dict[str, ImageResult]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(shares, images)
    return {name: result for share in shares for name, result in share.items()}
