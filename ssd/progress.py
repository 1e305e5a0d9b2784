"""What the terminal shows during training: one bar for the whole run, and a table with a row for each validation.

Where the output is no terminal, plain lines: at most one every 30 seconds, and the same table.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from ssd.pace import Pace
from ssd.structures import Batch

_PLAIN_SECONDS = 30.0
_BAR_WIDTH = 8  # everything fits into 80 columns
_HEADER_EVERY = 12  # rows
_COLUMNS = {
    "loss": "val/loss",
    "mAP": "val/map",
    "AP50": "val/map_50",
    "AP75": "val/map_75",
    "small": "val/map_small",
    "medium": "val/map_medium",
    "large": "val/map_large",
    "AR": "val/mar_100",
}
_CELL = 6  # characters
_BAR_STEPS = 5  # between readings of the loss, each of which waits for the device


class Progress(ProgressBar):
    """Loss, last mAP, pictures a second, the share of waiting for data, and the time left."""

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
        columns = _COLUMNS | self._class_columns(metrics)
        if self._rows % _HEADER_EVERY == 0:
            self._print(" epoch   step" + "".join(f" {title:>{_CELL}}" for title in columns))
        self._rows += 1
        cells = (f" {metrics[key]:{_CELL}.3f}" if key in metrics else f" {'-':>{_CELL}}" for key in columns.values())
        self._print(f"{trainer.current_epoch + 1:6} {trainer.global_step:6}{''.join(cells)}")
        advice = None if self._advised else self._pace.advice(trainer, cores=os.cpu_count() or 1)
        if advice is not None:
            self._advised = True
            self._print(f"slow: {advice}")

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
        quality = "" if self._map is None else f"  mAP {self._map:.3f}"
        return f"loss {self._loss:.2f}{quality}  {self._pace.rate:.0f} img/s  wait {self._pace.wait_share:.0%}"

    def _class_columns(self, metrics: Iterable[str]) -> dict[str, str]:
        """AP of each class, if there is room for all of them."""
        columns = {key.rpartition("/")[2][:_CELL]: key for key in metrics if key.startswith("val/map_class/")}
        room = self._console.width - 13 - len(_COLUMNS) * (_CELL + 1)
        return columns if len(columns) * (_CELL + 1) <= room else {}

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
