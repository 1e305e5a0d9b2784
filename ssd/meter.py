"""What the terminal shows while long work goes on: a bar, its status and the time left.

Where the output is no terminal, a plain line at most every 30 seconds.
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_PLAIN_SECONDS = 30.0
_BAR_WIDTH = 12  # everything fits into 80 columns


class Meter:
    """The bar; `total` is how much there is to do, None where that is not known."""

    def __init__(self, title: str, *, total: int | None, stderr: bool = False) -> None:
        self.total = total
        self._console = Console(stderr=stderr)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=_BAR_WIDTH),
            TextColumn("{task.fields[status]}", markup=False),
            console=self._console,
            refresh_per_second=4,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, status="")
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> None:
        self._started = self._printed = time.monotonic()
        self._bar.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @property
    def seconds(self) -> float:
        """Since the beginning; never 0."""
        return max(1e-3, time.monotonic() - self._started)

    def show(self, title: str, status: str, *, done: float) -> None:
        """What is under way, how it goes, and how much of the total is done."""
        if self.total is not None and done:
            left = int((self.total - done) * self.seconds / done)
            status += f"  ETA {left // 3600}:{left % 3600 // 60:02}:{left % 60:02}"
        self._bar.update(self._task, completed=done, description=title, status=status)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._printed >= _PLAIN_SECONDS:
            self._printed = now
            self._console.print(f"{title}: {status}", highlight=False, markup=False, soft_wrap=True)
