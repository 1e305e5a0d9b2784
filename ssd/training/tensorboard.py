"""What TensorBoard shows beside the logged metrics: when it is written, and what that costs.

Only numbers of steps that are logged anyway are read from the device. The same images come with each validation,
fewer of them where they would take more than their share of the time. Curves and errors come about ten times a run,
which is what TensorBoard keeps of them; while watching has taken more than its share, figures and the worst images
wait for a later validation.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch

from ssd.data.datamodule import DetectionDataModule
from ssd.data.dataset import DetectionDataset, collate
from ssd.evaluation.matching import COCO_POINTS, ImageResult, average_precision, match_coco, mean_over_classes
from ssd.evaluation.metrics import image_results
from ssd.model.box_coder import BACKGROUND
from ssd.model.loss import Losses
from ssd.model.ssd import SSD
from ssd.model.structures import PADDING_LABEL, Batch
from ssd.training.ema import EMA
from ssd.training.lightning_module import SSDModule
from ssd.training.progress_bar import Pace
from ssd.training.tensorboard_images import Album, Showing, add_scalars, evenly_spaced, overview, writer_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@torch.no_grad()
def compare_weights(
    module: SSDModule, data: DetectionDataModule, averaged: Mapping[str, ImageResult], ids: Sequence[str]
) -> dict[str, float]:
    """mAP and mAP@0.5 on the images `ids`, of the weights that `module` has now and of what `averaged` ones found."""
    index = data.splits.val
    assert index is not None
    wanted = set(ids)
    positions = [position for position in range(len(index)) if index.ids[position] in wanted]
    dataset = DetectionDataset(index, data.eval_augmentation, seed=data.seed)
    raw: list[ImageResult] = []
    for start in range(0, len(positions), data.batch_size):
        batch = collate([dataset[0, position] for position in positions[start : start + data.batch_size]])
        batch = batch.to(module.device)
        raw += image_results(module.postprocess(module.model(batch.images), module.model.priors), batch)
    classes = len(index.class_names)
    return {**_scores("average", [averaged[name] for name in ids], classes), **_scores("raw", raw, classes)}


def _scores(which: str, scenes: Sequence[ImageResult], classes: int) -> dict[str, float]:
    """Nothing where there is no object."""
    if not any((~scene.ignore).any() for scene in scenes):
        return {}
    ap = mean_over_classes(average_precision(match_coco(scenes, classes), points=COCO_POINTS)[0])
    return {f"ema/map_{which}": float(ap.mean()), f"ema/map_50_{which}": float(ap[0])}


@torch.no_grad()
def match_rates(losses: Losses, batch: Batch, model: SSD, *, iou_threshold: float) -> dict[str, float]:
    """Numbers of one batch. Waits for the device: for steps that are logged.

    `positives` are means over the images; `objects_matched` is the share of objects that have a prior,
    `objects_over_iou` the share that a prior overlaps by the threshold: the rest have only one that is forced on them.
    """
    positive = losses.targets.class_targets > BACKGROUND
    cells = [
        rows * columns * count for (rows, columns), count in zip(model.grids, model.prior_spec.per_cell, strict=True)
    ]
    levels = [part.sum() / len(positive) for part in positive.split(cells, dim=1)]
    real = (batch.labels != PADDING_LABEL) & ~batch.ignore
    objects = real.sum()
    priors = torch.zeros_like(batch.labels)
    if priors.numel():
        priors.scatter_add_(1, losses.targets.matched_gt, positive.long())
    near = losses.targets.best_iou >= iou_threshold
    names = [
        "positives",
        *(f"positives_level_{level}" for level in range(1, len(levels) + 1)),
        "negatives_per_positive",
    ]
    values = [losses.positives / len(positive), *levels, losses.negatives / losses.positives]
    shares = {"objects_matched": priors > 0, "objects_over_iou": near}
    stacked = torch.stack([*values, *((real & mask).sum() / objects for mask in shares.values())]).tolist()
    named = zip([*names, *shares], stacked, strict=True)
    return {f"matching/{name}": value for name, value in named if value == value}  # no object: undefined


_SHOWINGS = 10  # in a run
_MOST_TIME = 0.015  # of the run's: for the images, and for all before figures wait
_GB = 1e9


class Watch(pl.Callback):
    """Writes to the run's TensorBoard logger; without one it does nothing.

    Args:
        images: of the validation set, evenly spaced and the same each time, shown with what was found in them.
        worst: images with the costliest errors.
        side_px: longer side of an image shown; its JPEG is held under `ssd.training.tensorboard_images.MAX_BYTES`.
        raw_images: of the validation set, on which the weights in training are compared with their average; the
            whole set would cost a second validation each time.
    """

    def __init__(self, *, images: int, worst: int, side_px: int, raw_images: int) -> None:
        self.images = images
        self.worst = worst
        self.side_px = side_px
        self.raw_images = raw_images
        self._shown_step = -1
        self._threshold: float | None = None  # the last that was suggested
        self._album: Album | None = None
        self._last_step = 0
        self._pace = Pace()
        self._writer: SummaryWriter | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"shown_step": self._shown_step, "threshold": self._threshold}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._shown_step = state_dict.get("shown_step", -1)
        self._threshold = state_dict.get("threshold")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pace, self._writer = Pace.of(trainer), writer_of(trainer)
        if self._writer is not None:
            model = _ours(pl_module).model
            self._writer.add_custom_scalars(overview(model.class_names, levels=len(model.grids)))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        step = trainer.global_step
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self._writer is None or step == self._last_step or step % every:
            return
        self._last_step = step
        with self._pace.watching():
            module = _ours(pl_module)
            rates = match_rates(module.step_losses, batch, module.model, iou_threshold=module.loss.match_threshold)
            add_scalars(self._writer, {**rates, **self._machine()}, step - 1)  # Lightning counts from 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._writer is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        now, before = (_part_of_run(trainer, step) for step in (trainer.global_step, self._shown_step))
        scenes = _ours(pl_module).metrics["val"].image_results()
        if any((~scene.ignore).any() for scene in scenes.values()):
            with self._pace.watching():
                if now > before or self._threshold is None:
                    self._shown_step = trainer.global_step
                    self._show(trainer, _ours(pl_module), scenes, self._writer)
                self._show_images(trainer, scenes, self._writer)

    def _show(
        self, trainer: pl.Trainer, module: SSDModule, scenes: Mapping[str, ImageResult], writer: SummaryWriter
    ) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        showing = Showing(writer, scenes, data.splits.val, step=trainer.global_step - 1)
        showing.numbers()
        self._threshold = showing.threshold
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, EMA) for callback in callbacks):  # it has put the raw weights back already
            with trainer.precision_plugin.forward_context():
                values = compare_weights(module, data, scenes, evenly_spaced(scenes, self.raw_images))
            add_scalars(writer, values, showing.step)
        last = _part_of_run(trainer, trainer.global_step) == _SHOWINGS
        if last or self._pace.watch_share < _MOST_TIME:
            showing.charts()
            showing.worst(count=self.worst, side_px=self.side_px)

    def _show_images(self, trainer: pl.Trainer, scenes: Mapping[str, ImageResult], writer: SummaryWriter) -> None:
        if self._album is None:
            index = trainer.datamodule.splits.val  # type: ignore[attr-defined]
            self._album = Album(index, count=self.images, side_px=self.side_px)
        assert self._threshold is not None
        seconds = _MOST_TIME * self._pace.elapsed
        step = trainer.global_step - 1
        self._album.add(writer, scenes, threshold=self._threshold, step=step, seconds=seconds)

    def _machine(self) -> dict[str, float]:
        values = {
            "time/images_per_second": self._pace.rate,
            "time/data_wait_share": self._pace.wait_share,
            "time/watching_share": self._pace.watch_share,
        }
        if torch.cuda.is_available():
            values["memory/gpu_gb"] = torch.cuda.max_memory_allocated() / _GB
        if (statistics := Path("/proc/self/statm")).exists():
            pages = int(statistics.read_text().split()[1])
            values["memory/process_gb"] = pages * mmap.PAGESIZE / _GB
        return values


def _part_of_run(trainer: pl.Trainer, step: int) -> int:
    """Which of the _SHOWINGS parts of the run a step belongs to."""
    return int(_SHOWINGS * step // trainer.estimated_stepping_batches)


def _ours(module: pl.LightningModule) -> SSDModule:
    assert isinstance(module, SSDModule)
    return module
