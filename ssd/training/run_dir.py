"""The folder of a run: locked by one process, resumed on request, never overwritten."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from ssd.common import slurm
from ssd.common.atomic_files import remove_partial_files, write_atomically
from ssd.common.errors import ConfigError
from ssd.common.run_folder import MAX_YAML_BYTES, signed
from ssd.common.runtime import is_first_process
from ssd.common.saved_config import CONFIG_FILE, OVERRIDES_FILE
from ssd.common.untrusted_text import read_yaml
from ssd.training.resume import RecoveryState, check_changes, read_recovery_point

LAST = Path("checkpoints/last.ckpt")  # in a run folder
BEST = Path("checkpoints/best.ckpt")

_locks: list[FileLock] = []


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What a run was started with, as plain values.

    `settings` is the resolved configuration; `overrides` are the command line's, without `resume`; `options` is the
    chosen option of each group; `swept` are the keys that a sweep varies.
    """

    folder: Path
    settings: dict[str, Any]
    overrides: tuple[str, ...]
    options: dict[str, str | None]
    swept: frozenset[str] = frozenset()

    @property
    def resumes(self) -> bool:
        """Whether an interrupted run is continued."""
        return self.settings["resume"] is not None

    def get(self, key: str) -> Any:
        """The setting with a dotted key; None if there is none."""
        node: Any = self.settings
        for name in key.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        return node


def prepare(run: RunConfig) -> RecoveryState | None:
    """Locks a run's folder for this process and saves the resolved configuration in it.

    On resume, logs the differences to the saved configuration and returns the recovery point. A run that was stopped
    before its first recovery point starts at step 0.

    Raises:
        ConfigError: the folder holds a run and this is no resume, another process is training in it, or a resume
            changes a setting that must not change.
        CheckpointError: the recovery point is damaged.
        MachineError: the folder cannot be written.
    """
    if is_first_process():
        _open(run)
    last = run.folder / LAST
    limits = {"epochs": run.settings["epochs"], "steps": run.settings["steps"], "max_time": run.get("trainer.max_time")}
    state = read_recovery_point(last, **limits) if run.resumes and last.exists() else None
    save_settings(run)  # only now: a refused resume leaves the saved configuration as it was
    if is_first_process():
        slurm.save_run_dir(run.folder)
    return state


def save_settings(run: RunConfig) -> None:
    """Writes configuration and overrides of a run, in the first process."""
    if is_first_process():
        write_atomically(run.folder / CONFIG_FILE, as_yaml(run.settings))
        write_atomically(run.folder / OVERRIDES_FILE, signed(as_yaml(list(run.overrides))))


def saved_settings(folder: Path) -> Any:
    """The saved configuration of a run; None if there is none.

    Raises:
        DataError: the file is no YAML.
    """
    path = folder / CONFIG_FILE
    return read_yaml(path, max_bytes=MAX_YAML_BYTES) if path.is_file() else None


def as_yaml(content: Any) -> str:
    """Plain values as YAML, in their order."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def best_checkpoint(folder: Path) -> Path:
    """best.ckpt, or last.ckpt of a run without validation."""
    best = folder / BEST
    return best if best.exists() else folder / LAST


def _open(run: RunConfig) -> None:
    folder = run.folder
    if not run.resumes:
        if (folder / OVERRIDES_FILE).exists() or any((folder / "checkpoints").glob("*.ckpt")):
            raise ConfigError(f"{folder} holds a run; choose another hydra.run.dir, or resume it with resume={folder}")
    elif not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"resume={folder}: {CONFIG_FILE} is missing; restore it, or start a new run")
    else:
        check_changes(saved_settings(folder), run.settings)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    _lock(folder)
    for part in (folder, folder / "checkpoints", folder / ".hydra"):
        remove_partial_files(part)


def _lock(folder: Path) -> None:
    """Locks the folder until this process ends, however it ends."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"{folder}: another process is training here; wait for it, or stop it") from error
    _locks.append(lock)
