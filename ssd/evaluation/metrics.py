"""mAP under the names that the loggers show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, distributed
from torchmetrics.detection import MeanAveragePrecision

from ssd.common.images import ImageArray
from ssd.evaluation.matching import Scene
from ssd.model.structures import PADDING_LABEL, Batch, Detections

_SIZES = ("small", "medium", "large")
_NAMES = (
    *("map", "map_50", "map_75", *(f"map_{size}" for size in _SIZES)),
    *("mar_1", "mar_10", "mar_100", *(f"mar_{size}" for size in _SIZES)),
)
_Boxes = dict[str, Tensor]


class DetectionMetrics:
    """COCO average precision and recall in original pixels (so that small, medium and large mean what they say).

    Ignored objects count as COCO's crowds: what is detected there is neither right nor wrong. Images are kept by
    their id until the end of the epoch, when the processes of a distributed run exchange them: their shares may be of
    different sizes, and an image counts once.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self._images: dict[str, tuple[_Boxes, _Boxes]] = {}
        self._finished: dict[str, tuple[_Boxes, _Boxes]] = {}

    def add(self, detections: Sequence[Detections], batch: Batch) -> None:
        """Takes in a batch: its detections (fractions) against its objects.

        Raises:
            ValueError: a box or score is not finite (the metric would count it as a hit).
        """
        for row, found in enumerate(detections):
            self._images[batch.ids[row]] = _in_pixels(found, batch, row)

    def scenes(self) -> dict[str, Scene]:
        """The images of the last `results`, by id, for the analysis of errors."""
        return {name: _scene(*boxes) for name, boxes in self._finished.items()}

    def results(self) -> dict[str, float]:
        """`map`, `map_50`, ..., `mar_100`, ..., `map_class/<name>`; what has no ground truth is undefined and left out.

        Starts anew afterwards.
        """
        images = self._finished = dict(sorted(_gathered(self._images).items()))
        self._images = {}
        if not images:
            return {}
        metric = MeanAveragePrecision(backend="faster_coco_eval", extended_summary=True, sync_on_compute=False)
        metric.warn_on_many_detections = False
        metric.update([predicted for predicted, _ in images.values()], [true for _, true in images.values()])
        computed = metric.compute()
        values = {name: computed[name] for name in _NAMES}
        values |= self._per_class(computed["precision"], computed["classes"])
        return {name: float(value) for name, value in values.items() if float(value) >= 0}

    def _per_class(self, precision: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """AP of each class from the precision table [IoU, recall, class, area, max detections]."""
        table = precision[:, :, :, 0, -1].permute(2, 0, 1).flatten(1)
        names = (self.class_names[int(label)] for label in classes.flatten())
        return {f"map_class/{name}": row.mean() for name, row in zip(names, table, strict=True)}


def score(
    predict: Callable[[Sequence[ImageArray]], list[Detections]], batches: Iterable[Batch], class_names: Sequence[str]
) -> dict[str, float]:
    """The results of a predictor on the batches of a loader."""
    metrics = DetectionMetrics(class_names)
    for batch in batches:
        metrics.add(predict(list(batch.images.permute(0, 2, 3, 1).numpy())), batch)
    return metrics.results()


def scenes_of(detections: Sequence[Detections], batch: Batch) -> list[Scene]:
    """The images of a batch with what was found in them (fractions)."""
    return [_scene(*_in_pixels(found, batch, row)) for row, found in enumerate(detections)]


def _in_pixels(found: Detections, batch: Batch, row: int) -> tuple[_Boxes, _Boxes]:
    height, width = batch.sizes[row].tolist()
    scale = torch.tensor([width, height, width, height])
    boxes, scores = found.boxes.cpu(), found.scores.cpu()
    if not bool(boxes.isfinite().all() and scores.isfinite().all()):
        raise ValueError(f"{batch.ids[row]}: a detection is not finite")
    real = (batch.labels[row] != PADDING_LABEL).cpu()
    predicted = {"boxes": boxes * scale, "scores": scores, "labels": found.labels.cpu()}
    true = {
        "boxes": batch.boxes[row].cpu()[real] * scale,
        "labels": batch.labels[row].cpu()[real],
        "iscrowd": batch.ignore[row].cpu()[real].long(),
    }
    return predicted, true


def _gathered(images: dict[str, tuple[_Boxes, _Boxes]]) -> dict[str, tuple[_Boxes, _Boxes]]:
    """Those of all processes."""
    if not distributed.is_initialized():
        return images
    shares: list[dict[str, tuple[_Boxes, _Boxes]]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(shares, images)
    return {name: boxes for share in shares for name, boxes in share.items()}


def _scene(predicted: _Boxes, true: _Boxes) -> Scene:
    return Scene(
        boxes=true["boxes"].numpy(),
        labels=true["labels"].numpy(),
        ignore=true["iscrowd"].bool().numpy(),
        found_boxes=predicted["boxes"].numpy(),
        found_labels=predicted["labels"].numpy(),
        found_scores=predicted["scores"].numpy(),
    )
