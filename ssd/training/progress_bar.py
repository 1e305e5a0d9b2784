"""What the terminal shows during training: one bar for the whole run, and a table with a row for each validation.

Where the output is no terminal, plain lines: at most one every 30 seconds, and the same table.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from ssd.model.structures import Batch

_SMOOTHING = 0.1
_MUCH_WAITING = 0.25


class Pace(pl.Callback):
    """Measures; others read.

    `rate` is in images a second of all devices, `wait_share` the share of a training step in which nothing has
    arrived from the loader; both are smoothed. `watch_share` is that of the whole time since the start, validation
    included, that was spent in `watching`.
    """

    def __init__(self) -> None:
        self.rate = self.wait_share = 0.0
        self._steps = 0
        self._started = self._step_ended = time.perf_counter()
        self._waited = self._watched = 0.0

    @classmethod
    def of(cls, trainer: pl.Trainer) -> Pace:
        """That of a run; one that measures nothing where the run has none."""
        return next((callback for callback in trainer.callbacks if isinstance(callback, cls)), cls())  # type: ignore

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    @property
    def watch_share(self) -> float:
        return self._watched / max(1e-9, self.elapsed)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Counts what happens inside as time spent on watching."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._watched += time.perf_counter() - start

    def advice(self, trainer: pl.Trainer, *, cores: int) -> str | None:
        """What to change when the network waits for images; None if it does not."""
        if self.wait_share < _MUCH_WAITING:
            return None
        workers = getattr(trainer.train_dataloader, "num_workers", 0)
        remedy = (
            f"try num_workers={max(1, cores - 1)} (now {workers})"
            if workers < cores - 1
            else "store them smaller (the network sees image_size), or try augmentation=light"
        )
        return f"waiting for images takes {self.wait_share:.0%} of the time: {remedy}"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = self._step_ended = time.perf_counter()
        self._waited = _seconds_waited(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        now, waited = time.perf_counter(), _seconds_waited(trainer)
        seconds = max(1e-9, now - self._step_ended)
        weight = 1.0 if self._steps == 0 else max(_SMOOTHING, 1 / (1 + self._steps))
        self._steps += 1
        self.rate += weight * (len(batch.ids) * trainer.world_size / seconds - self.rate)
        self.wait_share += weight * (min(1.0, (waited - self._waited) / seconds) - self.wait_share)
        self._step_ended, self._waited = now, waited

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step_ended, self._waited = time.perf_counter(), _seconds_waited(trainer)


def _seconds_waited(trainer: pl.Trainer) -> float:
    return float(getattr(trainer.train_dataloader, "waited", 0.0))


_PLAIN_SECONDS = 30.0
_BAR_WIDTH = 8  # everything fits into 80 columns
_HEADER_EVERY = 12  # rows
_ENOUGH_STEPS = 20  # to say that the run waits for data
_COLUMNS = {
    "mAP": "val/map",
    "AP50": "val/map_50",
    "AP75": "val/map_75",
    "APs": "val/map_small",
    "APm": "val/map_medium",
    "APl": "val/map_large",
    "AR": "val/mar_100",
}
_CLASS = "val/map_class/"
_LONGEST_NAME = 8
_BAR_STEPS = 5  # between readings of the loss, each of which waits for the device


class Progress(ProgressBar):
    """Loss, last mAP, images a second, the share of waiting for data, and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console()
        self._bar: RichProgress | None = None
        self._task = TaskID(0)
        self._loss = float("nan")
        self._pace = Pace()
        self._line_printed = 0.0
        self._steps_here = 0
        self._started = 0.0
        self._map: float | None = None
        self._rows = 0
        self._advised = False

    def disable(self) -> None:
        self._console.quiet = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pace = Pace.of(trainer)
        self._started = self._line_printed = time.monotonic()
        if self._console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=_BAR_WIDTH),
                TextColumn("{task.percentage:3.0f} %"),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(compact=True),
                console=self._console,
                refresh_per_second=4,
            )
            total = int(trainer.estimated_stepping_batches) * trainer.accumulate_grad_batches
            self._task = self._bar.add_task("training", total=total, status="", completed=self._done(trainer))
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        now = time.monotonic()
        self._steps_here += 1
        if not self._due(trainer, now):
            return
        self._read_loss(outputs)
        if self._bar is not None:
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self._bar.update(self._task, completed=self._done(trainer), description=epoch, status=self._status())
        else:
            self._line_printed = now
            where = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  step {trainer.global_step}"
            self._print(f"{where}  {self._status()}  ETA {self._eta(trainer, now)}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self._map = metrics.get("val/map")
        self._print_row(trainer, metrics)
        sure = self._steps_here >= _ENOUGH_STEPS and not self._advised
        advice = self._pace.advice(trainer, cores=os.cpu_count() or 1) if sure else None
        if advice is not None:
            self._advised = True
            self._print(advice)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()
        self._print(f"watching (TensorBoard) took {self._pace.watch_share:.1%} of the time")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _due(self, trainer: pl.Trainer, now: float) -> bool:
        if self._bar is not None:
            return trainer.fit_loop.total_batch_idx % _BAR_STEPS == 0
        return now - self._line_printed >= _PLAIN_SECONDS

    def _read_loss(self, outputs: Any) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor):
            self._loss = float(loss)

    def _status(self) -> str:
        quality = "" if self._map is None else f"  mAP {_cell(self._map)}"
        return f"loss {self._loss:.2f}{quality}  {self._pace.rate:.0f} img/s  wait {self._pace.wait_share:.0%}"

    def _print_row(self, trainer: pl.Trainer, metrics: Mapping[str, float]) -> None:
        """With AP of each class, if there is room for all of them."""
        columns = {title: (key, 5) for title, key in _COLUMNS.items()}
        classes = {key.removeprefix(_CLASS)[:_LONGEST_NAME]: key for key in metrics if key.startswith(_CLASS)}
        wide = columns | {name: (key, max(5, len(name) + 1)) for name, key in classes.items()}
        start = f"{trainer.current_epoch + 1:6} {trainer.global_step:6} {metrics['val/loss']:6.3f}"
        if len(start) + sum(width for _, width in wide.values()) <= self._console.width:
            columns = wide
        if self._rows % _HEADER_EVERY == 0:
            titles = "".join(f"{title:>{width}}" for title, (_, width) in columns.items())
            self._print(f"{'epoch':>6} {'step':>6} {'loss':>6}{titles}")
        self._rows += 1
        self._print(start + "".join(f"{_cell(metrics.get(key)):>{width}}" for key, width in columns.values()))

    def _done(self, trainer: pl.Trainer) -> int:
        return trainer.fit_loop.total_batch_idx + 1

    def _eta(self, trainer: pl.Trainer, now: float) -> str:
        total = int(trainer.estimated_stepping_batches) * trainer.accumulate_grad_batches
        left = (total - self._done(trainer)) * (now - self._started) / max(1, self._steps_here)
        return f"{int(left // 3600)}:{int(left % 3600 // 60):02}:{int(left % 60):02}"

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _cell(score: float | None) -> str:
    """Four characters: .412, 1.00, or - where it is undefined."""
    return "-" if score is None else f"{score:.2f}" if score >= 0.9995 else f"{score:.3f}"[1:]
