"""Trains a detector: ssd train [GROUP=OPTION] [KEY=VALUE] ...; see --help."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ssd.cli import build
from ssd.common import console, runtime
from ssd.data.datamodule import DetectionDataModule
from ssd.data.splits import describe_data
from ssd.training import run_metadata, summary
from ssd.training.checkpoint_callbacks import best_score
from ssd.training.resume import check_classes
from ssd.training.run_dir import best_checkpoint, prepare
from ssd.weights import checkpoint


def train(config: DictConfig) -> float | None:
    """Trains and tests one run (one job of a sweep); returns the objective."""
    runtime.keep_freed_memory()
    runtime.quiet_libraries()
    build.fill_auto(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    resumed = prepare(folder, config)
    pl.seed_everything(config.seed, workers=True, verbose=False)

    build.check_fit(config)
    datamodule = build.build_datamodule(config)
    datamodule.prepare_data()
    for line in describe_data(datamodule.splits, balance=config.dataset.balance):
        console.log(line)
    datamodule.splits.check_trainable()
    model = build.build_model(config, datamodule.class_names, resumes=resumed is not None)
    if resumed is not None:
        check_classes(resumed, model)
    module = build.build_module(config, model)
    trainer = build.build_trainer(
        config, folder, validates=datamodule.splits.val is not None, first_step=resumed.step if resumed else None
    )

    run_metadata.log_start(trainer, config, datamodule.splits, step=resumed.step if resumed else 0)
    trainer.fit(module, datamodule, ckpt_path=resumed.checkpoint if resumed else None)
    return finish(config, trainer, datamodule, folder)


def finish(config: DictConfig, trainer: pl.Trainer, datamodule: DetectionDataModule, folder: Path) -> float | None:
    """Writes the release file from the best weights, tests them, and prints the results."""
    best = best_checkpoint(folder)
    model = checkpoint.load(best)
    if trainer.is_global_zero:
        checkpoint.save_release(model, folder / "model.safetensors")
    scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    objective = best_score(trainer) if config.objective == "val/map" else scores.get(config.objective)
    test: dict[str, float] = {}
    if datamodule.splits.test is not None:
        module = build.build_module(config, model)
        test = dict(trainer.test(module, datamodule, verbose=False)[0])
    summary.log_results(test or scores, model.class_names, stage="test" if test else "val")
    summary.log_files(folder, best)
    run_metadata.log_end(trainer, config, best=best_score(trainer))
    return objective
