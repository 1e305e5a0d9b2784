"""Where the time of a run goes: pictures a second, the share spent waiting for data, the share spent on watching."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl

from ssd.structures import Batch

_SMOOTHING = 0.1
_MUCH_WAITING = 0.25


class Pace(pl.Callback):
    """Measures; others read.

    `rate` is in pictures a second of all devices, `wait_share` the share of a training step in which nothing has
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
        """What to change when the network waits for pictures; None if it does not."""
        if self.wait_share < _MUCH_WAITING:
            return None
        workers = getattr(trainer.train_dataloader, "num_workers", 0)
        remedy = (
            f"try num_workers={max(1, cores - 1)} (now {workers})"
            if workers < cores - 1
            else "store them smaller (the network sees image_size), or try augmentation=light"
        )
        return f"waiting for pictures takes {self.wait_share:.0%} of the time: {remedy}"

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
