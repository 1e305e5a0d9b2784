"""Trains a detector: python train.py [GROUP=OPTION] [KEY=VALUE] ...; see --help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssd.command import run

if TYPE_CHECKING:
    from pathlib import Path

    import pytorch_lightning as pl
    from omegaconf import DictConfig

    from ssd.data.datamodule import DetectionDataModule
    from ssd.model import SSD


def train(config: DictConfig) -> float | None:
    """One run (one job of a sweep); returns the objective."""
    from pathlib import Path

    import pytorch_lightning as pl
    from hydra.core.hydra_config import HydraConfig

    from ssd import results, runs, runtime

    runtime.keep_freed_memory()
    runtime.quiet_libraries()
    folder = Path(HydraConfig.get().runtime.output_dir)
    resume_from = runs.claim(folder, config)
    pl.seed_everything(config.seed, workers=True, verbose=False)

    check_fit(config)
    datamodule = build_datamodule(config)
    datamodule.prepare_data()
    for line in results.describe_data(datamodule.splits):
        results.say(line)
    model = build_model(config, datamodule.class_names)
    runs.check_resume(folder, model)
    module = build_module(config, model)
    trainer = build_trainer(config, folder, validates=datamodule.splits.val is not None)

    trainer.fit(module, datamodule, ckpt_path=resume_from)
    return finish(config, trainer, datamodule, folder)


def check_fit(config: DictConfig) -> None:
    """Priors, backbone and image size, before any data is read."""
    from hydra.utils import instantiate

    from ssd.model import measure

    shapes = measure(build_backbone(config), image_size=config.image_size)
    instantiate(config.priors).build([shape[1:] for shape in shapes], image_size=config.image_size)


def build_backbone(config: DictConfig) -> Any:
    """The backbone with fresh weights."""
    from hydra.utils import instantiate

    arguments = {key: value for key, value in config.backbone.items() if key != "weights"}
    return instantiate(arguments, _convert_="all")


def build_datamodule(config: DictConfig) -> DetectionDataModule:
    """The data, not yet read."""
    from hydra.utils import instantiate

    from ssd.data.augmentation import Augmentation, SSDWindow
    from ssd.data.datamodule import DetectionDataModule

    resize = Augmentation([SSDWindow.resize(config.image_size)])
    return DetectionDataModule(
        instantiate(config.dataset, _convert_="all"),
        train_augmentation=instantiate(config.augmentation, _convert_="all"),
        eval_augmentation=resize,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        seed=config.seed,
    )


def build_model(config: DictConfig, class_names: tuple[str, ...]) -> SSD:
    """The network with the initial weights that were asked for."""
    from hydra.utils import instantiate

    from ssd import pretrained, results
    from ssd.model import SSD

    backbone = build_backbone(config)
    if config.backbone.weights is not None:
        results.say(pretrained.load_base(backbone, config.backbone.weights))
    model = SSD(
        backbone, instantiate(config.priors, _convert_="all"), class_names=class_names, image_size=config.image_size
    )
    model.freeze(config.module.freeze)
    return model


def build_module(config: DictConfig, model: SSD) -> pl.LightningModule:
    """The LightningModule around the network."""
    from hydra.utils import instantiate

    from ssd.module import SSDModule

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
    from hydra.utils import instantiate

    from ssd import runs, runtime
    from ssd.checkpoint import AtomicCheckpointIO

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


def finish(config: DictConfig, trainer: pl.Trainer, datamodule: DetectionDataModule, folder: Path) -> float | None:
    """Writes the release file from the best weights, tests them, and says what came out."""
    from ssd import checkpoint, results, runs

    best = runs.best_checkpoint(folder)
    model = checkpoint.load(best)
    if trainer.is_global_zero:
        checkpoint.save_release(model, folder / "model.safetensors")
    scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    objective = runs.best_score(trainer) if config.objective == "val/map" else scores.get(config.objective)
    test: dict[str, float] = {}
    if datamodule.splits.test is not None:
        module = build_module(config, model)
        test = dict(trainer.test(module, datamodule, verbose=False)[0])
    results.show(test or scores, model.class_names, stage="test" if test else "val")
    results.show_files(folder, best)
    results.log_hyperparameters(trainer, config, {"best/map": objective, **test})
    return objective


if __name__ == "__main__":
    run(train, config_name="train")
