"""Exponential moving average of the weights.

Lightning's EMAWeightAveraging reads a flag from the device in each step, which makes the host wait for a GPU, and has
no warm-up, so that short runs validate on an average of random weights.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

RAW_STATE_DICT = "raw_state_dict"


class EMA(pl.Callback):
    """Averages after each optimizer step; validation and checkpoints see the average.

    A checkpoint holds the average as `state_dict` and the weights in training as `raw_state_dict`; a resumed run
    restores both.

    Args:
        decay: fraction of the old average kept in each step (0..1); in early steps at most (1 + n) / (10 + n).
    """

    def __init__(self, *, decay: float = 0.999) -> None:
        self.decay = decay
        self._average: dict[str, Tensor] = {}
        self._updates = 0
        self._swapped = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._average:
            self._average = {name: value.clone() for name, value in pl_module.state_dict().items()}
        self._average = {name: value.to(pl_module.device) for name, value in self._average.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.fit_loop._should_accumulate():
            return
        self._updates += 1
        decay = min(self.decay, (1 + self._updates) / (10 + self._updates))
        average, current = self._average, pl_module.state_dict()
        floats = [name for name, value in current.items() if value.is_floating_point()]
        torch._foreach_lerp_([average[name] for name in floats], [current[name] for name in floats], weight=1 - decay)
        for name in current.keys() - floats:
            average[name].copy_(current[name])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._average and trainer.state.fn == "fit":
            self._swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._swapped:
            self._swap(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.on_validation_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        if self._swapped:
            checkpoint[RAW_STATE_DICT] = self._average
        elif self._average:
            checkpoint[RAW_STATE_DICT], checkpoint["state_dict"] = checkpoint["state_dict"], self._average

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if RAW_STATE_DICT in checkpoint:
            self._average = checkpoint["state_dict"]
            pl_module.load_state_dict(checkpoint[RAW_STATE_DICT])

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._updates = state_dict["updates"]

    @torch.no_grad()
    def _swap(self, pl_module: pl.LightningModule) -> None:
        for name, value in pl_module.state_dict().items():
            current = value.clone()
            value.copy_(self._average[name])
            self._average[name].copy_(current)
        self._swapped = not self._swapped
