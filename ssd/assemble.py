"""Builds the parts that a composed configuration names. For the entry points only: the library never sees a config."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

from ssd import pretrained, results, runs, runtime
from ssd.checkpoint import AtomicCheckpointIO
from ssd.data.augmentation import Augmentation, SSDWindow
from ssd.data.datamodule import DetectionDataModule
from ssd.data.index import DetectionIndex
from ssd.errors import ConfigError
from ssd.model import SSD, measure
from ssd.module import SSDModule
from ssd.structures import Batch


def check_fit(config: DictConfig) -> None:
    """Priors, backbone and image size, before any data is read.

    Raises:
        ConfigError: they do not fit together.
    """
    shapes = measure(build_backbone(config), image_size=config.image_size)
    instantiate(config.priors).build([shape[1:] for shape in shapes], image_size=config.image_size)


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


def build_evaluation(model: SSD, config: DictConfig) -> tuple[DetectionIndex, Iterable[Batch]]:
    """What a trained network can be calibrated on, and the batches of config.split, at its size and with its classes.

    Raises:
        ConfigError: no dataset, none of its classes in it, or no such split.
    """
    if config.dataset is None:
        raise ConfigError("dataset is missing: give dataset=voc dataset.root=DIR, or another of conf/dataset")
    config = deepcopy(config)
    config.image_size = model.image_size
    if "classes" in config.dataset:
        config.dataset.classes = config.dataset.classes or list(model.class_names)
    datamodule = build_datamodule(config)
    datamodule.prepare_data()
    splits = dict(datamodule.splits.named())
    if datamodule.class_names != model.class_names or not any(len(index.boxes) for index in splits.values()):
        raise ConfigError(
            f"dataset: has no objects of the checkpoint's classes ({', '.join(model.class_names)}), or others, or "
            "another order; give dataset.classes=[...] as in the checkpoint"
        )
    loaders = {"val": datamodule.val_dataloader, "test": datamodule.test_dataloader}
    if config.split not in loaders or config.split not in splits:
        raise ConfigError(f"split={config.split}: give split=val or split=test, one that the dataset has")
    return splits.get("train", splits[config.split]), loaders[config.split]()


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


def build_trainer(config: DictConfig, folder: Path, *, validates: bool) -> pl.Trainer:
    """Lightning's Trainer with our checkpoints."""
    precision = config.trainer.precision
    without_validation = {} if validates else {"limit_val_batches": 0}
    callbacks = [instantiate(callback) for callback in config.callbacks.values()]
    callbacks += runs.checkpoint_callbacks(folder, validates=validates, minutes=config.save_every_minutes)
    return instantiate(
        config.trainer,
        _convert_="all",
        precision=runtime.quick_precision() if precision == "auto" else precision,
        callbacks=callbacks,
        logger=[instantiate(logger) for logger in config.logger.values()],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(folder),
        use_distributed_sampler=False,
        enable_model_summary=False,
        **without_validation,
    )
