"""What the terminal shows while frames go by: a bar with frames a second; without a terminal a line now and then."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_PLAIN_SECONDS = 30.0
_BAR_WIDTH = 20


class FrameMeter:
    """Counts frames and objects; `total` frames are expected, None where that is not known."""

    def __init__(self, *, total: int | None) -> None:
        self.frames = 0
        self._objects = 0
        self._total = total
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=_BAR_WIDTH),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            refresh_per_second=4,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, status="")
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> FrameMeter:
        self._started = self._printed = time.monotonic()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, name: str, *, objects: int) -> None:
        """One more frame, of `name`, with so many objects."""
        self.frames += 1
        self._objects += objects
        of = "" if self._total is None else f"/{self._total}"
        status = f"{self.frames}{of} frames  {self._rate():.1f}/s"
        self._bar.update(self._task, completed=self.frames, description=name[-30:], status=status)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._printed >= _PLAIN_SECONDS:
            self._printed = now
            self._console.print(f"{name}: {status}", highlight=False, markup=False, soft_wrap=True)

    def summary(self) -> str:
        """All in all."""
        return f"{self.frames} frames, {self._objects} objects, {self._rate():.1f} frames/s"

    def _rate(self) -> float:
        return self.frames / max(1e-9, time.monotonic() - self._started)
