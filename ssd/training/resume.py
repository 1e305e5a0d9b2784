"""The recovery point, checkpoints/last.ckpt: from it a run goes on exactly where it stopped.

It is written at step boundaries (after an optimizer step, never while gradients are being accumulated), at a time or
step interval, after each epoch, and when a signal asks the run to stop. Lightning 2.6 leaves with 0 and saves nothing
on SIGTERM; its ModelCheckpoint may save between accumulated batches, and a run resumed at a batch that is followed by a
validation would leave that out.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from ssd.common import slurm
from ssd.common.console import log, relative_to_cwd

_RNG = "rng"
_NOT_STARTED = {"ready": 1, "started": 1, "processed": 0, "completed": 0}  # to Lightning: stopped in a validation
_NOTHING = dict.fromkeys(_NOT_STARTED, 0)


class RecoveryPoint(Checkpoint):
    """Writes `path`, and stops the run when a signal asks for it.

    SIGTERM and SIGINT (and SIGUSR1 in a cluster job) save at the next step boundary and leave with 128 + the signal's
    number; a second SIGINT leaves at once.

    Args:
        path: the file.
        minutes, steps: intervals between saves within an epoch; None for no such interval.
    """

    def __init__(self, path: Path, *, minutes: float | None, steps: int | None) -> None:
        self.path = path
        self._seconds = None if minutes is None else 60 * minutes
        self._steps = steps
        self._saved_at = time.monotonic()
        self._saved_step = 0
        self._last_step = 0
        self._signal: int | None = None
        self._save_before_validation = False
        self._saved_rng: dict[str, Any] | None = None

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen()

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._asked(trainer):
            self._leave(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen()
        self._saved_at = time.monotonic()
        self._last_step = self._saved_step = trainer.global_step
        if self._saved_rng is not None:
            torch.set_rng_state(self._saved_rng["cpu"])
            if self._saved_rng["cuda"] and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._saved_rng["cuda"][0])

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self._last_step:  # gradients are being accumulated
            return
        self._last_step = trainer.global_step
        if not self._agree(trainer, self._due(trainer) or self._signal is not None):
            return
        epoch_loop = trainer.fit_loop.epoch_loop
        if epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher):  # type: ignore[arg-type]
            self._save_before_validation = True
        elif not trainer.is_last_batch:
            self._save(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._save_before_validation:
            self._save(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit" and self._asked(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen()

    def on_test_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._asked(trainer):
            self._leave(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
        checkpoint[_RNG] = {"cpu": torch.get_rng_state(), "cuda": cuda}
        if trainer.validating:  # a resumed run does the whole validation
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            progress["total"].update(_NOT_STARTED)
            progress["current"].update(_NOTHING)
            progress["is_last_batch"] = False

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._saved_rng = checkpoint.get(_RNG)

    def _due(self, trainer: pl.Trainer) -> bool:
        steps_over = self._steps is not None and trainer.global_step - self._saved_step >= self._steps
        return steps_over or (self._seconds is not None and time.monotonic() - self._saved_at >= self._seconds)

    def _save(self, trainer: pl.Trainer) -> None:
        self._save_before_validation = False
        trainer.save_checkpoint(self.path)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        if self._asked(trainer):
            self._leave(trainer)

    def _asked(self, trainer: pl.Trainer) -> bool:
        return self._agree(trainer, self._signal is not None)

    def _agree(self, trainer: pl.Trainer, mine: bool) -> bool:
        """Whether any process of the run says so: all save together, or none."""
        return mine if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(mine, all=False)

    def _listen(self) -> None:
        """After Lightning has installed its handlers; it puts back what was there before when it ends."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, *slurm.requeue_signals()):
                signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"stopping after this step ...\n")

    def _leave(self, trainer: pl.Trainer) -> None:
        number = signal.Signals(self._signal or signal.SIGTERM)  # of another process of the run
        folder = self.path.parent.parent
        saved = (
            f"saved; go on with: python train.py resume={relative_to_cwd(folder)}"
            if self.path.exists()
            else "nothing to save yet"
        )
        log(f"stopped by {number.name} at step {trainer.global_step}: {saved}")
        if number in slurm.requeue_signals() and trainer.is_global_zero:
            slurm.requeue()
        raise SystemExit(128 + number)
