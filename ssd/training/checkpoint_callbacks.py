"""Checkpoints of a run: best.ckpt by val/map, and last.ckpt, the recovery point from which it resumes exactly.

The recovery point is written at step boundaries (after an optimizer step, never while gradients are being accumulated),
at a time or step interval, after each epoch, and when a signal stops the run. Lightning 2.6 exits with 0 and saves
nothing on SIGTERM; its ModelCheckpoint may save between accumulated batches, and a run resumed at a batch that precedes
a validation would skip that validation.
"""

from __future__ import annotations

import math
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
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from pytorch_lightning.callbacks import Callback, Checkpoint, ModelCheckpoint

from ssd.common import slurm
from ssd.common.atomic_files import write_atomically
from ssd.common.console import for_shell, log, relative_to_cwd
from ssd.common.errors import MachineError
from ssd.training.run_dir import BEST, LAST
from ssd.weights.safe_load import safe_load

_RNG = "rng"


def checkpoint_callbacks(folder: Path, *, validates: bool, minutes: float | None, steps: int | None) -> list[Callback]:
    """best.ckpt (of a run that validates), and last.ckpt after each epoch and at the intervals."""
    best = BestCheckpoint(
        dirpath=folder / BEST.parent, filename=BEST.stem, monitor="val/map", mode="max", enable_version_counter=False
    )
    return [*([best] if validates else []), RecoveryPoint(folder / LAST, minutes=minutes, steps=steps)]


def best_score(trainer: pl.Trainer, name: str = "val/map") -> float | None:
    """The best value of a validation metric over the run; None without one."""
    best = next((callback for callback in trainer.callbacks if isinstance(callback, BestCheckpoint)), None)  # type: ignore[attr-defined]
    return None if best is None else best.best_values.get(name)


class BestCheckpoint(ModelCheckpoint):
    """Knows the best value of every validation metric: the lowest loss, the highest of the others.

    It can resume after the run folder was moved, or when best.ckpt is missing.
    """

    best_values: dict[str, float]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.best_values = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            for name, value in trainer.callback_metrics.items():
                if name.startswith("val/") and math.isfinite(value):
                    better = min if "loss" in name else max
                    self.best_values[name] = better(float(value), self.best_values.get(name, float(value)))
        super().on_validation_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"best_values": self.best_values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        score = state_dict["best_model_score"]  # all that older checkpoints have
        self.best_values = state_dict.get("best_values") or ({} if score is None else {"val/map": float(score)})
        best = self.format_checkpoint_name({})
        if state_dict["best_model_path"] and Path(best).is_file():
            here = {"dirpath": self.dirpath, "best_model_path": best, "kth_best_model_path": best}
            super().load_state_dict(state_dict | here | {"best_k_models": {best: score}})


class RecoveryPoint(Checkpoint):
    """Writes `path`, and stops the run on a signal.

    SIGTERM and SIGINT (and SIGUSR1 in a cluster job) save at the next step boundary and exit with 128 + the signal's
    number; a second SIGINT exits at once.

    Args:
        minutes, steps: intervals between saves within an epoch; None for no such interval.
    """

    def __init__(self, path: Path, *, minutes: float | None = None, steps: int | None = None) -> None:
        self.path = path
        self._seconds = math.inf if minutes is None else 60 * minutes
        self._steps = math.inf if steps is None else steps
        self._saved_at = time.monotonic()
        self._saved_step = 0
        self._signal: int | None = None
        self._save_before_validation = False
        self._saved_rng: dict[str, Any] | None = None

    def on_sanity_check_start(self, *_: Any) -> None:
        self._install_handlers()

    def on_sanity_check_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._exit_if_requested(trainer)

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._install_handlers()
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step
        if self._saved_rng is not None:
            torch.set_rng_state(self._saved_rng["cpu"])
            if self._saved_rng["cuda"] and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._saved_rng["cuda"][0])

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop._should_accumulate():
            return
        if _ends_within_epoch(trainer):  # in all processes: Lightning's own stops are agreed on
            self._save(trainer)  # Lightning will count the epoch as done
            return
        seconds, steps = time.monotonic() - self._saved_at, trainer.global_step - self._saved_step
        due = seconds >= self._seconds or steps >= self._steps
        if not self._any_process(trainer, due or self._signal is not None):
            return
        epoch_loop = trainer.fit_loop.epoch_loop
        if epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher):  # type: ignore[arg-type]
            self._save_before_validation = True
        elif not trainer.is_last_batch:
            self._save(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._saved_step == trainer.global_step:
            self._exit_if_requested(trainer)  # not before: Lightning logs a step after its on_train_batch_end

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._save_before_validation:
            self._save(trainer)
            self._exit_if_requested(trainer)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        fitting = not trainer.sanity_checking and trainer.state.fn == "fit"
        if fitting and self._saved_step != trainer.global_step and _ends_within_epoch(trainer):  # by an early stop
            self._save(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._exit_if_requested(trainer, save=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.is_last_batch:
            self._save(trainer)
        self._exit_if_requested(trainer)

    def on_test_start(self, *_: Any) -> None:
        self._install_handlers()

    def on_test_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._exit_if_requested(trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
        checkpoint[_RNG] = {"cpu": torch.get_rng_state(), "cuda": cuda}
        if trainer.validating:  # a resumed run repeats the whole validation, as Lightning counts one that has started
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            progress["total"].update(ready=1, started=1, processed=0, completed=0)
            progress["current"].update(ready=0, started=0, processed=0, completed=0)
            progress["is_last_batch"] = False

    def on_load_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        self._saved_rng = checkpoint.get(_RNG)

    def _save(self, trainer: pl.Trainer) -> None:
        self._save_before_validation = False
        trainer.save_checkpoint(self.path)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def _any_process(self, trainer: pl.Trainer, decision: bool) -> bool:
        """Whether `decision` is true in any process, so that all save or none does."""
        return decision if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(decision, all=False)

    def _install_handlers(self) -> None:
        """Call after Lightning has installed its handlers. On exit Lightning restores those that preceded its own."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, *slurm.requeue_signals()):
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"stopping after this step ...\n")

    def _exit_if_requested(self, trainer: pl.Trainer, *, save: bool = False) -> None:
        if not self._any_process(trainer, self._signal is not None):
            return
        if save:
            self._save(trainer)
        number = signal.Signals(self._signal or signal.SIGTERM)  # no signal here: another process of the run has one
        saved = f"saved; resume with: python train.py resume={for_shell(relative_to_cwd(self.path.parent.parent))}"
        log(
            f"stopped by {number.name} at step {trainer.global_step}: "
            f"{saved if self.path.exists() else 'nothing saved yet'}"
        )
        if number in slurm.requeue_signals() and trainer.is_global_zero:
            slurm.requeue()
        raise SystemExit(128 + number)


def _ends_within_epoch(trainer: pl.Trainer) -> bool:
    """Whether training ends after this step, by max_steps, max_time or a callback, though the epoch has more."""
    ends = trainer.should_stop or trainer.global_step == trainer.max_steps
    return ends and not trainer.is_last_batch


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's checkpoints, written atomically and read without unpickling objects."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        try:
            write_atomically(path, lambda temporary: torch.save(checkpoint, temporary))
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError where the disk is full
            if "DataLoader worker" in str(error):  # a worker's death is raised wherever the main process is
                raise
            reason = error.strerror or str(error) if isinstance(error, OSError) else "the disk is full"
            raise MachineError(f"{path}: cannot be written: {reason}; the previous checkpoint is intact") from error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return dict(safe_load(Path(path)))

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        Path(path).unlink(missing_ok=True)
