"""Builds the parts that a composed configuration names. For the entry points only: the library never sees a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

from ssd import pretrained, results, runs, runtime
from ssd.checkpoint import AtomicCheckpointIO
from ssd.data.augmentation import Augmentation, SSDWindow
from ssd.data.datamodule import DetectionDataModule
from ssd.model import SSD, measure
from ssd.module import SSDModule
from ssd.priors import Grid, PriorSpec


def check_fit(config: DictConfig) -> tuple[PriorSpec, list[Grid]]:
    """Priors, backbone and image size, before any data is read; the priors, and the grids they lie on.

    Raises:
        ConfigError: they do not fit together.
    """
    shapes = measure(build_backbone(config), image_size=config.image_size)
    grids = [shape[1:] for shape in shapes]
    spec = instantiate(config.priors, _convert_="all")
    spec.build(grids, image_size=config.image_size)
    return spec, grids


def build_backbone(config: DictConfig) -> Any:
    """The backbone with fresh weights."""
    arguments = {key: value for key, value in config.backbone.items() if key != "weights"}
    return instantiate(arguments, _convert_="all")


def build_datamodule(config: DictConfig) -> DetectionDataModule:
    """The data, not yet read."""
    return DetectionDataModule(
        instantiate(config.dataset, _convert_="all"),
        train_augmentation=instantiate(config.augmentation, _convert_="all"),
        eval_augmentation=Augmentation([SSDWindow.resize(config.image_size)]),
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        seed=config.seed,
    )


def build_model(config: DictConfig, class_names: tuple[str, ...]) -> SSD:
    """The network with the initial weights that were asked for."""
    backbone = build_backbone(config)
    if config.backbone.weights is not None:
        results.say(pretrained.load_base(backbone, config.backbone.weights))
    model = SSD(
        backbone, instantiate(config.priors, _convert_="all"), class_names=class_names, image_size=config.image_size
    )
    model.freeze(config.module.freeze)
    return model


def build_module(config: DictConfig, model: SSD) -> SSDModule:
    """The LightningModule around the network."""
    return SSDModule(
        model,
        loss=instantiate(config.loss),
        postprocess=instantiate(config.postprocess),
        optimizer=instantiate(config.optimizer, _convert_="all"),
        scheduler=instantiate(config.scheduler, _convert_="all"),
        base_lr_multiplier=config.module.base_lr_multiplier,
        head_lr_multiplier=config.module.head_lr_multiplier,
    )


def build_trainer(config: DictConfig, folder: Path, *, validates: bool, first_step: int | None = None) -> pl.Trainer:
    """Lightning's Trainer with our checkpoints; a run that is resumed at `first_step` logs nothing twice."""
    precision = config.trainer.precision
    without_validation = {} if validates else {"limit_val_batches": 0}
    callbacks = [instantiate(callback) for callback in config.callbacks.values()]
    callbacks += runs.checkpoint_callbacks(
        folder, validates=validates, minutes=config.save_every_minutes, steps=config.save_every_steps
    )
    return instantiate(
        config.trainer,
        _convert_="all",
        precision=runtime.quick_precision() if precision == "auto" else precision,
        callbacks=callbacks,
        logger=[_build_logger(logger, first_step) for logger in config.logger.values()],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(folder),
        use_distributed_sampler=False,
        enable_model_summary=False,
        **without_validation,
    )


def _build_logger(config: DictConfig, first_step: int | None) -> Any:
    ours = config._target_.endswith(("TensorBoardLogger", "CsvLogger"))  # they can drop what a lost part has logged
    return instantiate(config, **({"purge_step": first_step} if ours and first_step is not None else {}))
