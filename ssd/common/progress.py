"""What the terminal shows while long work goes on: a bar, its status and the time left.

Where the output is no terminal, a plain line at most every 30 seconds.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


class FrameMeter(ProgressDisplay):
    """Counts frames and objects; `total` frames are expected, None where that is not known."""

    def __init__(self, *, total: int | None) -> None:
        super().__init__("", total=total, stderr=True)
        self.frames = 0
        self._objects = 0

    def step(self, name: str, *, objects: int) -> None:
        """One more frame, of `name`, with so many objects."""
        self.frames += 1
        self._objects += objects
        of = "" if self.total is None else f"/{self.total}"
        self.show(name[-30:], f"{self.frames}{of} frames  {self._rate():.1f}/s", done=self.frames)

    def summary(self) -> str:
        """All in all."""
        return f"{self.frames} frames, {self._objects} objects shown, {self._rate():.1f} frames/s"

    def _rate(self) -> float:
        return self.frames / self.seconds


class TransferMeter(ProgressDisplay):
    """Counts files and bytes; any thread may call it.

    A file that is under way counts by the share of it that is there, so that one large file moves the bar, too.
    """

    def __init__(self, title: str, *, total: int) -> None:
        super().__init__(title, total=total)
        self._title = title
        self._lock = threading.Lock()
        self._shares: dict[Path, float] = {}
        self._finished = 0
        self._bytes = 0

    def received(self, path: Path, *, count: int, share: float) -> None:
        """`count` more bytes of the file `path`, of which `share` (0..1) is there now."""
        with self._lock:
            self._bytes += count
            self._shares[path] = share
            self._update()

    def finished(self, path: Path) -> None:
        """The file is there, or was given up."""
        with self._lock:
            self._shares.pop(path, None)
            self._finished += 1
            self._update()

    def _update(self) -> None:
        rates = f"{self._finished / self.seconds:.1f}/s  {self._bytes / self.seconds / 1e6:.1f} MB/s"
        done = self._finished + sum(self._shares.values())
        self.show(self._title, f"{self._finished}/{self.total} files  {rates}", done=done)


_PLAIN_SECONDS = 30.0
_BAR_WIDTH = 12  # everything fits into 80 columns


class ProgressDisplay:
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
