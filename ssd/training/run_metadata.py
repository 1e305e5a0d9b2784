"""Metadata of a run for its loggers: hyperparameters, and in TensorBoard also command, code version and data."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
import pytorch_lightning as pl
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[import-untyped]
from torch.utils.tensorboard.summary import hparams

from ssd.data.splits import Splits
from ssd.training.run_dir import RunConfig, as_yaml
from ssd.training.tensorboard_writer import add_scalars, tensorboard_writer

_GROUPS = ("backbone", "dataset", "augmentation", "optimizer", "scheduler")
_SETTINGS = ("optimizer.lr", "optimizer.weight_decay", "batch_size", "epochs", "image_size", "seed")
_METRICS = ("best/map", "val/map", "val/map_50", "val/loss", "test/map", "test/map_50")


def log_start(trainer: pl.Trainer, run: RunConfig, splits: Splits, *, step: int) -> None:
    """Logs the hyperparameters and the metadata; `step` is the first of this process.

    TensorBoardLogger.log_hyperparams would declare the metrics only together with values for them, so the row in
    HPARAMS is declared here: it exists from the start, and the metrics fill it when they are logged.
    """
    for logger in trainer.loggers:
        logger.log_hyperparams(hyperparameters(run))
    if (writer := tensorboard_writer(trainer)) is None:
        return
    sizes = [f"{name}: {len(index)} images, {len(index.boxes)} boxes" for name, index in splits.items()]
    texts = {
        "command": f"python train.py {shlex.join(run.overrides)}",
        "code": git_state(Path(__file__).parent),
        "data": "\n".join([f"fingerprint {fingerprint(splits)}", *sizes]),
        "configuration": as_yaml(run.settings),
    }
    for name, text in texts.items():
        writer.add_text(f"run/{name}", indent(text, "    "), step)  # in Markdown a block of code
    for summary in _hparams(run):
        writer._get_file_writer().add_summary(summary, step)


def log_end(trainer: pl.Trainer, *, best: float | None) -> None:
    """Logs the best val/map, and marks the run as complete in HPARAMS."""
    if (writer := tensorboard_writer(trainer)) is not None:
        add_scalars(writer, {} if best is None else {"best/map": best}, trainer.global_step)
        writer._get_file_writer().add_summary(hparams({}, {})[2])
        writer.flush()


def hyperparameters(run: RunConfig) -> dict[str, int | float | str]:
    """The chosen options, the usual settings, and every override."""
    values: dict[str, Any] = {name: run.options[name] for name in _GROUPS}
    keys = [override.lstrip("+~").partition("=")[0] for override in run.overrides]
    for key in dict.fromkeys([*_SETTINGS, *keys]):
        value = None if key in run.options else run.get(key)
        if value is not None and not isinstance(value, dict):
            values[key] = value if type(value) in (int, float, str) else str(value)  # HPARAMS shows False as 0.0000
    return values


def fingerprint(splits: Splits) -> str:
    """A hash of the images (ids and sizes), boxes, labels and splits; the folder of the images does not count."""
    digest = hashlib.blake2b(digest_size=8)
    for name, index in splits.items():
        digest.update(repr((name, index.class_names)).encode())
        arrays = (index.ids.data, index.ids.offsets, index.sizes, index.box_offsets, index.boxes, index.labels)
        for array in (*arrays, index.ignore):
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def git_state(folder: Path) -> str:
    """The commit of the code in `folder`, and the files that differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return f"{git('log', '-1', '--format=%H %cs %s')}\n{changed or 'no changes'}"
    except (OSError, subprocess.SubprocessError):
        return "not in a git repository"


def _hparams(run: RunConfig) -> tuple[Summary, Summary]:
    """The experiment with its columns, and the start of the session."""
    metrics = dict.fromkeys([*_METRICS, run.settings["objective"]], 0.0)  # only their names are written
    experiment, start, _ = hparams(hyperparameters(run), metrics)
    data = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(data.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name in run.swept  # TensorBoard shows these columns first
    data.content = content.SerializeToString()
    return experiment, start
