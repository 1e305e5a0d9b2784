"""train.py in processes forked from one that has imported everything already: seconds quicker than a fresh start."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

import train
from ssd import assemble, results, runs  # noqa: F401  what train.py imports when it runs
from ssd.command import run

torch.set_num_threads(1)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["forked"])

TINY = [
    "backbone.width_multiplier=0.1",
    "image_size=96",
    "dataset.train=32",
    "dataset.val=4",
    "dataset.test=4",
    "batch_size=4",
    "epochs=3",
    "num_workers=0",
    "postprocess.candidates=50",
    "trainer.log_every_n_steps=1",
    "save_every_steps=1",
]


def start(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> ForkServerProcess:
    """`python train.py *arguments` in `folder`; its output goes to folder/output."""
    process = _CONTEXT.Process(target=_train, args=(str(folder), arguments, environment or {}))
    process.start()
    return process


def _train(folder: str, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.setpgid(0, 0)
    multiprocessing.set_start_method("fork", force=True)  # for the loader's workers, as in a process of its own
    os.environ.update(environment)
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["train.py", *arguments]
    run(train.train, config_name="train")
