"""Builds the parts that a composed configuration names. For the entry points only: the library never sees a config."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import LearningRateMonitor

from ssd.common import console, runtime
from ssd.common.errors import CheckpointError, ConfigError, DataError
from ssd.common.untrusted_text import read_yaml
from ssd.data.analysis.prior_coverage import PriorLayout
from ssd.data.augmentation import Augmentation, SSDWindow
from ssd.data.cache import read_cached
from ssd.data.datamodule import DetectionDataModule
from ssd.data.reading.several import read_negatives, read_several
from ssd.data.splits import Splits
from ssd.model.priors import Grid, PriorSpec
from ssd.model.ssd import SSD, measure
from ssd.training.checkpoint_callbacks import AtomicCheckpointIO, checkpoint_callbacks
from ssd.training.lightning_module import SSDModule
from ssd.training.plan import AUTO, FIXED
from ssd.weights import transfer
from ssd.weights.published import PUBLISHED

_NOT_READER_ARGUMENTS = ("cache", "balance", "negatives")


def check_fit(config: DictConfig) -> tuple[PriorSpec, list[Grid]]:
    """Priors, backbone, image size and initial weights, before any data is read; the priors, and their grids.

    Raises:
        ConfigError: they do not fit together.
        CheckpointError: `init_from` does not exist.
    """
    weights, init_from = config.backbone.get("weights"), config.get("init_from")
    if weights not in (None, AUTO) and init_from is not None:
        raise ConfigError(f"init_from={init_from} and backbone.weights={weights}: give one of the two")
    backbone = build_backbone(config)
    if init_from is not None and config.resume is None and not Path(init_from).exists():
        _check_published(init_from, backbone)
    shapes = measure(backbone, image_size=config.image_size)
    grids = [shape[1:] for shape in shapes]
    spec = build_priors(config)
    spec.build(grids, image_size=config.image_size)
    return spec, grids


def _check_published(name: str, backbone: Any) -> None:
    """Checks that weights are published by this name, and for this backbone, before they are downloaded."""
    if name not in PUBLISHED:
        raise CheckpointError(f"init_from={name}: no such file; give a file, or one of {', '.join(PUBLISHED)}")
    needed, own = PUBLISHED[name].backbone, getattr(backbone, "name", type(backbone).__name__)
    if needed != own:
        raise ConfigError(f"init_from={name}: weights of {needed}, not of {own}; choose backbone={needed}")


def prior_layout(config: DictConfig) -> PriorLayout:
    """The priors on the grids of the backbone, and the IoU from which they match."""
    spec, grids = check_fit(config)
    threshold = config.loss.get("match_threshold", 0.5)
    return PriorLayout(spec, grids, image_size=config.image_size, match_threshold=threshold)


def default_image_size(config: DictConfig) -> int:
    """That of the backbone."""
    with torch.device("meta"):  # its constants are needed, not its weights
        return int(build_backbone(config).default_image_size)


def build_backbone(config: DictConfig) -> Any:
    """The backbone with fresh weights; what is `auto` has the constructor's default."""
    settings = {name: value for name, value in _without(config.backbone, "weights").items() if value != AUTO}
    return instantiate(settings, _convert_="all")


def fill_auto(config: DictConfig) -> None:
    """Replaces each `auto` by a fixed value: image size and priors of the backbone, the settings of FIXED, no weights.

    Values from `priors.file` take precedence.

    Raises:
        ConfigError: the file cannot be read, or has a key that is not an argument of PriorSpec.
    """
    for setting, value in FIXED.items():
        if OmegaConf.select(config, setting) == AUTO:
            OmegaConf.update(config, setting, value)
    if config.backbone.get("weights") == AUTO:
        config.backbone.weights = None
    if config.get("steps") == AUTO and config.epochs is None and config.trainer.max_epochs is None:
        config.epochs = FIXED["epochs"]
    with torch.device("meta"):  # its constants are needed, not its weights
        backbone = build_backbone(config)
    if config.image_size == AUTO:
        config.image_size = backbone.default_image_size
    given = {} if config.priors.file is None else _read_priors(config.priors.file)
    for name, value in (backbone.default_priors.as_dict() | given).items():
        if name in given or config.priors[name] == AUTO:
            config.priors[name] = value


def _read_priors(path: str) -> dict[str, Any]:
    try:
        priors = read_yaml(path)
    except DataError as error:
        raise ConfigError(f"priors.file={path}: cannot be read: {error}; give a file of ssd inspect") from error
    known = [field.name for field in fields(PriorSpec)]
    if not isinstance(priors, dict) or not priors.keys() <= set(known):
        raise ConfigError(f"priors.file={path}: its keys must be among {', '.join(known)}")
    return priors


def build_priors(config: DictConfig) -> PriorSpec:
    """The specification of the priors."""
    return instantiate(_without(config.priors, "file"), _convert_="all")


def _without(node: DictConfig, *names: str) -> dict[str, Any]:
    return {str(key): value for key, value in node.items() if key not in names}


def build_reader(config: DictConfig, *, cached: bool = True) -> Callable[..., Splits]:
    """The dataset reader; it uses the cache unless `cached` is false.

    Raises:
        ConfigError: there is no dataset.
    """
    if not has_dataset(config):
        raise ConfigError(
            "dataset is missing: give dataset=voc dataset.root=DIR, or another option of the group dataset"
        )
    roots = dataset_roots(config)
    settings = _without(config.dataset, *_NOT_READER_ARGUMENTS)

    def reader(read: partial[Splits]) -> Callable[..., Splits]:
        return partial(read_cached, read) if cached and config.dataset.cache else read

    negatives = _as_list(config.dataset.get("negatives"))
    if len(roots) + len(negatives) <= 1:
        return reader(instantiate(settings | ({"root": roots[0]} if roots else {}), _convert_="all"))
    readers = {root: reader(instantiate(settings | {"root": root}, _convert_="all")) for root in roots}
    readers |= {folder: reader(partial(read_negatives, root=folder)) for folder in negatives}
    return partial(read_several, readers, sort_classes=settings["classes"] is None)


def dataset_roots(config: DictConfig) -> list[str]:
    """The folders of the dataset; none for the built-in shapes."""
    return _as_list(config.dataset.get("root"))


def _as_list(value: Any) -> list[str]:
    """The strings of a setting that takes one or several."""
    return [value] if isinstance(value, str) else [str(item) for item in value or ()]


def build_download(config: DictConfig) -> Any:
    """The downloader of the dataset; None if there is none, or where the dataset has several roots."""
    return instantiate(config.download, _convert_="all") if isinstance(config.dataset.get("root"), str) else None


def read_dataset(config: DictConfig) -> Splits:
    """The splits, downloaded first if they are missing."""
    download, read = build_download(config), build_reader(config)
    if download is not None:
        download.prepare()
    return read()


def build_datamodule(config: DictConfig, splits: Splits | None = None) -> DetectionDataModule:
    """The LightningDataModule, of a dataset that was read or of one that is not downloaded or read yet."""
    download = build_download(config)
    return DetectionDataModule(
        build_reader(config) if splits is None else lambda: splits,
        train_augmentation=instantiate(config.augmentation, _convert_="all"),
        batches_per_epoch=steps_between_validations(config),
        eval_augmentation=Augmentation([SSDWindow.resize(config.image_size)]),
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        seed=config.seed,
        prepare=None if download is None or splits is not None else download.prepare,
        strict=config.dataset.get("strict", False),
        balance=config.dataset.balance,
    )


def has_dataset(config: DictConfig) -> bool:
    """Whether a command that can do without a dataset was given one."""
    return "_target_" in config.dataset


def build_model(config: DictConfig, class_names: tuple[str, ...], *, resumes: bool = False) -> SSD:
    """The network; with initial weights, unless those of a resumed run will be loaded.

    Raises:
        CheckpointError: the weights cannot be used.
    """
    backbone = build_backbone(config)
    if config.backbone.get("weights") is not None and not resumes:
        console.log(transfer.load_base(backbone, config.backbone.weights))
    model = SSD(backbone, build_priors(config), class_names=class_names, image_size=config.image_size)
    if config.init_from is not None and not resumes:
        for line in transfer.init_from(model, config.init_from):
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


def steps_between_validations(config: DictConfig) -> int | None:
    """Of a run whose length is a number of steps; None for a pass over the images."""
    return None if config.steps == AUTO else math.ceil(config.steps / config.validations)


def _length(config: DictConfig) -> dict[str, int]:
    """The Trainer's limits, of which the tighter one counts."""
    epochs, steps = config.trainer.max_epochs, config.trainer.max_steps
    if (between := steps_between_validations(config)) is not None:
        steps = config.steps if steps == -1 else min(steps, config.steps)
        return {"max_epochs": math.ceil(config.steps / between) if epochs is None else epochs, "max_steps": steps}
    return {"max_epochs": config.epochs if epochs is None else epochs, "max_steps": steps}


def build_trainer(config: DictConfig, folder: Path, *, validates: bool, first_step: int | None = None) -> pl.Trainer:
    """Lightning's Trainer with our checkpoints; a run that is resumed at `first_step` logs nothing twice."""
    precision = config.trainer.precision
    without_validation = {} if validates else {"limit_val_batches": 0}
    loggers = [build_logger(logger, first_step) for logger in (config.get("logger") or {}).values()]
    callbacks = [instantiate(callback) for callback in (config.get("callbacks") or {}).values()]
    callbacks = [item for item in callbacks if loggers or not isinstance(item, LearningRateMonitor)]  # it needs one
    callbacks += checkpoint_callbacks(
        folder, validates=validates, minutes=config.save_every_minutes, steps=config.save_every_steps
    )
    return instantiate(
        config.trainer,
        _convert_="all",
        precision=runtime.auto_precision() if precision == "auto" else precision,
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(folder),
        **_length(config),
        use_distributed_sampler=False,
        enable_model_summary=False,
        **without_validation,
    )


def build_logger(config: DictConfig, first_step: int | None) -> Any:
    """A logger; one whose YAML has `purge_step` drops what was logged from `first_step` on, which a resume repeats."""
    return instantiate(config, **({"purge_step": first_step} if "purge_step" in config else {}))
