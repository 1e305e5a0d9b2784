"""What TensorBoard takes beside scalars: bounded images, precision-recall curves, the overview's layout."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ssd.common.images import ImageArray
from ssd.data.index import DetectionIndex
from ssd.evaluation.matching import ImageResult
from ssd.evaluation.tide import classify_errors

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ssd.evaluation import charts
from ssd.evaluation.matching import match_coco
from ssd.evaluation.score_curves import ALL_CLASSES, ScoreCurve, score_curve
from ssd.evaluation.tide import FOREGROUND_IOU, confusion_matrix, delta_ap
from ssd.evaluation.worst_images import draw_error_panel, draw_errors, resize_longer_side, worst_images

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


import io
import re

import pytorch_lightning as pl
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

from ssd.evaluation.tide import ERRORS


class Album:
    """Up to `count` images with their longer side at `side_px`; small copies stay, as reading takes the most time."""

    def __init__(self, index: DetectionIndex, *, count: int, side_px: int) -> None:
        self._index = index
        self._count = count
        self._side_px = side_px
        self._copies: dict[str, ImageArray] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._seconds = self._dearest = 0.0

    def add(
        self, writer: SummaryWriter, scenes: Mapping[str, ImageResult], *, threshold: float, step: int, seconds: float
    ) -> None:
        """Writes what is over the threshold: the first image, and more until all have taken `seconds` in the run."""
        self._dearest = 0.0  # of this time
        for number, name in enumerate(evenly_spaced(scenes, self._count), start=1):
            if number > 1 and self._seconds + self._dearest > seconds:
                break
            start = time.perf_counter()
            scene = scenes[name].above(threshold)
            add_image(writer, f"images/{number}", self._draw(name, scene), step)
            taken = time.perf_counter() - start
            self._seconds += taken
            self._dearest = max(self._dearest, taken)

    def _draw(self, name: str, scene: ImageResult) -> ImageArray:
        if name not in self._copies:
            position = next(position for position, id in enumerate(self._index.ids) if id == name)
            image = self._index.load(self._index.paths[position])
            self._sizes[name] = image.shape[0], image.shape[1]
            self._copies[name] = resize_longer_side(image, self._side_px)
        errors = classify_errors(scene)
        views = draw_errors(
            self._copies[name],
            scene,
            errors,
            self._index.class_names,
            side_px=self._side_px,
            size=self._sizes[name],
        )
        return draw_error_panel(views, title=f"{Path(name).name}: {errors.summary or 'no error'}")


_MOST_CLASSES = 20  # with a curve of their own


class Showing:
    """Scenes by image id, with at least one object, and the index that their images come from."""

    def __init__(
        self, writer: SummaryWriter, scenes: Mapping[str, ImageResult], index: DetectionIndex, *, step: int
    ) -> None:
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
        gains = delta_ap(list(self._scenes.values()), len(self._index.class_names))
        values = {f"errors/{error}": gain for error, gain in gains.items()}
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
        """The `count` images with the costliest errors over the suggested threshold."""
        ids = list(self._cut)
        for number, worst in enumerate(worst_images(list(self._cut.values()), count=count), start=1):
            name = ids[worst.position]
            image = self._index.load(self._index.paths[self._positions[name]])
            views = draw_errors(image, self._cut[name], worst.errors, self._index.class_names, side_px=side_px)
            panel = draw_error_panel(views, title=f"{Path(name).name}: {worst.errors.summary}")
            add_image(self._writer, f"worst/{number}", panel, self.step)

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
    def _cut(self) -> dict[str, ImageResult]:
        return {name: scene.above(self.threshold) for name, scene in self._scenes.items()}

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {self._index.ids[position]: position for position in range(len(self._index))}


def evenly_spaced(names: Iterable[str], count: int) -> list[str]:
    """`count` of the names (or all), the first and the last among them."""
    ordered = list(names)
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[place] for place in places.tolist()]


MAX_BYTES = 100_000  # of an image
_QUALITY = 85
_SHRINK = 0.8
_DPI = 100
_THRESHOLDS = 127  # the plugin's most
_NAMED_CLASSES = 12  # lines in a chart

Layout = dict[str, dict[str, list[str | list[str]]]]


def writer_of(trainer: pl.Trainer) -> SummaryWriter | None:
    """That of the run's TensorBoard logger; None without one, and in all processes but the first."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return loggers[0].experiment if loggers and trainer.is_global_zero else None


def add_scalars(writer: SummaryWriter, values: Mapping[str, float], step: int) -> None:
    """Under their names."""
    for name, value in values.items():
        writer.add_scalar(name, value, step)


def add_image(writer: SummaryWriter, tag: str, pixels: ImageArray, step: int) -> None:
    """A JPEG of at most MAX_BYTES; the image shrinks until it fits."""
    image, data = Image.fromarray(pixels), b""
    while not data or len(data) > MAX_BYTES:
        if data:
            image = image.resize((max(1, int(image.width * _SHRINK)), max(1, int(image.height * _SHRINK))))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_QUALITY)
        data = buffer.getvalue()
    _add_image(writer, tag, data, image.size, step)


def add_figure(writer: SummaryWriter, tag: str, figure: Figure, step: int) -> None:
    """A chart as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    width, height = (figure.get_size_inches() * _DPI).astype(int)
    _add_image(writer, tag, buffer.getvalue(), (int(width), int(height)), step)


def add_curve(writer: SummaryWriter, tag: str, curve: ScoreCurve, step: int) -> None:
    """Precision and recall by score threshold. There are no true negatives in detection: their count is 0."""
    rows = curve.at(np.linspace(0, 1, _THRESHOLDS))
    hits = np.rint(curve.recall * curve.objects)[rows]
    writer.add_pr_curve_raw(
        tag,
        true_positive_counts=hits,
        false_positive_counts=curve.kept[rows] - hits,
        true_negative_counts=np.zeros_like(hits),
        false_negative_counts=curve.objects - hits,
        precision=curve.precision[rows],
        recall=curve.recall[rows],
        global_step=step,
        num_thresholds=_THRESHOLDS,
    )


def overview(class_names: Sequence[str], *, levels: int) -> Layout:
    """The charts of the custom scalars tab."""
    charts = {
        "mAP": ["val/map", "val/map_50", "val/map_75"],
        "mAP by size of the objects": ["val/map_small", "val/map_medium", "val/map_large"],
        "AP by class": [f"val/map_class/{name}" for name in class_names[:_NAMED_CLASSES]],
        "average recall": ["val/mar_1", "val/mar_10", "val/mar_100"],
        "mAP@0.5 of some images: averaged and raw weights": ["ema/map_50_average", "ema/map_50_raw"],
        "AP@0.5 lost by kind of error": [f"errors/{error.title}" for error in ERRORS],
        "loss": ["train/loss", "val/loss"],
        "parts of the training loss": [
            "train/loss_localization",
            "train/loss_classification_positive",
            "train/loss_classification_negative",
        ],
        "gradient norm": ["train/gradient_norm"],
        "steps skipped, their gradients too large for 16 bits": ["train/skipped_steps"],
        "share of objects with a prior": ["matching/objects_matched", "matching/objects_over_iou"],
        "positives of an image by level": [f"matching/positives_level_{level}" for level in range(1, levels + 1)],
        "images a second": ["time/images_per_second"],
        "share of the time: waiting for data, watching": ["time/data_wait_share", "time/watching_share"],
        "memory in GB": ["memory/process_gb", "memory/gpu_gb"],
    }
    exact = {title: [f"^{re.escape(tag)}$" for tag in tags] for title, tags in charts.items()}
    return {"Overview": {title: ["Multiline", tags] for title, tags in exact.items()}}


def _add_image(writer: SummaryWriter, tag: str, data: bytes, size: tuple[int, int], step: int) -> None:
    """Encoded here: SummaryWriter.add_image knows only PNG, five times the bytes for a photograph."""
    image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=data)
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
