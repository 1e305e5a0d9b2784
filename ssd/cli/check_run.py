"""Checks of a run that need its built parts, before the first step: what would fail late, or train nothing."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from ssd.cli import build
from ssd.cli.config import nearest
from ssd.common.errors import ConfigError
from ssd.common.image_size import height_width
from ssd.data.augmentation import Augmentation
from ssd.evaluation.metrics import metric_names
from ssd.training.lightning_module import LOSS_NAMES, STEP_METRICS

_LAUNCHED = ("RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "LSB_JOBID")


def check_trainer(config: DictConfig) -> None:
    """Settings of the Trainer with which nothing would be trained, or nothing would start.

    Raises:
        ConfigError: names the setting.
    """
    settings = config.trainer
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if settings.get(name) == 0:
            raise ConfigError(f"trainer.{name}=0: nothing would be trained; give 1 or more")
    if settings.get("max_epochs") == -1 and settings.get("max_steps") in (None, -1):
        raise ConfigError("trainer.max_epochs=-1: the schedule needs its length; give epochs or trainer.max_steps")
    if settings.get("overfit_batches"):
        raise ConfigError(
            f"trainer.overfit_batches={settings.overfit_batches}: not supported; "
            f"give trainer.limit_train_batches={settings.overfit_batches} and more epochs"
        )
    if settings.get("num_nodes", 1) > 1 and not any(name in os.environ for name in _LAUNCHED):
        raise ConfigError(
            f"trainer.num_nodes={settings.num_nodes}: start the program on each node, with torchrun or srun"
        )


def check_unplanned(config: DictConfig) -> None:
    """What can be checked before the data is read, as if nothing was planned.

    Raises:
        ConfigError: backbone, priors, image size and batch size do not fit together.
        CheckpointError: `init_from` does not exist.
    """
    config = copy.deepcopy(config)
    build.fill_auto(config)
    build.check_fit(config)
    _check_batch_norm(config)


def _check_batch_norm(config: DictConfig) -> None:
    """Batch normalisation of a feature map of 1 x 1 needs two images.

    Raises:
        ConfigError: there is such a map, and batch_size is 1.
    """
    with torch.device("meta"):
        backbone = build.build_backbone(config).train()
        images = torch.empty(config.batch_size, 3, *height_width(config.image_size), dtype=torch.uint8)
    try:
        backbone(images)
    except ValueError as error:
        raise ConfigError(f"batch_size={config.batch_size}: {error}; give a larger batch_size or image_size") from error


def check_metric_names(config: DictConfig, trainer: pl.Trainer, class_names: Sequence[str]) -> None:
    """The objective, and what callbacks monitor.

    Raises:
        ConfigError: no such metric will be logged.
    """
    known = [f"val/{metric}" for metric in (*metric_names(class_names), *LOSS_NAMES)]
    _check_metric("objective", config.objective, known)
    known += [*(f"train/{name}" for name in LOSS_NAMES), *STEP_METRICS]
    for setting, monitored in _monitored(config):
        _check_metric(setting, monitored, known)
        if monitored.startswith("val/") and not trainer.limit_val_batches:
            raise ConfigError(f"{setting}={monitored}: not measured, as there is no validation; choose train/loss")


def _monitored(config: DictConfig) -> Iterator[tuple[str, str]]:
    for name, callback in (config.get("callbacks") or {}).items():
        if isinstance(callback, DictConfig) and isinstance(callback.get("monitor"), str):
            yield f"callbacks.{name}.monitor", callback.monitor


def _check_metric(setting: str, name: str, known: list[str]) -> None:
    if name not in known:
        shown = ", ".join(item for item in known if "class/" not in item)
        raise ConfigError(f"{setting}={name}: no such metric{nearest(name, known)}; choose from {shown}")


def check_augmentation(config: DictConfig, augmentation: Augmentation) -> None:
    """Augments a blank image with a box once.

    Raises:
        ConfigError: the augmentation fails, or does not give images for the network.
    """
    height, width = height_width(config.image_size)
    image = np.full((height + 3, 2 * width, 3), 127, dtype=np.uint8)
    columns: dict[str, Any] = {"labels": np.zeros(1, dtype=np.int32), "ignore": np.zeros(1, dtype=np.bool_)}
    box = np.array([[0.2, 0.2, 0.8, 0.8]], dtype=np.float32)
    try:
        found = augmentation(image, boxes=box, **columns, id="", seed=(config.seed, 0, 0)).image
        given = f"{found.dtype} {list(found.shape)}"
    except Exception as error:  # whatever a transform raises for what it was not made for
        given = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if given != f"uint8 {[height, width, 3]}":
        raise ConfigError(
            f"augmentation: it must give uint8 [{height}, {width}, 3] (image_size={config.image_size}), and boxes, but "
            f"gives {given}; "
            "end the geometry with a resize, and leave out Normalize and ToTensorV2: the network normalises"
        )
