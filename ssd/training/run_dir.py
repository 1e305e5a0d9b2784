"""The folder of a run: locked by one process, resumed on request, never overwritten."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ssd.common import slurm
from ssd.common.atomic_files import remove_partial_files, write_atomically
from ssd.common.errors import ConfigError
from ssd.common.runtime import is_first_process
from ssd.common.saved_config import CONFIG_FILE, OVERRIDES_FILE
from ssd.training.resume import RecoveryState, check_changes, read_recovery_point

LAST = Path("checkpoints/last.ckpt")  # in a run folder
BEST = Path("checkpoints/best.ckpt")

_locks: list[FileLock] = []


def prepare(folder: Path, config: DictConfig) -> RecoveryState | None:
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
        _open(folder, config)
    last = folder / LAST
    resumes = config.resume is not None and last.exists()
    state = read_recovery_point(last, epochs=config.epochs) if resumes else None
    if is_first_process():  # only now: a refused resume leaves the saved configuration as it was
        _save_config(folder, config)
    return state


def best_checkpoint(folder: Path) -> Path:
    """best.ckpt, or last.ckpt of a run without validation."""
    best = folder / BEST
    return best if best.exists() else folder / LAST


def task_overrides() -> list[str]:
    """The overrides of this run or job, without `resume`."""
    return [item for item in HydraConfig.get().overrides.task if not item.startswith("resume=")]


def _open(folder: Path, config: DictConfig) -> None:
    if config.resume is None:
        if (folder / OVERRIDES_FILE).exists() or any((folder / "checkpoints").glob("*.ckpt")):
            raise ConfigError(f"{folder} holds a run; choose another hydra.run.dir, or resume it with resume={folder}")
    elif not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"resume={folder}: {CONFIG_FILE} is missing; restore it, or start a new run")
    else:
        saved = OmegaConf.to_container(OmegaConf.load(folder / CONFIG_FILE))
        check_changes(saved, OmegaConf.to_container(config, resolve=True))
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


def _save_config(folder: Path, config: DictConfig) -> None:
    resolved = OmegaConf.to_container(config, resolve=True)
    for name, content in ((CONFIG_FILE, resolved), (OVERRIDES_FILE, task_overrides())):
        write_atomically(folder / name, partial(OmegaConf.save, OmegaConf.create(content)))
    slurm.save_run_dir(folder)
