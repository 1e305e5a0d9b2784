"""Trains a detector: ssd train [GROUP=OPTION] [KEY=VALUE] ...; see --help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ssd.cli import build, check_run, plan_run
from ssd.cli.config import check
from ssd.cli.overrides import key_of
from ssd.common import runtime
from ssd.common.console import for_shell, log, relative_to_cwd
from ssd.common.errors import ConfigError, DataError
from ssd.common.run_folder import MAX_YAML_BYTES
from ssd.common.untrusted_text import read_yaml
from ssd.data.datamodule import DetectionDataModule
from ssd.data.index import DetectionIndex
from ssd.data.splits import Splits, describe_data, describe_skipped
from ssd.evaluation.evaluator import best_thresholds
from ssd.evaluation.low_map import LOW, LowMap, explain
from ssd.evaluation.report import metric_table
from ssd.inference.predictor import DRAW_THRESHOLD, describe_thresholds
from ssd.inference.torch_predictor import TorchPredictor
from ssd.model.ssd import SSD
from ssd.training import run_metadata
from ssd.training.checkpoint_callbacks import best_score
from ssd.training.resume import check_classes
from ssd.training.run_dir import RunConfig, best_checkpoint, prepare, save_settings, saved_settings
from ssd.weights import checkpoint


def train(config: DictConfig) -> float | None:
    """Trains and tests one run (one job of a sweep); returns the objective."""
    runtime.keep_freed_memory()
    runtime.quiet_libraries()
    plan_run.check_length(config, [key_of(item) for item in HydraConfig.get().overrides.task])
    if config.resume is not None:
        plan_run.inherit(config, saved_settings(Path(config.resume)))
        check(config)  # a stranger's file may hold anything
    run = run_config(config)
    folder, resumed = run.folder, None if config.dry_run else prepare(run)
    pl.seed_everything(config.seed, workers=True, verbose=False)

    check_run.check_trainer(config)
    check_run.check_unplanned(config)
    splits = build.read_dataset(config)
    for line in describe_data(splits, balance=config.dataset.balance):
        log(line)
    splits.check_trainable()
    plan_run.fill(config, splits, None if config.dry_run else folder)
    assert splits.train is not None
    coverage = plan_run.log_coverage(config, splits.train).share
    if config.dry_run:
        plan_run.log_duration(config, splits)
        return None
    run = replace(run, settings=as_plain(config))
    save_settings(run)
    datamodule = build.build_datamodule(config, splits)
    check_run.check_augmentation(config, datamodule.train_augmentation)
    model = build.build_model(config, datamodule.class_names, resumes=resumed is not None)
    if resumed is not None:
        check_classes(resumed, model)
    module = build.build_module(config, model)
    trainer = build.build_trainer(
        config, folder, validates=datamodule.splits.validates, first_step=resumed.step if resumed else None
    )
    check_run.check_metric_names(config, trainer, datamodule.class_names)

    run_metadata.log_start(trainer, run, datamodule.splits, step=resumed.step if resumed else 0)
    trainer.fit(module, datamodule, ckpt_path=resumed.checkpoint if resumed else None)
    return _finish(config, trainer, datamodule, folder, coverage=coverage)


def run_config(config: DictConfig) -> RunConfig:
    """What Hydra knows of this run or job of a sweep."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    overrides = tuple(item for item in hydra.overrides.task if not item.startswith("resume="))
    common = _sweep_overrides(folder.parent) or overrides
    last = {item.partition("=")[0]: item for item in common}  # of two values of a key the later one counts
    unchanged = {item.lower() for item in last.values()}  # Hydra passes `false` to a job as False
    return RunConfig(
        folder=folder,
        settings=as_plain(config),
        overrides=overrides,
        options=dict(hydra.runtime.choices),
        swept=frozenset(item.partition("=")[0] for item in overrides if item.lower() not in unchanged),
    )


def _sweep_overrides(folder: Path) -> list[str]:
    """The overrides of the sweep in `folder`; none if no sweep is there."""
    path = folder / "multirun.yaml"
    node = read_yaml(path, max_bytes=MAX_YAML_BYTES) if path.exists() else None
    for name in ("hydra", "overrides", "task"):
        node = node.get(name) if isinstance(node, dict) else None
    return [str(item) for item in node] if isinstance(node, list) else []


def as_plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, resolved."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return dict(plain)


def _finish(
    config: DictConfig, trainer: pl.Trainer, datamodule: DetectionDataModule, folder: Path, *, coverage: float
) -> float | None:
    """Writes the release file from the best weights, tests them, and prints the results."""
    best = best_checkpoint(folder)
    if trainer.global_step == 0 and not best.exists():
        raise ConfigError(f"trainer.max_time={config.trainer.max_time}: over before the first step; give more")
    model = checkpoint.load(best)
    if trainer.is_global_zero:
        if datamodule.splits.val is not None and datamodule.splits.validates:
            model.thresholds = _thresholds(config, model, datamodule.splits.val)
        checkpoint.save_release(model, folder / "model.safetensors")
    stage, best_map = "val", best_score(trainer)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    objective = best_score(trainer, config.objective)
    if datamodule.splits.test is not None:
        tested = trainer.test(build.build_module(config, model), datamodule, verbose=False)
        if tested:  # nothing with limit_test_batches=0
            stage, scores = "test", dict(tested[0])
    metrics = {name.removeprefix(f"{stage}/"): score for name, score in scores.items()}
    metric_table(metrics, model.class_names, title=f"{stage} results").log()
    if metrics.get("map_50", 1.0) < LOW and trainer.is_global_zero:
        _log_low_map(config, model, datamodule.splits, stage=stage, steps=trainer.global_step, coverage=coverage)
    for line in describe_skipped(datamodule.splits, datamodule.skipped_images()):
        log(line)
    _log_files(folder, best)
    run_metadata.log_end(trainer, best=best_map)
    return objective


def _thresholds(config: DictConfig, model: SSD, val: DetectionIndex) -> tuple[float, ...] | None:
    """The scores from which boxes are shown, for the release file; None if too many images cannot be read."""
    reading = {"batch_size": config.batch_size, "num_workers": config.num_workers}
    try:
        found = best_thresholds(_predictor(config, model), val, **reading, seed=config.seed)
    except DataError as error:  # a sample may have a larger share of unreadable images than the split, which passed
        log(f"warning: no score thresholds, so predict shows boxes above {DRAW_THRESHOLD}: {error}")
        return None
    log(f"score thresholds of the best F1 on val: {describe_thresholds(model.class_names, found)}")
    return found


def _predictor(config: DictConfig, model: SSD) -> TorchPredictor:
    device = "cpu" if config.trainer.accelerator == "cpu" else "auto"
    return TorchPredictor(model, instantiate(config.postprocess), device=device)


def _log_low_map(config: DictConfig, model: SSD, splits: Splits, *, stage: str, steps: int, coverage: float) -> None:
    """Prints why the detector finds nothing, and what to try."""
    train, unseen = splits.train, dict(splits.items())[stage]
    assert train is not None
    found = LowMap.measure(_predictor(config, model), train, unseen, batch_size=config.batch_size, seed=config.seed)
    lines = explain(
        found,
        stage=stage,
        coverage=coverage,
        steps=steps,
        planned_steps=plan_run.planned_steps(config, train),
        pretrained=plan_run.is_pretrained(config),
    )
    for line in lines:
        log(line)


def _log_files(folder: Path, best: Path) -> None:
    """Prints the files of the run and the commands to run next."""
    shown = relative_to_cwd(folder)
    log(f"saved in {shown}:")
    for name, what in (
        (best.relative_to(folder), f"{best.stem} weights, with the state of the optimizer"),
        ("model.safetensors", "release file: weights and recipe"),
        ("metrics.csv", "all logged metrics"),
        ("tensorboard", "the same as curves, and images"),
        ("train.log", "this output"),
    ):
        log(f"  {name!s:22} {what}")
    log("next:")
    log(f"  python predict.py checkpoint={for_shell(shown / 'model.safetensors')} source=FOLDER output=predictions")
    log(f"  tensorboard --logdir {for_shell(shown.parent)}")
