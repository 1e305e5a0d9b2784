"""The LightningModule: training, validation and test steps, optimizer and logged metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ssd.common.errors import ConfigError
from ssd.common.structures import Batch, Predictions
from ssd.evaluation.metrics import DetectionMetrics
from ssd.model.loss import Losses, MultiBoxLoss
from ssd.model.postprocess import PostProcess
from ssd.model.ssd import SSD
from ssd.training.finite_guard import FiniteGuard

LOSS_NAMES = (
    *("loss", "loss_classification", "loss_classification_positive", "loss_classification_negative"),
    "loss_localization",
)
STEP_METRICS = ("train/gradient_norm", "train/skipped_steps")


class SSDModule(pl.LightningModule):
    """Trains an SSD.

    Args:
        model: the network; it is converted to the channels-last memory format.
        loss: from predictions and ground truth to the losses of a batch.
        postprocess: from predictions to the detections that are evaluated.
        optimizer: makes the optimizer from parameter groups.
        scheduler: makes the learning-rate schedule from the optimizer and `total_steps`.
        base_lr_multiplier: factor on the learning rate of the backbone's base net (the part with ImageNet weights).
        head_lr_multiplier: factor on the learning rate of the heads.
    """

    def __init__(
        self,
        model: SSD,
        *,
        loss: MultiBoxLoss,
        postprocess: PostProcess,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        scheduler: Callable[..., LRScheduler],
        base_lr_multiplier: float = 1.0,
        head_lr_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.loss = loss
        self.postprocess = postprocess
        self.metrics = {stage: DetectionMetrics(model.class_names) for stage in ("val", "test")}
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._base_lr_multiplier = base_lr_multiplier
        self._head_lr_multiplier = head_lr_multiplier
        self._guard = FiniteGuard()
        self.step_losses: Losses  # of the last training step
        self._step_ids: tuple[str, ...]
        self._group_settings: list[dict[str, Any]] = []  # of each parameter group, as configured
        self._skipped = torch.zeros((), dtype=torch.int64)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        self.step_losses, self._step_ids = self._losses("train", self.model(batch.images), batch), batch.ids
        return self.step_losses.total

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips by norm; a loss or gradient that is not finite never reaches the weights."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = clip_grad_norm_(parameters, gradient_clip_val or float("inf"), foreach=True)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # it skips steps with infinite gradients itself
        values = [self.step_losses.total, *([norm] if scaler is None else [])]
        self._guard.check(optimizer, values, step=self.global_step + 1, ids=self._step_ids)
        self.log("train/gradient_norm", norm)
        self._skipped = self._skipped.to(norm.device)  # stays on the device: nothing waits for it
        if scaler is not None:  # without a scaler such a step stops the run
            self._skipped = self._skipped + ~norm.isfinite()
        self.log("train/skipped_steps", self._skipped.float())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._guard.settle()
        checkpoint["recipe"] = self.model.recipe()

    def on_train_start(self) -> None:
        """Applies the configured settings: on resume, Lightning has just restored those of the stopped run."""
        groups = self.trainer.optimizers[0].param_groups
        for group, configured in zip(groups, self._group_settings, strict=True):
            group["lr"] *= configured["initial_lr"] / group["initial_lr"]
            group.update(configured)
        scheduler = self.trainer.lr_scheduler_configs[0].scheduler
        scheduler.base_lrs = [group["initial_lr"] for group in groups]
        if isinstance(scheduler, LambdaLR):  # the restored rate is that of the schedule of the stopped run
            for group, factor in zip(groups, scheduler.lr_lambdas, strict=True):
                group["lr"] = group["initial_lr"] * factor(scheduler.last_epoch)

    def on_train_end(self) -> None:
        self._guard.settle()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        try:
            optimizer = self._optimizer(self.parameter_groups())
        except (ValueError, TypeError) as error:
            raise ConfigError(f"optimizer: {error}") from error
        for group in optimizer.param_groups:
            group["lr"] *= group.pop("lr_multiplier")
        scheduler = self._scheduler(optimizer, total_steps=int(self.trainer.estimated_stepping_batches))
        self._group_settings = [
            {name: value for name, value in group.items() if name not in ("params", "lr")}
            for group in optimizer.param_groups
        ]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of base net, extra levels and heads, each with and without weight decay (none on norms, biases)."""
        base = set(getattr(self.model.backbone, "base", nn.Module()).parameters())
        heads = {*self.model.classification_heads.parameters(), *self.model.localization_heads.parameters()}
        multipliers = {"base": self._base_lr_multiplier, "extras": 1.0, "heads": self._head_lr_multiplier}
        groups: dict[str, dict[str, Any]] = {}
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                part = "base" if parameter in base else "heads" if parameter in heads else "extras"
                name, decay = (part, {}) if parameter.ndim > 1 else (f"{part}_no_decay", {"weight_decay": 0.0})
                group = {"params": [], "name": name, "lr_multiplier": multipliers[part], **decay}
                groups.setdefault(name, group)["params"].append(parameter)
        return list(groups.values())

    def _evaluate(self, stage: str, batch: Batch) -> None:
        predictions = self.model(batch.images)
        self._losses(stage, predictions, batch)
        self.metrics[stage].add(self.postprocess(predictions, self.model.priors), batch)

    def _losses(self, stage: str, predictions: Predictions, batch: Batch) -> Losses:
        """Computes and logs them."""
        losses: Losses = self.loss(
            predictions, boxes=batch.boxes, labels=batch.labels, ignore=batch.ignore, priors=self.model.priors
        )
        negatives = losses.classification - losses.positive_classification
        values = (losses.total, losses.classification, losses.positive_classification, negatives, losses.localization)
        training = stage == "train"
        self.log_dict(
            {f"{stage}/{name}": value for name, value in zip(LOSS_NAMES, values, strict=True)},
            batch_size=len(batch.ids),
            on_step=training,
            on_epoch=not training,
            sync_dist=not training,
        )
        return losses

    def _log_metrics(self, stage: str) -> None:
        self.log_dict({f"{stage}/{name}": value for name, value in self.metrics[stage].results().items()})
