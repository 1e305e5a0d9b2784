"""Cluster jobs that are put back into the queue: the same command line starts again and must find its run."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

_JOBS = Path("runs", ".jobs")  # one file a job, which names the folder of its run


def job_id() -> str | None:
    """The SLURM job (of an array: the task) in which this process runs."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
    return name if name.replace("_", "").isdigit() else None


def remember(folder: Path) -> None:
    """Notes the folder of this job's run."""
    if (name := job_id()) is not None:
        _JOBS.mkdir(parents=True, exist_ok=True)
        (_JOBS / name).write_text(str(folder.resolve()))


def requeued_run() -> str | None:
    """The run's folder, in a job that has been started again."""
    name = job_id()
    if name is None or os.environ.get("SLURM_RESTART_COUNT", "0") == "0" or not (_JOBS / name).exists():
        return None
    return (_JOBS / name).read_text()


def requeue_signals() -> tuple[signal.Signals, ...]:
    """The signal that warns a job of its time limit (sbatch --signal=USR1@90)."""
    return () if job_id() is None else (signal.SIGUSR1,)


def requeue() -> None:
    """Puts this job back into the queue."""
    subprocess.run(["scontrol", "requeue", job_id() or ""], check=False)
