"""Sweeps (`-m`): every job runs, a failed one logs its error, and the failed ones are listed at the end."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from ssd.cli.explain import explain
from ssd.common.console import log, relative_to_cwd
from ssd.common.errors import JobError, PartialError
from ssd.common.text import one_line

_PLUGINS = "hydra._internal.core_plugins"  # Hydra's own


@dataclass(slots=True)
class Sweep:
    """The jobs that this process has run: the overrides of each, and the folder and the error of the failed ones."""

    overrides: dict[int, list[str]] = field(default_factory=dict)
    failed: dict[int, tuple[Path, JobError]] = field(default_factory=dict)

    def start(self) -> None:
        """Records the job that starts now."""
        self.overrides[HydraConfig.get().job.num] = list(HydraConfig.get().overrides.task)

    def fail(self, error: Exception, *, config_name: str) -> None:
        """Logs the error of the current job to the terminal and train.log, and records it.

        Raises:
            JobError: the line and the exit code, for a sweeper or launcher that must know of a failed job. Hydra's own
                would end the sweep with it, after this batch of jobs and with an error for the first failed job alone.
        """
        hydra = HydraConfig.get()
        code, line = explain(error, config_name=config_name, arguments=list(hydra.overrides.task))
        if line is None:
            log("".join(traceback.format_exception(error)).rstrip())
            line = traceback.format_exception_only(error)[-1].strip()
        log(f"error: {line}")
        failure = JobError(line)
        failure.exit_code = code
        self.failed[hydra.job.num] = Path(hydra.runtime.output_dir), failure
        if not (hydra.sweeper._target_.startswith(_PLUGINS) and hydra.launcher._target_.startswith(_PLUGINS)):
            raise failure from error

    def print_failed(self) -> None:
        """Prints a line for each failed job: its number, the overrides that not all jobs have, its folder and error."""
        shared = set.intersection(*map(set, self.overrides.values())) if len(self.overrides) > 1 else set()
        for number, (folder, error) in self.failed.items():
            own = " ".join(item for item in self.overrides[number] if item not in shared)
            print(one_line(f"job {number} ({own}) in {relative_to_cwd(folder)}: {error}"), file=sys.stderr)

    def raise_failed(self) -> None:
        """Raises PartialError if jobs failed, or JobError if all did with one exit code, which is then also its own."""
        codes = {error.exit_code for _, error in self.failed.values()}
        text = f"{len(self.failed)} of {len(self.overrides)} jobs failed"
        if len(codes) == 1 and len(self.failed) == len(self.overrides):
            failure = JobError(text)
            failure.exit_code = codes.pop()
            raise failure
        if codes:
            raise PartialError(text)
