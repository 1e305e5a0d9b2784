"""The folder of a run: claimed once, resumed on request, never overwritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from ssd import checkpoint
from ssd.command import OVERRIDES_FILE
from ssd.errors import ConfigError
from ssd.model import SSD
from ssd.recovery import RecoveryPoint
from ssd.results import say
from ssd.runtime import is_first_process

LAST = Path("checkpoints/last.ckpt")  # in a run's folder
_CONFIG = ".hydra/config.yaml"
_FIXED = ("seed", "image_size", "priors", "dataset.classes")


def claim(folder: Path, config: DictConfig) -> Path | None:
    """Writes the resolved configuration into a run's folder; on resume, says what differs from the saved one.

    Returns:
        The checkpoint to go on from, on resume.

    Raises:
        ConfigError: the folder holds a run and this is no resume, or a resume changes what cannot change.
    """
    resolved = OmegaConf.to_container(config, resolve=True)
    last = folder / LAST
    resume_from = last if config.resume is not None and last.exists() else None
    if not is_first_process():  # the first process has done the rest
        return resume_from
    if config.resume is None:
        if (folder / _CONFIG).exists() or (folder / "checkpoints").exists():
            raise ConfigError(f"{folder} holds a run; choose another hydra.run.dir, or go on with resume={folder}")
    else:
        _compare(OmegaConf.to_container(OmegaConf.load(folder / _CONFIG)), resolved)
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(resolved), folder / _CONFIG)
    overrides = [item for item in HydraConfig.get().overrides.task if not item.startswith("resume=")]
    OmegaConf.save(OmegaConf.create(overrides), folder / OVERRIDES_FILE)
    return resume_from


def check_resume(folder: Path, model: SSD) -> None:
    """The data of a resumed run must still have the classes that the checkpoint knows.

    Raises:
        ConfigError: the class lists differ.
    """
    last = folder / LAST
    if last.exists():
        known = tuple(checkpoint.read(last)[0]["class_names"])
        if known != model.class_names:
            raise ConfigError(f"resume: the run has classes {list(known)}, the data {list(model.class_names)}")


def checkpoint_callbacks(folder: Path, *, validates: bool, minutes: float | None, steps: int | None) -> list[Callback]:
    """best.ckpt by val/map, and last.ckpt as the recovery point: after each epoch, and at the intervals."""
    best = ModelCheckpoint(
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
        if before.get(key) != after.get(key) and key != "resume"
    }
    for key, (old, new) in changes.items():
        if key.startswith(_FIXED):
            raise ConfigError(f"resume: {key} was {old} and cannot become {new}; start a new run")
        say(f"changed on resume: {key}: {old} -> {new}")


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix.rstrip("."): node}
    return {name: value for key, child in node.items() for name, value in _flat(child, f"{prefix}{key}.").items()}
