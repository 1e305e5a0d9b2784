"""A stopped run resumes exactly: losses to the bit, weights, optimizer, averages and sample ids."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import pytorch_lightning as pl
import torch
from composed import CONF
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from ssd.cli import build
from ssd.cli.app import register_resolvers
from ssd.training.checkpoint_callbacks import RecoveryPoint
from ssd.training.run_dir import LAST

pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory",
    "ignore:You're resuming from a checkpoint",
    "ignore:.*could not find the monitored key",  # a run that ends before its first validation
)

TINY = [
    "backbone=mobilenet_v1",
    "backbone.width_multiplier=0.1",
    "image_size=96",
    "dataset.train=20",
    "dataset.val=4",
    "dataset.test=0",
    "batch_size=4",
    "epochs=3",
    "num_workers=0",
    "augmentation=ssd",
    "postprocess.topk_candidates=50",
    "~logger.tensorboard",
    "~logger.csv",
    "~callbacks.learning_rate",
    "~callbacks.progress",
]
CASES = {
    "plain": [],
    "workers": ["num_workers=2"],
    "accumulation": ["trainer.accumulate_grad_batches=3"],  # 5 batches: the last step of an epoch takes two
    "validation in the middle": ["trainer.val_check_interval=2"],
    "validation every second epoch": ["trainer.check_val_every_n_epoch=2"],
    "no validation": ["dataset.val=0"],
    "both": ["trainer.accumulate_grad_batches=2", "trainer.val_check_interval=2"],
}


class Recorder(pl.Callback):
    """Loss (as hex), sample ids and optimizer settings of every batch; step and loss of every validation."""

    def __init__(self) -> None:
        self.settings: list[list[dict[str, Any]]] = []
        self.batches: list[tuple[int, str, tuple[str, ...]]] = []
        self.validations: list[tuple[int, str]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        groups = trainer.optimizers[0].param_groups
        self.settings.append([{name: value for name, value in group.items() if name != "params"} for group in groups])

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        index = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        self.batches.append((index, float(outputs["loss"]).hex(), batch.ids))

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.validations.append((trainer.global_step, float(trainer.callback_metrics["val/loss"]).hex()))


class SaveAll(RecoveryPoint):
    """A recovery point at every step, each in a file of its own, with the batches and validations done before it."""

    def __init__(self, folder: Path, recorder: Recorder) -> None:
        super().__init__(folder, minutes=None, steps=1)
        self.folder = folder
        self.recorder = recorder
        self.points: list[tuple[Path, int, int]] = []

    def _save(self, trainer: pl.Trainer) -> None:
        self.path = self.folder / f"{len(self.points):03}.ckpt"
        self.points.append((self.path, len(self.recorder.batches), len(self.recorder.validations)))
        super()._save(trainer)


@pytest.fixture(autouse=True)
def _clean_hydra() -> Any:
    register_resolvers()
    yield
    GlobalHydra.instance().clear()


def compose(*overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", overrides=[*TINY, *overrides])
    build.fill_auto(config)
    return config


def fit(
    config: DictConfig,
    folder: Path,
    *,
    resume_from: Path | None = None,
    save_all: bool = False,
    stop: pl.Callback | None = None,
) -> tuple[Recorder, dict[str, Any], list[tuple[Path, int, int]]]:
    """The recorded batches, the state at the end, and the recovery points."""
    folder.mkdir(exist_ok=True)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    datamodule = build.build_datamodule(config)
    module = build.build_module(config, build.build_model(config, datamodule.class_names))
    trainer = build.build_trainer(config, folder, validates=datamodule.splits.val is not None)
    recorder = Recorder()
    trainer.callbacks.insert(0, recorder)
    if stop is not None:
        trainer.callbacks.insert(1, stop)
    saving = SaveAll(folder, recorder)
    if save_all:
        trainer.callbacks[-1] = saving
    trainer.fit(module, datamodule, ckpt_path=resume_from)
    trainer.save_checkpoint(folder / "end.ckpt")
    return recorder, torch.load(folder / "end.ckpt", weights_only=True), saving.points


def differing(first: Any, second: Any, where: str = "") -> list[str]:
    """The paths at which two states differ in any bit."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [where]
    if isinstance(first, dict):
        keys = first.keys() | second.keys()
        return [place for key in keys for place in differing(first.get(key), second.get(key), f"{where}/{key}")]
    if isinstance(first, list | tuple):
        return [
            place
            for i, pair in enumerate(zip(first, second, strict=True))
            for place in differing(*pair, f"{where}/{i}")
        ]
    return [] if first == second else [f"{where}: {first} {second}"]


PARTS = ("state_dict", "raw_state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "rng")


def parts(state: dict[str, Any]) -> dict[str, Any]:
    logged = state["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
    return {"logged": logged, **{key: state.get(key) for key in PARTS}}


Whole = Callable[..., tuple[Recorder, dict[str, Any]]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Runs that never stop, one for each list of settings: the recorded batches and the state at the end."""

    @functools.cache
    def run(*settings: str) -> tuple[Recorder, dict[str, Any]]:
        recorder, end, _ = fit(compose(*settings), tmp_path_factory.mktemp("whole"))
        return recorder, end

    return run


def check(case: str, folder: Path, uninterrupted: Whole, *, every: int) -> None:
    config = compose(*CASES[case])
    whole, end = uninterrupted(*CASES[case])
    saving, saved_end, points = fit(config, folder / "saving", save_all=True)
    assert saving.batches == whole.batches  # saving does not change the training
    assert differing(parts(end), parts(saved_end)) == []
    assert len(points) >= 6
    for point, batches, validations in points[::every]:
        resumed, resumed_end, _ = fit(config, folder / "saving", resume_from=point)
        assert resumed.batches == whole.batches[batches:], point
        assert resumed.validations == whole.validations[validations:], point
        assert differing(parts(end), parts(resumed_end)) == [], point


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_equals_one_that_never_stopped(case: str, tmp_path: Path, uninterrupted: Whole) -> None:
    check(case, tmp_path, uninterrupted, every=6)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", CASES)
def test_from_every_step(case: str, tmp_path: Path, uninterrupted: Whole) -> None:
    check(case, tmp_path, uninterrupted, every=1)


class StopAt(pl.Callback):
    """Stops after a step, as Lightning's Timer does, or after a validation, as EarlyStopping does."""

    def __init__(self, step: int, *, validation: bool = False) -> None:
        self.step, self.validation = step, validation

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and not self.validation:
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= self.step and self.validation:
            trainer.should_stop = True


CONSTANT_LR = ["scheduler=multistep", "scheduler.gamma=1", "scheduler.warmup=0"]  # does not depend on max_steps


@pytest.mark.parametrize(
    ("settings", "stop", "limit", "steps"),
    [
        ([], StopAt(3), [], 3),
        (["num_workers=2"], StopAt(7), [], 7),
        ([], StopAt(5), [], 5),  # at the end of an epoch
        (["trainer.val_check_interval=2"], StopAt(3), [], 3),
        (["trainer.val_check_interval=2"], StopAt(4, validation=True), [], 4),
        ([], StopAt(5, validation=True), [], 5),
        (CONSTANT_LR, None, ["trainer.max_steps=3"], 3),
        (CONSTANT_LR, None, ["trainer.max_steps=10"], 10),
    ],
    ids=[
        *("max_time", "with workers", "at the end of an epoch", "between validations", "early stop within an epoch"),
        *("early stop", "max_steps", "max_steps at the end of an epoch"),
    ],
)
def test_a_run_that_ended_early_resumes_exactly(
    settings: list[str],
    stop: pl.Callback | None,
    limit: list[str],
    steps: int,
    tmp_path: Path,
    uninterrupted: Whole,
) -> None:
    whole, end = uninterrupted(*settings)
    ended, _, _ = fit(compose(*settings, *limit), tmp_path / "run", stop=stop)
    assert ended.batches == whole.batches[:steps]
    resumed, resumed_end, _ = fit(compose(*settings), tmp_path / "run", resume_from=tmp_path / "run" / LAST)
    assert resumed.batches == whole.batches[steps:]
    assert differing(parts(end), parts(resumed_end)) == []


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_settings_changed_on_resume_take_effect(optimizer: str, tmp_path: Path) -> None:
    """From then on they equal those of a run that had them from the start."""
    before = [f"optimizer={optimizer}", "optimizer.lr=1e-3"]
    changes = ["epochs=5", "optimizer.lr=4e-3", "optimizer.weight_decay=0.3", "module.base_lr_multiplier=0.1"]
    changes += ["optimizer.betas=[0.8,0.99]"] if optimizer == "adamw" else ["optimizer.momentum=0.8"]
    _, _, points = fit(compose(*before), tmp_path / "run", save_all=True)
    expected, _, _ = fit(compose(*before, *changes), tmp_path / "other")
    point, batches, _ = points[7]
    resumed, _, _ = fit(compose(*before, *changes), tmp_path / "run", resume_from=point)
    assert 5 < batches < 13
    for seen, wanted in zip(resumed.settings, expected.settings[batches:], strict=True):
        for group, other in zip(seen, wanted, strict=True):
            assert group | {"lr": 0} == other | {"lr": 0}
            assert group["lr"] == pytest.approx(other["lr"], rel=1e-12)
    assert {group["initial_lr"] for group in resumed.settings[0]} == {4e-3, 4e-4}
