"""Builds the parts that a composed configuration names. For the entry points only: the library never sees a config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

from ssd.common import console, runtime
from ssd.common.errors import CheckpointError, ConfigError
from ssd.data.augmentation import Augmentation, SSDWindow
from ssd.data.cache import read_cached
from ssd.data.datamodule import DetectionDataModule
from ssd.data.splits import Splits
from ssd.model.priors import Grid, PriorSpec
from ssd.model.ssd import SSD, measure
from ssd.training.lightning_module import SSDModule
from ssd.training.run_dir import checkpoint_callbacks
from ssd.weights import transfer
from ssd.weights.checkpoint import AtomicCheckpointIO

_NOT_OF_READER = ("cache", "balance")


def check_fit(config: DictConfig) -> tuple[PriorSpec, list[Grid]]:
    """Priors, backbone, image size and initial weights, before any data is read; the priors, and their grids.

    Raises:
        ConfigError: they do not fit together.
        CheckpointError: `init_from` does not exist.
    """
    weights, init_from = config.backbone.weights, config.init_from
    if weights is not None and init_from is not None:
        raise ConfigError(f"init_from={init_from} and backbone.weights={weights}: give one of the two")
    if init_from is not None and config.resume is None and not Path(init_from).exists():
        raise CheckpointError(f"init_from={init_from}: no such file")
    shapes = measure(build_backbone(config), image_size=config.image_size)
    grids = [shape[1:] for shape in shapes]
    spec = instantiate(config.priors, _convert_="all")
    spec.build(grids, image_size=config.image_size)
    return spec, grids


def build_backbone(config: DictConfig) -> Any:
    """The backbone with fresh weights."""
    arguments = {key: value for key, value in config.backbone.items() if key != "weights"}
    return instantiate(arguments, _convert_="all")


def build_reader(config: DictConfig, *, cached: bool = True) -> Callable[..., Splits]:
    """What reads the dataset, from its cache where it can; two settings in `dataset` are not the reader's."""
    read = instantiate(
        {key: value for key, value in config.dataset.items() if key not in _NOT_OF_READER}, _convert_="all"
    )
    return partial(read_cached, read) if cached and config.dataset.cache else read


def build_datamodule(config: DictConfig) -> DetectionDataModule:
    """The data, not yet fetched or read."""
    download = instantiate(config.download, _convert_="all")
    return DetectionDataModule(
        build_reader(config),
        train_augmentation=instantiate(config.augmentation, _convert_="all"),
        eval_augmentation=Augmentation([SSDWindow.resize(config.image_size)]),
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        seed=config.seed,
        prepare=None if download is None else download.prepare,
        balance=config.dataset.balance,
    )


def has_dataset(config: DictConfig) -> bool:
    """Whether a command that can do without a dataset was given one."""
    return "_target_" in config.dataset


def same_classes(first: Sequence[str], second: Sequence[str]) -> bool:
    return [name.casefold() for name in first] == [name.casefold() for name in second]


def build_model(config: DictConfig, class_names: tuple[str, ...], *, resumes: bool = False) -> SSD:
    """The network; with the initial weights that were asked for, unless those of a stopped run will be loaded.

    Raises:
        CheckpointError: the weights cannot be used.
    """
    backbone = build_backbone(config)
    if config.backbone.weights is not None and not resumes:
        console.log(transfer.load_base(backbone, config.backbone.weights))
    model = SSD(
        backbone, instantiate(config.priors, _convert_="all"), class_names=class_names, image_size=config.image_size
    )
    if config.init_from is not None and not resumes:
        for line in transfer.init_from_weights(model, config.init_from):
            console.log(line)
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
    callbacks += checkpoint_callbacks(
        folder, validates=validates, minutes=config.save_every_minutes, steps=config.save_every_steps
    )
    return instantiate(
        config.trainer,
        _convert_="all",
        precision=runtime.auto_precision() if precision == "auto" else precision,
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
