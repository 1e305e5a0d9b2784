"""Warns early in a run whose loss does not fall."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ssd.common.console import log

_CHECKED = 0.1  # share of the steps after which the loss is looked at
_FIRST = 0.2  # share of the losses until then: the first of them are compared with the last
_MIN_LOSSES = 10
_MIN_FALL = 0.02  # share of the loss
_MIN_RUN_STEPS = 200  # of a shorter run a tenth says nothing


class LossWatch(pl.Callback):
    """After a tenth of the steps, compares the loss with that of the first steps; once, in runs from step 0."""

    def __init__(self) -> None:
        self._losses: list[Tensor] | None = None  # on the device: nothing waits for them

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        enough = trainer.estimated_stepping_batches >= _MIN_RUN_STEPS
        self._losses = [] if trainer.global_step == 0 and enough else None

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, *_: Any) -> None:
        if self._losses is None:
            return
        self._losses.append(outputs["loss"].detach())
        if trainer.global_step >= round(_CHECKED * trainer.estimated_stepping_batches):
            losses, self._losses = torch.stack(self._losses).float(), None
            number = max(_MIN_LOSSES, round(_FIRST * len(losses)))
            first, later = torch.stack((losses[:number].mean(), losses[-number:].mean())).tolist()
            warning = judge(first=first, later=later, step=trainer.global_step)
            if warning is not None:
                log(f"warning: {warning}")


def judge(*, first: float, later: float, step: int) -> str | None:
    """What a mean loss of `first` at the start and `later` at a step suggests; None if it falls."""
    if later < (1 - _MIN_FALL) * first:
        return None
    change = f"after {step} steps the loss is {later:.2f}, from {first:.2f} at the start"
    if later > (1 + _MIN_FALL) * first:
        return f"{change}: the learning rate is likely too high; try a third of optimizer.lr"
    return f"{change}: the learning rate is likely too low, layers are frozen, or the boxes do not lie on the objects"
