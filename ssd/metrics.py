"""mAP under the names that the loggers show."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from ssd.structures import PADDING_LABEL, Batch, Detections

_NAMES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")


class DetectionMetrics(MeanAveragePrecision):
    """COCO average precision in original pixels (so that small, medium and large mean what they say).

    Ignored objects count as COCO's crowds: what is detected there is neither right nor wrong.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        super().__init__(backend="faster_coco_eval", extended_summary=True)
        self.class_names = tuple(class_names)
        self.warn_on_many_detections = False

    def add(self, detections: Sequence[Detections], batch: Batch) -> None:
        """Takes in a batch: its detections (fractions) against its objects.

        Raises:
            ValueError: a box or score is not finite (the metric would count it as a hit).
        """
        predicted, true = [], []
        for row, found in enumerate(detections):
            height, width = batch.sizes[row]
            scale = torch.stack((width, height, width, height))
            if not bool((found.boxes.isfinite().all(dim=1) & found.scores.isfinite()).all()):
                raise ValueError(f"{batch.ids[row]}: a detection is not finite")
            real = batch.labels[row] != PADDING_LABEL
            predicted.append({"boxes": found.boxes * scale, "scores": found.scores, "labels": found.labels})
            true.append(
                {
                    "boxes": batch.boxes[row, real] * scale,
                    "labels": batch.labels[row, real],
                    "iscrowd": batch.ignore[row, real].long(),
                }
            )
        self.update(predicted, true)

    def results(self) -> dict[str, float]:
        """`map`, `map_50`, ..., `map_class/<name>`; what has no ground truth is undefined and left out."""
        computed = self.compute()
        values = {name: computed[name] for name in _NAMES}
        values |= self._per_class(computed["precision"], computed["classes"])
        return {name: float(value) for name, value in values.items() if float(value) >= 0}

    def _per_class(self, precision: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """AP of each class from the precision table [IoU, recall, class, area, max detections]."""
        table = precision[:, :, :, 0, -1].permute(2, 0, 1).flatten(1)
        names = (self.class_names[int(label)] for label in classes.flatten())
        return {f"map_class/{name}": row.mean() for name, row in zip(names, table, strict=True)}
