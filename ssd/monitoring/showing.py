"""One validation in TensorBoard: precision-recall curves, errors, charts, and pictures with what was found in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssd.data.index import DetectionIndex
from ssd.evaluation import charts
from ssd.evaluation.analysis import ALL_CLASSES, ScoreCurve, confusion_matrix, score_curve, worst_pictures
from ssd.evaluation.matching import Scene, match_coco
from ssd.evaluation.tide import FOREGROUND_IOU, error_costs
from ssd.monitoring.board import add_curve, add_figure, add_picture, add_scalars
from ssd.monitoring.gallery import side_by_side

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_MOST_CLASSES = 20  # with a curve of their own


class Showing:
    """Scenes by picture id, with at least one object, and the index that their pictures come from."""

    def __init__(self, writer: SummaryWriter, scenes: Mapping[str, Scene], index: DetectionIndex, *, step: int) -> None:
        self.step = step
        self._writer = writer
        self._index = index
        self._scenes = scenes

    @property
    def threshold(self) -> float:
        """The suggested one."""
        return self._curves[ALL_CLASSES].suggested_threshold

    def numbers(self) -> None:
        """Errors, the suggested threshold, and the curve of each class."""
        common = self._curves[ALL_CLASSES]
        costs = error_costs(list(self._scenes.values()), len(self._index.class_names))
        values = {f"errors/{kind}": cost for kind, cost in costs.items()}
        values |= {"score/suggested_threshold": common.suggested_threshold, "score/best_f1": float(common.f1.max())}
        add_scalars(self._writer, values, self.step)
        for name, curve in self._curves.items():
            add_curve(self._writer, f"precision_recall/{name}", curve, self.step)

    def charts(self) -> None:
        """F1 by threshold and the confusion matrix over the suggested one."""
        threshold = self.threshold
        figure = charts.f1_by_threshold(self._curves)
        figure.axes[0].set_title(f"suggested threshold {threshold:.2f}", fontsize=10)
        add_figure(self._writer, "charts/f1_by_threshold", figure, self.step)
        names = self._index.class_names
        figure = charts.confusion(confusion_matrix(list(self._cut.values()), len(names)), names)
        figure.axes[0].set_title(f"detections over {threshold:.2f}", fontsize=10)
        add_figure(self._writer, "charts/confusion", figure, self.step)

    def worst(self, *, count: int, side_px: int) -> None:
        """The `count` pictures with the costliest errors over the suggested threshold."""
        ids = list(self._cut)
        for number, verdict in enumerate(worst_pictures(list(self._cut.values()), count=count), start=1):
            name = ids[verdict.picture]
            picture = side_by_side(
                self._index.load(self._index.paths[self._positions[name]]),
                self._cut[name],
                verdict.judgement,
                class_names=self._index.class_names,
                title=f"{Path(name).name}: {verdict.judgement.reason}",
                side_px=side_px,
            )
            add_picture(self._writer, f"worst/{number}", picture, self.step)

    @cached_property
    def _curves(self) -> dict[str, ScoreCurve]:
        """Of the most frequent classes and of all together."""
        names = self._index.class_names
        matches = match_coco(list(self._scenes.values()), len(names), ious=(FOREGROUND_IOU,))
        objects = matches.objects.sum(axis=0)
        frequent = np.sort(np.argsort(-objects, kind="stable")[:_MOST_CLASSES])
        curves = {names[label]: score_curve(matches, label) for label in frequent.tolist() if objects[label]}
        return curves | {ALL_CLASSES: score_curve(matches)}

    @cached_property
    def _cut(self) -> dict[str, Scene]:
        return {name: scene.above(self.threshold) for name, scene in self._scenes.items()}

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {self._index.ids[position]: position for position in range(len(self._index))}


def evenly_spaced(names: Iterable[str], count: int) -> list[str]:
    """`count` of the names (or all), the first and the last among them."""
    ordered = list(names)
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[place] for place in places.tolist()]
