"""Sweeps: failed jobs, and what a sweeper gets to know."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import TINY, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

ROOT = Path(__file__).parents[2]
SMALL = [*TINY, "dataset.train=8", "epochs=1", "dataset.cache=false", "hydra.sweep.dir=sweep"]
BROKEN_CALLBACK = """
import pytorch_lightning as pl

class Broken(pl.Callback):
    def __init__(self, divisor: int) -> None:
        self.divisor = divisor

    def on_train_start(self, trainer, module) -> None:
        1 // self.divisor
"""
RECORDING_SWEEPER = """
import json
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

class Recorder(Sweeper):
    def setup(self, *, hydra_context, task_function, config) -> None:
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        results = []
        for number, seed in enumerate((-1, 1)):
            (job,) = self.launcher.launch([[*arguments, f"seed={seed}"]], initial_job_idx=number)
            try:
                results.append([job.status.name, float(job.return_value)])
            except Exception as error:
                results.append([job.status.name, str(error)])
        with open("results.json", "w") as file:
            json.dump(results, file)

node = {"_target_": "hydra_plugins.recorder.Recorder"}
ConfigStore.instance().store(group="hydra/sweeper", name="recorder", node=node)
"""


@pytest.mark.parametrize("batch", ["null", "1"])
def test_a_failed_job_says_why_in_its_folder_and_at_the_end_and_the_others_run(tmp_path: Path, batch: str) -> None:
    swept = ["optimizer.lr=-1,1e-3", "augmentation=none,light", f"hydra.sweeper.max_batch_size={batch}"]
    done = run(tmp_path, "train.py", "-m", *SMALL, *swept)
    assert done.returncode == 4, done.stderr
    *jobs, last = done.stderr.splitlines()
    assert last == "error: 2 of 4 jobs failed"
    for number, line, augmentation in zip((0, 1), jobs, ("none", "light"), strict=True):
        overrides = f"optimizer.lr=-1 augmentation={augmentation}"
        assert line.startswith(f"job {number} ({overrides}) in sweep/{number}: optimizer.lr=-1.0: must be above 0")
        log = (tmp_path / "sweep" / str(number) / "train.log").read_text()
        assert log.splitlines() == ["error: optimizer.lr=-1.0: must be above 0"]
        assert f"{log.strip()}\n" in done.stdout
    for number in "23":
        folder = tmp_path / "sweep" / number
        assert (folder / "model.safetensors").is_file()
        events = EventAccumulator(str(folder / "tensorboard")).Reload()
        content = events.summary_metadata[metadata.EXPERIMENT_TAG].plugin_data.content
        columns = metadata.parse_experiment_plugin_data(content).hparam_infos
        assert {column.name for column in columns if column.differs} == {"optimizer.lr", "augmentation"}


@pytest.mark.parametrize(
    ("swept", "code"),
    [
        (["seed=-1,-2"], 2),
        (["backbone.weights=none.pth,no.pth"], 3),
        (["seed=-1,1", "backbone.weights=none.pth"], 4),
        (["dataset=voc,coco", "dataset.root=nowhere"], 3),
    ],
)
def test_where_all_jobs_fail_with_one_code_it_is_that_of_the_sweep(tmp_path: Path, swept: list[str], code: int) -> None:
    done = run(tmp_path, "train.py", "-m", *swept, "hydra.sweep.dir=sweep")
    assert done.returncode == code, done.stderr
    assert [line.partition(" (")[0] for line in done.stderr.splitlines()] == [
        "job 0",
        "job 1",
        "error: 2 of 2 jobs failed",
    ]


def test_a_bug_in_one_job_leaves_its_traceback_and_the_others_run(tmp_path: Path) -> None:
    swept = ["+callbacks.broken._target_=broken.Broken", "+callbacks.broken.divisor=0,1"]
    (tmp_path / "broken.py").write_text(BROKEN_CALLBACK)
    done = run(tmp_path, "train.py", "-m", *SMALL, *swept, modules=tmp_path)
    assert done.returncode == 4, done.stderr
    log = (tmp_path / "sweep/0/train.log").read_text()
    for text in (log, done.stdout):
        assert "Traceback (most recent call last)" in text
        assert "error: ZeroDivisionError: " in text
    assert "job 0 (+callbacks.broken.divisor=0) in sweep/0: ZeroDivisionError: " in done.stderr
    assert (tmp_path / "sweep/1/model.safetensors").is_file()


def test_an_optimizing_sweeper_gets_the_objective_and_knows_of_a_failed_job(tmp_path: Path) -> None:
    """In a process of its own, as Hydra looks for plugins once."""
    plugin = tmp_path / "modules" / "hydra_plugins" / "recorder.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(RECORDING_SWEEPER)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'modules'}"}
    command = [sys.executable, str(ROOT / "train.py"), "-m", *SMALL, "hydra/sweeper=recorder"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    failed, finished = json.loads((tmp_path / "results.json").read_text())
    assert failed == ["FAILED", "seed=-1: must be at least 0, at most 4.29497e+09"]
    assert finished[0] == "COMPLETED"
    assert 0 <= finished[1] <= 1
    assert "job 0 (seed=-1) in sweep/0: seed=-1" in done.stderr
