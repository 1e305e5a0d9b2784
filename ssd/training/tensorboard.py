"""Everything in TensorBoard besides the logged metrics: matching statistics, error analysis, curves and images.

Numbers are read from the device only in steps that are logged anyway. Curves, errors and charts are written about ten
times a run, which is as many as TensorBoard keeps; sample images after each validation. What takes long is limited to a
fraction of the run's time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.tensorboard import SummaryWriter

from ssd.common.images import ImageArray
from ssd.common.structures import Batch
from ssd.data.index import DetectionIndex
from ssd.evaluation import charts
from ssd.evaluation.matching import ImageResult, match_coco
from ssd.evaluation.score_curves import ALL_CLASSES, ScoreCurve, score_curve
from ssd.evaluation.tide import FOREGROUND_IOU, ErrorTypes, classify_errors, confusion_matrix, delta_ap
from ssd.evaluation.worst_images import draw_error_panel, draw_errors, resize_longer_side, worst_images
from ssd.training.diagnostics import compare_weights, match_rates, memory_use
from ssd.training.ema import EMA
from ssd.training.lightning_module import SSDModule
from ssd.training.progress_bar import Throughput
from ssd.training.tensorboard_writer import add_curve, add_image, add_scalars, overview, tensorboard_writer

_PARTS = 10  # of a run; each gets curves, errors and charts once
_MAX_TIME_SHARE = 0.015  # of the run: for sample images, and for all visualization before charts are left out
_MAX_CLASSES = 20  # with a curve each


class ValidationVisualizer(pl.Callback):
    """Writes to the run's TensorBoard logger; does nothing without one.

    Args:
        images: number of sample images of the validation set, evenly spaced and the same each time.
        worst: number of images with the largest errors.
        side_px: longer side of an image; its JPEG is limited to `tensorboard_writer.MAX_IMAGE_BYTES`.
        raw_images: number of validation images on which the raw weights are compared with their average; the whole
            set would cost a second validation each time.
    """

    state_key = "Watch"  # its name in the checkpoints of version 0.1

    def __init__(self, *, images: int = 8, worst: int = 4, side_px: int = 400, raw_images: int = 8) -> None:
        self.worst = worst
        self.side_px = side_px
        self.raw_images = raw_images
        self._samples = SamplePredictions(count=images, side_px=side_px)
        self._shown_step = -1
        self._threshold: float | None = None  # the last suggested one
        self._throughput = Throughput()
        self._writer: SummaryWriter | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"shown_step": self._shown_step, "threshold": self._threshold}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._shown_step, self._threshold = state_dict.get("shown_step", -1), state_dict.get("threshold")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._throughput, self._writer = Throughput.of(trainer), tensorboard_writer(trainer)
        if self._writer is not None:
            model = _ssd(pl_module).model
            self._writer.add_custom_scalars(overview(model.class_names, levels=len(model.grids)))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        step = trainer.global_step
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self._writer is None or trainer.fit_loop._should_accumulate() or step % every:
            return
        with self._throughput.visualizing():
            module = _ssd(pl_module)
            rates = match_rates(module.step_losses, batch, module.model)
            times = {
                "time/images_per_second": self._throughput.images_per_second,
                "time/data_wait_share": self._throughput.data_wait_share,
                "time/visualization_share": self._throughput.visualization_share,
            }
            add_scalars(self._writer, {**rates, **times, **memory_use()}, step - 1)  # Lightning counts from 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._writer is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        results = _ssd(pl_module).metrics["val"].image_results()
        if not any((~result.ignore).any() for result in results.values()):
            return
        step = trainer.global_step
        with self._throughput.visualizing():
            if self._threshold is None or _part_of_run(trainer, step) > _part_of_run(trainer, self._shown_step):
                self._shown_step = step
                self._threshold = self._write_analysis(trainer, _ssd(pl_module), results, self._writer)
            index = trainer.datamodule.splits.val  # type: ignore[attr-defined]
            max_seconds = _MAX_TIME_SHARE * self._throughput.elapsed_s
            self._samples.write(
                self._writer, results, index, threshold=self._threshold, step=step - 1, max_seconds=max_seconds
            )

    def _write_analysis(
        self, trainer: pl.Trainer, module: SSDModule, results: Mapping[str, ImageResult], writer: SummaryWriter
    ) -> float:
        """Writes errors by type, curves and charts; returns the suggested score threshold."""
        data, step = trainer.datamodule, trainer.global_step - 1  # type: ignore[attr-defined]
        index = data.splits.val
        curves = _curves(list(results.values()), index.class_names)
        common = curves[ALL_CLASSES]
        threshold = common.suggested_threshold
        losses = delta_ap(list(results.values()), len(index.class_names))
        values = {f"errors/{error}": ap for error, ap in losses.items()}
        values |= {"score/suggested_threshold": threshold, "score/best_f1": float(common.f1.max())}
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, EMA) for callback in callbacks):  # it has restored the raw weights already
            some = {id: results[id] for id in evenly_spaced(results, self.raw_images)}
            with trainer.precision_plugin.forward_context():
                values |= compare_weights(module, data, some)
        add_scalars(writer, values, step)
        for name, curve in curves.items():
            add_curve(writer, f"precision_recall/{name}", curve, step)
        is_last = _part_of_run(trainer, trainer.global_step) == _PARTS
        if is_last or self._throughput.visualization_share < _MAX_TIME_SHARE:
            self._write_charts(writer, results, index=index, curves=curves, step=step)
        return threshold

    def _write_charts(
        self,
        writer: SummaryWriter,
        results: Mapping[str, ImageResult],
        *,
        index: DetectionIndex,
        curves: Mapping[str, ScoreCurve],
        step: int,
    ) -> None:
        """F1 by threshold; the confusion matrix and the worst images of the detections above the suggested one."""
        threshold = curves[ALL_CLASSES].suggested_threshold
        confident = [result.above(threshold) for result in results.values()]
        matrix = confusion_matrix(confident, len(index.class_names))
        for tag, title, figure in (
            ("f1_by_threshold", "suggested threshold", charts.f1_by_threshold(curves)),
            ("confusion", "detections above", charts.confusion(matrix, index.class_names)),
        ):
            figure.axes[0].set_title(f"{title} {threshold:.2f}", fontsize=10)
            writer.add_figure(f"charts/{tag}", figure, step)
        ids = list(results)
        for number, worst in enumerate(worst_images(confident, count=self.worst), start=1):
            id, errors = ids[worst.position], worst.errors
            image, result = _load(index, id), confident[worst.position]
            views = draw_errors(image, result, errors, index.class_names, side_px=self.side_px)
            add_image(writer, f"worst/{number}", draw_error_panel(views, title=_title(id, errors)), step)


class SamplePredictions:
    """The same validation images after each validation: ground truth beside predictions, coloured by type of error.

    Keeps small copies of the images, because reading them takes the most time.

    Args:
        count: number of images, evenly spaced in the validation set.
        side_px: longer side of an image.
    """

    def __init__(self, *, count: int, side_px: int) -> None:
        self._count = count
        self._side_px = side_px
        self._copies: dict[str, tuple[ImageArray, tuple[int, int]]] = {}  # with (H, W) of the original
        self._seconds = 0.0

    def write(
        self,
        writer: SummaryWriter,
        results: Mapping[str, ImageResult],
        index: DetectionIndex,
        *,
        threshold: float,
        step: int,
        max_seconds: float,
    ) -> None:
        """Writes the images with the predictions above `threshold`.

        The first image is always written, the next ones while all images of the run together take less than
        `max_seconds`.
        """
        slowest = 0.0
        for number, id in enumerate(evenly_spaced(results, self._count), start=1):
            if number > 1 and self._seconds + slowest > max_seconds:
                break
            start = time.perf_counter()
            add_image(writer, f"images/{number}", self._draw(id, results[id].above(threshold), index), step)
            seconds = time.perf_counter() - start
            self._seconds += seconds
            slowest = max(slowest, seconds)

    def _draw(self, id: str, result: ImageResult, index: DetectionIndex) -> ImageArray:
        if id not in self._copies:
            image = _load(index, id)
            self._copies[id] = resize_longer_side(image, self._side_px), (image.shape[0], image.shape[1])
        copy, size = self._copies[id]
        errors = classify_errors(result)
        views = draw_errors(copy, result, errors, index.class_names, side_px=self._side_px, size=size)
        return draw_error_panel(views, title=_title(id, errors))


def evenly_spaced(ids: Mapping[str, Any], count: int) -> list[str]:
    """`count` of the ids (or all), the first and the last among them."""
    ordered = list(ids)
    positions = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[position] for position in positions.tolist()]


def _load(index: DetectionIndex, id: str) -> ImageArray:
    return index.load(index.paths[list(index.ids).index(id)])


def _title(id: str, errors: ErrorTypes) -> str:
    return f"{Path(id).name}: {errors.summary or 'no error'}"


def _curves(results: Sequence[ImageResult], class_names: Sequence[str]) -> dict[str, ScoreCurve]:
    """Curves of the most frequent classes and of all classes together."""
    matches = match_coco(results, len(class_names), ious=(FOREGROUND_IOU,))
    objects = matches.objects.sum(axis=0)
    frequent = np.sort(np.argsort(-objects, kind="stable")[:_MAX_CLASSES])
    curves = {class_names[label]: score_curve(matches, label) for label in frequent.tolist() if objects[label]}
    return curves | {ALL_CLASSES: score_curve(matches)}


def _part_of_run(trainer: pl.Trainer, step: int) -> int:
    return int(_PARTS * step // trainer.estimated_stepping_batches)


def _ssd(module: pl.LightningModule) -> SSDModule:
    assert isinstance(module, SSDModule)
    return module
