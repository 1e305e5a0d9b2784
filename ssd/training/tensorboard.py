"""Everything in TensorBoard beside the logged metrics: matching statistics, error analysis, curves and images.

Numbers are read from the device only in steps that are logged anyway. Curves, errors and charts are written about ten
times a run, which is as many as TensorBoard keeps; sample images after each validation. What takes long is limited to a
fraction of the run's time.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl

from ssd.data.index import DetectionIndex
from ssd.evaluation import charts
from ssd.evaluation.matching import Scene, match_coco
from ssd.evaluation.tide import (
    ALL_CLASSES,
    FOREGROUND_IOU,
    ScoreCurve,
    confusion_matrix,
    error_costs,
    score_curve,
    worst_images,
)
from ssd.model.structures import Batch
from ssd.training.diagnostics import compare_weights, match_rates, memory_use
from ssd.training.ema import EMA
from ssd.training.lightning_module import SSDModule
from ssd.training.progress_bar import Throughput
from ssd.training.tensorboard_images import SamplePredictions, draw_result, evenly_spaced, load_image
from ssd.training.tensorboard_writer import (
    add_curve,
    add_figure,
    add_image,
    add_scalars,
    overview,
    tensorboard_writer,
)

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

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
        self.images = images
        self.worst = worst
        self.side_px = side_px
        self.raw_images = raw_images
        self._shown_step = -1
        self._threshold: float | None = None  # the last suggested one
        self._samples: SamplePredictions | None = None
        self._last_step = 0
        self._throughput = Throughput()
        self._writer: SummaryWriter | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"shown_step": self._shown_step, "threshold": self._threshold}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._shown_step = state_dict.get("shown_step", -1)
        self._threshold = state_dict.get("threshold")

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
        if self._writer is None or step == self._last_step or step % every:
            return
        self._last_step = step
        with self._throughput.visualizing():
            module = _ssd(pl_module)
            rates = match_rates(module.step_losses, batch, module.model, iou_threshold=module.loss.iou_threshold)
            times = {
                "time/images_per_second": self._throughput.images_per_second,
                "time/data_wait_share": self._throughput.data_wait_share,
                "time/visualization_share": self._throughput.visualization_share,
            }
            add_scalars(self._writer, {**rates, **times, **memory_use()}, step - 1)  # Lightning counts from 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._writer is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        results = _ssd(pl_module).metrics["val"].scenes()
        if not any((~result.ignore).any() for result in results.values()):
            return
        with self._throughput.visualizing():
            step = trainer.global_step
            if self._threshold is None or _part_of_run(trainer, step) > _part_of_run(trainer, self._shown_step):
                self._shown_step = step
                self._write_analysis(trainer, _ssd(pl_module), results, self._writer)
            assert self._threshold is not None
            if self._samples is None:
                self._samples = SamplePredictions(_val_index(trainer), count=self.images, side_px=self.side_px)
            max_seconds = _MAX_TIME_SHARE * self._throughput.elapsed_s
            self._samples.add(self._writer, results, threshold=self._threshold, step=step - 1, max_seconds=max_seconds)

    def _write_analysis(
        self, trainer: pl.Trainer, module: SSDModule, results: Mapping[str, Scene], writer: SummaryWriter
    ) -> None:
        analysis = _Analysis(writer, results, _val_index(trainer), step=trainer.global_step - 1)
        analysis.write_numbers()
        self._threshold = analysis.threshold
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, EMA) for callback in callbacks):  # it has restored the raw weights already
            data = trainer.datamodule  # type: ignore[attr-defined]
            with trainer.precision_plugin.forward_context():
                values = compare_weights(module, data, results, evenly_spaced(results, self.raw_images))
            add_scalars(writer, values, analysis.step)
        is_last = _part_of_run(trainer, trainer.global_step) == _PARTS
        if is_last or self._throughput.visualization_share < _MAX_TIME_SHARE:
            analysis.write_charts()
            analysis.write_worst(count=self.worst, side_px=self.side_px)


class _Analysis:
    """The error analysis of one validation; `results` by image id, with at least one object."""

    def __init__(
        self, writer: SummaryWriter, results: Mapping[str, Scene], index: DetectionIndex, *, step: int
    ) -> None:
        self.step = step
        self._writer = writer
        self._index = index
        self._results = results

    @property
    def threshold(self) -> float:
        """The suggested score threshold."""
        return self._curves[ALL_CLASSES].suggested_threshold

    def write_numbers(self) -> None:
        """Writes AP lost by type of error, the suggested threshold, and the curve of each class."""
        common = self._curves[ALL_CLASSES]
        costs = error_costs(list(self._results.values()), len(self._index.class_names))
        values = {f"errors/{kind}": cost for kind, cost in costs.items()}
        values |= {"score/suggested_threshold": common.suggested_threshold, "score/best_f1": float(common.f1.max())}
        add_scalars(self._writer, values, self.step)
        for name, curve in self._curves.items():
            add_curve(self._writer, f"precision_recall/{name}", curve, self.step)

    def write_charts(self) -> None:
        """Writes F1 by threshold, and the confusion matrix above the suggested one."""
        figure = charts.f1_by_threshold(self._curves)
        figure.axes[0].set_title(f"suggested threshold {self.threshold:.2f}", fontsize=10)
        add_figure(self._writer, "charts/f1_by_threshold", figure, self.step)
        names = self._index.class_names
        figure = charts.confusion(confusion_matrix(list(self._confident.values()), len(names)), names)
        figure.axes[0].set_title(f"detections above {self.threshold:.2f}", fontsize=10)
        add_figure(self._writer, "charts/confusion", figure, self.step)

    def write_worst(self, *, count: int, side_px: int) -> None:
        """Writes the images with the largest errors above the suggested threshold."""
        ids = list(self._confident)
        names = self._index.class_names
        for number, worst in enumerate(worst_images(list(self._confident.values()), count=count), start=1):
            id = ids[worst.image]
            image, result = load_image(self._index, id), self._confident[id]
            drawn = draw_result(image, result, worst.judgement, id=id, class_names=names, side_px=side_px)
            add_image(self._writer, f"worst/{number}", drawn, self.step)

    @cached_property
    def _curves(self) -> dict[str, ScoreCurve]:
        """Curves of the most frequent classes and of all classes together."""
        names = self._index.class_names
        matches = match_coco(list(self._results.values()), len(names), ious=(FOREGROUND_IOU,))
        objects = matches.objects.sum(axis=0)
        frequent = np.sort(np.argsort(-objects, kind="stable")[:_MAX_CLASSES])
        curves = {names[label]: score_curve(matches, label) for label in frequent.tolist() if objects[label]}
        return curves | {ALL_CLASSES: score_curve(matches)}

    @cached_property
    def _confident(self) -> dict[str, Scene]:
        return {id: result.above(self.threshold) for id, result in self._results.items()}


def _part_of_run(trainer: pl.Trainer, step: int) -> int:
    return int(_PARTS * step // trainer.estimated_stepping_batches)


def _val_index(trainer: pl.Trainer) -> DetectionIndex:
    index: DetectionIndex = trainer.datamodule.splits.val  # type: ignore[attr-defined]
    return index


def _ssd(module: pl.LightningModule) -> SSDModule:
    assert isinstance(module, SSDModule)
    return module
