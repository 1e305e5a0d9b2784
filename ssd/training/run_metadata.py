"""What a run was: its configuration, code, data and command, for TensorBoard's TEXT and HPARAMS tabs."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[import-untyped]
from torch.utils.tensorboard.summary import hparams

from ssd.data.splits import Splits
from ssd.training.tensorboard_images import writer_of

_GROUPS = ("backbone", "dataset", "augmentation", "optimizer", "scheduler")
_SETTINGS = ("optimizer.lr", "optimizer.weight_decay", "batch_size", "epochs", "image_size", "seed")
_METRICS = ("best/map", "val/map", "val/map_50", "val/loss", "test/map", "test/map_50")
_Value = int | float | str


def begin(trainer: pl.Trainer, config: DictConfig, splits: Splits, *, step: int) -> None:
    """The text, and the run's row in HPARAMS, which its metrics fill as they come."""
    writer = writer_of(trainer)
    if writer is None:
        return
    texts = {
        "command": _block(f"python train.py {shlex.join(_overrides())}"),
        "overrides": _block("\n".join(_overrides()) or "none"),
        "code": _block(git_state(Path(__file__).parent)),
        "data": _table({"fingerprint": fingerprint(splits), **_counts(splits)}),
        "configuration": _block(OmegaConf.to_yaml(config, resolve=True)),
    }
    for name, text in texts.items():
        writer.add_text(f"run/{name}", text, step)
    for summary in _hparams(config)[:2]:
        writer._get_file_writer().add_summary(summary, step)


def end(trainer: pl.Trainer, config: DictConfig, *, best: float | None) -> None:
    """Marks the row as complete."""
    writer = writer_of(trainer)
    if writer is None:
        return
    if best is not None:
        writer.add_scalar("best/map", best, trainer.global_step)
    writer._get_file_writer().add_summary(_hparams(config)[2])
    writer.flush()


def hyperparameters(config: DictConfig) -> dict[str, _Value]:
    """The usual columns, and whatever the command line sets: in a sweep, what varies."""
    choices = HydraConfig.get().runtime.choices
    values = {name: choices[name] for name in _GROUPS}
    keys = [override.lstrip("+~").partition("=")[0] for override in _overrides()]
    for key in dict.fromkeys([*_SETTINGS, *keys]):
        value = OmegaConf.select(config, key) if "/" not in key and key not in choices else None
        if value is not None and not isinstance(value, DictConfig):
            values[key] = value if type(value) in (int, float, str) else str(value)  # a bool would show as 0.0000
    return values


def fingerprint(splits: Splits) -> str:
    """The same for the same images (by id and size), boxes, labels and splits, wherever they lie."""
    digest = hashlib.blake2b(digest_size=8)
    for name, index in splits.items():
        digest.update(repr((name, index.class_names)).encode())
        arrays = (index.ids.data, index.ids.offsets, index.sizes, index.box_offsets, index.boxes, index.labels)
        for array in (*arrays, index.ignore):
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def git_state(folder: Path) -> str:
    """The commit of the code, and what differs from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return f"{git('log', '-1', '--format=%H %cs %s')}\n{changed or 'no changes'}"
    except (OSError, subprocess.SubprocessError):
        return "not in a git repository"


def _hparams(config: DictConfig) -> tuple[Summary, Summary, Summary]:
    """The experiment with its columns, and the start and the end of the session."""
    experiment, start, finish = hparams(hyperparameters(config), dict.fromkeys(_METRICS, 0.0))
    content = HParamsPluginData.FromString(experiment.value[0].metadata.plugin_data.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name in _swept()  # these columns come first
    experiment.value[0].metadata.plugin_data.content = content.SerializeToString()
    return experiment, start, finish


def _swept() -> set[str]:
    """What a sweep varies: the overrides of this job that were not given as they are."""
    sweep = Path(HydraConfig.get().runtime.output_dir).parent / "multirun.yaml"
    given = OmegaConf.load(sweep).hydra.overrides.task if sweep.exists() else _overrides()
    as_given = {item.lower() for item in given}  # Hydra gives a job False for false
    return {item.partition("=")[0] for item in _overrides() if item.lower() not in as_given}


def _overrides() -> list[str]:
    return [item for item in HydraConfig.get().overrides.task if not item.startswith("resume=")]


def _counts(splits: Splits) -> dict[str, str]:
    return {name: f"{len(index)} images, {len(index.boxes)} boxes" for name, index in splits.items()}


def _block(text: str) -> str:
    """Markdown as it stands."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _table(values: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items())])
