"""Checks of a resume: the recovery point, the classes, and the settings that changed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any

from pytorch_lightning.callbacks import Timer
from torch import Tensor

from ssd.common.console import log
from ssd.common.errors import CheckpointError, ConfigError
from ssd.common.saved_config import RENAMED_TARGETS, current_key
from ssd.common.text import one_line
from ssd.model.ssd import SSD
from ssd.training.ema import RAW_STATE_DICT
from ssd.weights import checkpoint
from ssd.weights.safe_load import safe_load

_FIXED = ("backbone", "seed", "image_size", "priors", "dataset.classes", "optimizer._target_", "module.freeze")
_FREE = ("resume", "backbone.weights", "logger", "download.archives", "download.mirrors")  # paths and addresses
_NEW = (  # older runs had no such settings
    "callbacks.loss_watch",
    *("dataset.val_share", "dataset.test_share", "dataset.seed"),
    *("plan", "dry_run", "budget_minutes", "steps", "validations", "backbone.first_stride"),
)
_PARTS = {"recipe": dict, "state_dict": dict, "optimizer_states": list, "lr_schedulers": list, "loops": dict}
_MAX_COUNT = 2**53
_MAX_VALUE_LENGTH = 60
_MAX_CHANGES = 200  # lines
_SHELL = re.compile("[`$;&|<>]")


@dataclass(frozen=True, slots=True)
class RecoveryState:
    """Where a resumed run starts: the checkpoint file, its number of optimizer steps, and its classes."""

    checkpoint: Path
    step: int
    class_names: tuple[str, ...]


def read_recovery_point(
    path: Path, *, epochs: int | None = None, steps: int | None = None, max_time: Any = None
) -> RecoveryState:
    """Reads and checks a recovery point before anything is built from it.

    Raises:
        CheckpointError: the file is damaged, or not a recovery point.
        ConfigError: the run has completed more than `epochs` or `steps`, or trained for `max_time`.
    """
    content = safe_load(path)
    _check_parts(content, path)
    model = checkpoint.restore(content["recipe"], checkpoint.strip_prefix(content["state_dict"]), name=str(path))
    if RAW_STATE_DICT in content:
        if not isinstance(content[RAW_STATE_DICT], dict):
            raise CheckpointError(f"{path}: {RAW_STATE_DICT}: not a table of weights; resume another run")
        raw = checkpoint.strip_prefix(content[RAW_STATE_DICT])
        checkpoint.load_strict(model, raw, name=f"{path}: {RAW_STATE_DICT}")
    checkpoint.check_finite(_optimizer_tensors(content["optimizer_states"]), name=f"{path}: optimizer")
    for name, limit, done in (("epochs", epochs, content["epoch"]), ("steps", steps, content["global_step"])):
        if isinstance(limit, int) and done > limit:
            raise ConfigError(f"{name}={limit}: the run has completed {done} {name}; set a larger number")
    _check_time(content["callbacks"], max_time)
    return RecoveryState(path, content["global_step"], model.class_names)


def _check_parts(content: Any, path: Path) -> None:
    """Checks that everything is there that Lightning needs to resume."""
    complete = (
        isinstance(content, dict)
        and all(isinstance(content.get(part), kind) and content[part] for part, kind in _PARTS.items())
        and isinstance(content.get("callbacks"), dict)
    )
    if not complete or not all(_is_count(content.get(count)) for count in ("epoch", "global_step")):
        raise CheckpointError(f"{path}: not a recovery point of this program, or a part is missing; resume another run")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < _MAX_COUNT


def _check_time(callbacks: dict[str, Any], max_time: Any) -> None:
    """Checks that a run has some of `max_time` left; Lightning counts the time before the resume."""
    try:
        elapsed = callbacks.get("Timer", {}).get("time_elapsed", {}).get("train", 0.0)
    except AttributeError:
        elapsed = None
    if max_time is not None and isinstance(elapsed, float | int) and 0 <= elapsed < _MAX_COUNT:
        remaining = Timer(max_time)
        remaining.load_state_dict({"time_elapsed": {"train": elapsed}})
        if (remaining.time_remaining() or 0.0) <= 0:
            raise ConfigError(
                f"trainer.max_time={max_time}: the run has used it up ({elapsed:.0f} s); "
                "give a longer trainer.max_time, or trainer.max_time=null"
            )


def check_classes(state: RecoveryState, model: SSD) -> None:
    """Checks that the data of a resumed run still has the classes of the checkpoint.

    Raises:
        ConfigError: the class lists differ.
    """
    if state.class_names != model.class_names:
        raise ConfigError(
            f"resume: the run has classes {list(state.class_names)}, the data has {list(model.class_names)}; "
            "restore the data, or start a new run"
        )


def check_changes(saved: Any, now: Any) -> None:
    """Logs each setting that a resume changes; for the arguments see `changes`.

    Raises:
        ConfigError: a setting that must not change differs.
    """
    differing = changes(saved, now)
    for key, (old, new) in differing.items():
        if key.startswith(_FIXED):
            raise ConfigError(f"resume: {key} was {_shown(old)} and cannot become {_shown(new)}; start a new run")
    for key, (old, new) in islice(differing.items(), _MAX_CHANGES):
        log(f"changed on resume: {_shown(key)}: {_shown(old)} -> {_shown(new)}")
    if len(differing) > _MAX_CHANGES:
        log(f"changed on resume: {len(differing) - _MAX_CHANGES} other settings")


def _shown(value: Any) -> str:
    """A saved value for train.log: short, on one line, and without what a shell would run if the log were sourced."""
    return _SHELL.sub(lambda match: f"\\x{ord(match[0]):02x}", one_line(shorten(str(value), _MAX_VALUE_LENGTH)))


def changes(saved: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """The settings whose values differ, as (saved, now), by key.

    Args:
        saved: the run's saved configuration, as plain containers; keys and classes of version 0.1 get their new names.
        now: the configuration of the resumed run, resolved, as plain containers.
    """
    before = {current_key(key): RENAMED_TARGETS.get(str(value), value) for key, value in _flatten(saved).items()}
    after = _flatten(now)
    keys = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    return {key: (before.get(key), after.get(key)) for key in keys if not _is_no_change(key, before, after)}


def _is_no_change(key: str, before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Addresses and paths, settings that older versions lacked, and a length that is given in another way."""
    is_new = key.startswith(_NEW) and before.get(key) is None
    return key.startswith(_FREE) or is_new or (key == "trainer.max_epochs" and after.get(key) is None)


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted key; a list that holds settings counts as a mapping from positions."""
    if isinstance(node, list) and any(isinstance(child, dict) for child in node):
        node = {str(number): child for number, child in enumerate(node)}
    if not isinstance(node, dict):
        return {prefix.rstrip("."): node}
    return {name: value for key, child in node.items() for name, value in _flatten(child, f"{prefix}{key}.").items()}


def _optimizer_tensors(states: list[Any]) -> dict[str, Tensor]:
    try:
        return {
            f"{name} of parameter {number}": value
            for state in states
            for number, values in state["state"].items()
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"optimizer_states: not the state of an optimizer: {error!r}; resume another run"
        ) from error
