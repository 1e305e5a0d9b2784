"""SLURM jobs that are requeued: SLURM starts the same command line again, which must then find its run."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from ssd.common.atomic_files import write_atomically
from ssd.common.text import read_text

_JOBS = Path("runs", ".jobs")  # one file per job, which holds the path of its run folder


def job_id() -> str | None:
    """The id of the SLURM job (for a job array: of the task) that this process runs in."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
    return name if name.replace("_", "").isdigit() else None


def save_run_dir(folder: Path) -> None:
    """Records the run folder of this job, if this is a job."""
    if (name := job_id()) is not None:
        write_atomically(_JOBS / name, str(folder.resolve()))


def requeued_run() -> str | None:
    """The run folder of this job if SLURM has restarted it."""
    name = job_id()
    if name is None or os.environ.get("SLURM_RESTART_COUNT", "0") == "0" or not (_JOBS / name).exists():
        return None
    return read_text(_JOBS / name)


def requeue_signals() -> tuple[signal.Signals, ...]:
    """The signal that announces a job's time limit (sbatch --signal=USR1@90)."""
    return () if job_id() is None else (signal.SIGUSR1,)


def requeue() -> None:
    """Requeues this job."""
    subprocess.run(["scontrol", "requeue", job_id() or ""], check=False)
