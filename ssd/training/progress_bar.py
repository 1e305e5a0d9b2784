"""Training in the terminal: one progress bar for the whole run, a table row for each validation, and the throughput."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar

from ssd.common.progress import ProgressDisplay
from ssd.common.structures import Batch

_SMOOTHING = 0.1
_HIGH_WAIT_SHARE = 0.25


class Throughput(pl.Callback):
    """Measures the speed of training, for the progress bar and TensorBoard.

    Attributes:
        images_per_second: of all devices together, smoothed.
        data_wait_share: fraction of a training step spent waiting for the data loader (0..1), smoothed.
    """

    def __init__(self) -> None:
        self.images_per_second = self.data_wait_share = 0.0
        self.steps = 0  # of this process
        self._started = self._step_ended = time.perf_counter()
        self._waited = self._visualized = 0.0

    @classmethod
    def of(cls, trainer: pl.Trainer) -> Throughput:
        """The callback of a run, or an idle one if the run has none."""
        return next((callback for callback in trainer.callbacks if isinstance(callback, cls)), cls())  # type: ignore

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of training, validations included."""
        return time.perf_counter() - self._started

    @property
    def visualization_share(self) -> float:
        """Fraction of the elapsed time that was spent in `visualizing` (0..1)."""
        return self._visualized / max(1e-9, self.elapsed_s)

    @contextmanager
    def visualizing(self) -> Iterator[None]:
        """Counts the time inside as spent on visualization."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._visualized += time.perf_counter() - start

    def advice(self, trainer: pl.Trainer, *, cores: int) -> str | None:
        """Which setting to change if the network waits for images, else None."""
        if self.data_wait_share < _HIGH_WAIT_SHARE:
            return None
        workers = getattr(trainer.train_dataloader, "num_workers", 0)
        remedy = (
            f"try num_workers={cores - 1} (now {workers})"
            if workers < cores - 1
            else "store them smaller (the network sees image_size), or try augmentation=light"
        )
        return f"waiting for images takes {self.data_wait_share:.0%} of the time: {remedy}"

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._started = self._step_ended = time.perf_counter()
        self._waited = _seconds_waited(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, *_: Any) -> None:
        now, waited = time.perf_counter(), _seconds_waited(trainer)
        seconds = max(1e-9, now - self._step_ended)
        self.steps += 1
        weight = max(_SMOOTHING, 1 / self.steps)
        self.images_per_second += weight * (len(batch.ids) * trainer.world_size / seconds - self.images_per_second)
        self.data_wait_share += weight * (min(1.0, (waited - self._waited) / seconds) - self.data_wait_share)
        self._step_ended, self._waited = now, waited

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._step_ended, self._waited = time.perf_counter(), _seconds_waited(trainer)


def _seconds_waited(trainer: pl.Trainer) -> float:
    return float(getattr(trainer.train_dataloader, "waited", 0.0))


_HEADER_EVERY = 12  # rows
_MIN_STEPS_FOR_ADVICE = 20
_COLUMNS = {
    "mAP": "val/map",
    "AP50": "val/map_50",
    "AP75": "val/map_75",
    "APs": "val/map_small",
    "APm": "val/map_medium",
    "APl": "val/map_large",
    "AR": "val/mar_100",
}
_CLASS_PREFIX = "val/map_class/"
_MAX_NAME_LENGTH = 8


class TrainingProgress(ProgressBar):
    """Shows epoch, loss, last mAP, throughput and remaining time."""

    def __init__(self) -> None:
        super().__init__()
        self._quiet = False
        self._display = ProgressDisplay("training", total=None, quiet=True)
        self._throughput = Throughput()
        self._map: float | None = None
        self._rows = 0
        self._advised = False

    def disable(self) -> None:
        self._quiet = True

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._throughput = Throughput.of(trainer)
        total = int(trainer.estimated_stepping_batches) * trainer.accumulate_grad_batches
        self._display = ProgressDisplay("training", total=total, start=_batches_done(trainer), quiet=self._quiet)
        self._display.__enter__()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, *_: Any) -> None:
        if self._display.due:  # reading the loss makes the host wait for the device
            title = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            quality = "" if self._map is None else f"  mAP {_cell(self._map)}"
            speed = f"{self._throughput.images_per_second:.0f} img/s  wait {self._throughput.data_wait_share:.0%}"
            status = f"loss {float(outputs['loss']):.2f}{quality}  {speed}"
            self._display.show(title, status, done=_batches_done(trainer))

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self._map = metrics.get("val/map")
        self._print_row(trainer, metrics)
        advice = self._throughput.advice(trainer, cores=os.cpu_count() or 1)
        if advice is not None and self._throughput.steps >= _MIN_STEPS_FOR_ADVICE and not self._advised:
            self._advised = True
            self._display.print(advice)

    def on_train_end(self, *_: Any) -> None:
        self._display.__exit__(None, None, None)
        if (share := self._throughput.visualization_share) > 0:
            self._display.print(f"TensorBoard took {share:.1%} of the time")

    def on_exception(self, *_: Any) -> None:
        self._display.__exit__(None, None, None)

    def _print_row(self, trainer: pl.Trainer, metrics: Mapping[str, float]) -> None:
        """Prints the metrics, with the AP of each class if the terminal is wide enough for all of them."""
        classes = [key for key in metrics if key.startswith(_CLASS_PREFIX)]
        columns = _COLUMNS | {key.removeprefix(_CLASS_PREFIX)[:_MAX_NAME_LENGTH]: key for key in classes}
        start = f"{trainer.current_epoch + 1:6} {trainer.global_step:6} {metrics['val/loss']:6.3f}"
        if len(start) + sum(max(5, 1 + len(title)) for title in columns) > shutil.get_terminal_size().columns:
            columns = _COLUMNS
        if self._rows % _HEADER_EVERY == 0:
            titles = "".join(f" {title:>4}" for title in columns)
            self._display.print(f"{'epoch':>6} {'step':>6} {'loss':>6}{titles}")
        self._rows += 1
        cells = "".join(f" {_cell(metrics.get(key)):>{max(4, len(title))}}" for title, key in columns.items())
        self._display.print(start + cells)


def _batches_done(trainer: pl.Trainer) -> int:
    return trainer.fit_loop.total_batch_idx + 1


def _cell(score: float | None) -> str:
    """Four characters: .412, 1.00, or - if undefined."""
    return "-" if score is None else f"{score:.2f}" if score >= 0.9995 else f"{score:.3f}"[1:]
