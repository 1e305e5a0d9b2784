"""The folder of a run: claimed once, resumed on request, never overwritten."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

import pytorch_lightning as pl
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from ssd.common import slurm
from ssd.common.atomic_files import sweep, write_atomically
from ssd.common.console import log
from ssd.common.errors import CheckpointError, ConfigError
from ssd.common.runtime import is_first_process
from ssd.model.ssd import SSD
from ssd.training import ema
from ssd.training.resume import RecoveryPoint
from ssd.weights import checkpoint

OVERRIDES_FILE = ".hydra/overrides.yaml"  # in a run's folder


LAST = Path("checkpoints/last.ckpt")  # in a run's folder
_CONFIG = ".hydra/config.yaml"
_locks: list[FileLock] = []
_FIXED = ("backbone", "seed", "image_size", "priors", "dataset.classes", "optimizer._target_", "module.freeze")
_FREE = ("resume", "backbone.weights", "logger")  # paths, which may lie elsewhere by now
_PARTS = ("recipe", "state_dict", "optimizer_states", "lr_schedulers", "loops")
_LONGEST = 60  # letters of a value


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a run goes on from: the recovery point, its optimizer steps, and its classes."""

    checkpoint: Path
    step: int
    class_names: tuple[str, ...]


def claim(folder: Path, config: DictConfig) -> Resumed | None:
    """Takes a run's folder for this process, and writes the resolved configuration into it.

    On resume, says what differs from the saved one; the folder of a run that was stopped before its first recovery
    point starts at step 0.

    Raises:
        ConfigError: the folder holds a run and this is no resume, another process is training in it, or a resume
            changes what cannot change.
        CheckpointError: the recovery point is damaged.
        MachineError: nothing can be written there.
    """
    if is_first_process():
        _take(folder, config)
    resumed = _recovery_point(folder, config)
    if is_first_process():  # only now: a resume that is refused leaves the saved configuration as it was
        _remember(folder, config)
    return resumed


def _recovery_point(folder: Path, config: DictConfig) -> Resumed | None:
    last = folder / LAST
    if config.resume is None or not last.exists():
        return None
    content = checkpoint.safe_load(last)
    whole = isinstance(content, dict) and all(content.get(part) for part in _PARTS) and "callbacks" in content
    if not whole or not all(isinstance(content.get(count), int) for count in ("epoch", "global_step")):
        raise CheckpointError(f"{last}: no recovery point of this program, or a part is missing; resume another run")
    model = checkpoint.restore(content["recipe"], checkpoint.strip_prefix(content["state_dict"]), name=str(last))
    if ema.RAW in content:
        checkpoint.fill(model, checkpoint.strip_prefix(content[ema.RAW]), name=f"{last}: {ema.RAW}")
    checkpoint.check_finite(_optimizer_tensors(content["optimizer_states"]), name=f"{last}: optimizer")
    if content["epoch"] > config.epochs:
        raise ConfigError(f"epochs={config.epochs}: the run has ended {content['epoch']} epochs already; give more")
    return Resumed(last, content["global_step"], model.class_names)


def _optimizer_tensors(states: list[dict[str, Any]]) -> dict[str, Tensor]:
    try:
        return {
            f"{name} of parameter {number}": value
            for state in states
            for number, values in state["state"].items()
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"optimizer_states: not those of an optimizer: {error!r}; resume another run") from error


def _take(folder: Path, config: DictConfig) -> None:
    if config.resume is None:
        if (folder / OVERRIDES_FILE).exists() or any((folder / "checkpoints").glob("*.ckpt")):
            raise ConfigError(f"{folder} holds a run; choose another hydra.run.dir, or go on with resume={folder}")
    else:
        _compare(OmegaConf.to_container(OmegaConf.load(folder / _CONFIG)), OmegaConf.to_container(config, resolve=True))
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    _lock(folder)
    for part in (folder, folder / "checkpoints", folder / ".hydra"):
        sweep(part)


def _remember(folder: Path, config: DictConfig) -> None:
    resolved = OmegaConf.to_container(config, resolve=True)
    overrides = [item for item in HydraConfig.get().overrides.task if not item.startswith("resume=")]
    for name, content in ((_CONFIG, resolved), (OVERRIDES_FILE, overrides)):
        write_atomically(folder / name, partial(OmegaConf.save, OmegaConf.create(content)))
    slurm.save_run_dir(folder)


def _lock(folder: Path) -> None:
    """Held until this process ends, however it ends."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"{folder}: another process is training here; wait for it, or stop it") from error
    _locks.append(lock)


def check_classes(resumed: Resumed, model: SSD) -> None:
    """The data of a resumed run must still have the classes that the checkpoint knows.

    Raises:
        ConfigError: the class lists differ.
    """
    if resumed.class_names != model.class_names:
        raise ConfigError(
            f"resume: the run has classes {list(resumed.class_names)}, the data {list(model.class_names)}"
        )


class BestCheckpoint(ModelCheckpoint):
    """best.ckpt by val/map. A run may be resumed from another place, or without the file."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        here = Path(self.dirpath or "")
        paths = {
            name: str(here / Path(path).name) if path else ""
            for name, path in state_dict.items()
            if name.endswith("_model_path")
        }
        if not Path(paths["best_model_path"]).is_file():
            return
        scores = {str(here / Path(path).name): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | paths | {"dirpath": self.dirpath, "best_k_models": scores})


def checkpoint_callbacks(folder: Path, *, validates: bool, minutes: float | None, steps: int | None) -> list[Callback]:
    """best.ckpt by val/map, and last.ckpt as the recovery point: after each epoch, and at the intervals."""
    best = BestCheckpoint(
        dirpath=folder / "checkpoints",
        filename="best",
        monitor="val/map",
        mode="max",
        auto_insert_metric_name=False,
        enable_version_counter=False,
    )
    return [*([best] if validates else []), RecoveryPoint(folder / LAST, minutes=minutes, steps=steps)]


def best_checkpoint(folder: Path) -> Path:
    """best.ckpt, or last.ckpt of a run without validation."""
    best = folder / "checkpoints" / "best.ckpt"
    return best if best.exists() else folder / LAST


def best_score(trainer: pl.Trainer) -> float | None:
    """The best val/map of the run."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_score is not None:
            return float(callback.best_model_score)
    return None


def _compare(saved: Any, now: Any) -> None:
    before, after = _flat(saved), _flat(now)
    changes = {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(_FREE)
    }
    texts = {key: tuple(shorten(str(value), _LONGEST) for value in values) for key, values in changes.items()}
    for fixed in _FIXED:
        for key, (old, new) in texts.items():
            if key.startswith(fixed):
                raise ConfigError(f"resume: {key} was {old} and cannot become {new}; start a new run")
    for key, (old, new) in texts.items():
        log(f"changed on resume: {key}: {old} -> {new}")


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(node, list) and any(isinstance(child, dict) for child in node):
        node = {str(number): child for number, child in enumerate(node)}
    if not isinstance(node, dict):
        return {prefix.rstrip("."): node}
    return {name: value for key, child in node.items() for name, value in _flat(child, f"{prefix}{key}.").items()}
