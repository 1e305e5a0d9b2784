"""The progress display of everything that takes long.

A terminal gets a bar with status and remaining time; any other output gets a plain line at most every 30 seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ssd.common.runtime import is_first_process
from ssd.common.text import printable

T = TypeVar("T")
D = TypeVar("D", bound="ProgressDisplay")  # the type checks of the tests do not know typing.Self

_BAR_WIDTH = 12  # everything fits into 80 columns
_REFRESH_PER_S = 4
_PLAIN_INTERVAL_S = 30.0


class ProgressDisplay:
    """Shows how much of `total` is done, while it is entered as a context manager.

    Args:
        title: what is being done.
        total: the amount of work, in any unit; None if unknown: then there is no estimate of the remaining time.
        start: the part of `total` that an earlier process did; it is left out of the estimate.
        stderr: print there instead of to stdout.
        quiet: print nothing, as for the processes of a distributed run other than the first.
    """

    def __init__(
        self, title: str, *, total: float | None, start: float = 0, stderr: bool = False, quiet: bool = False
    ) -> None:
        self.total = total
        self._title = title
        self._start = start
        self._console = Console(stderr=stderr, quiet=quiet)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=_BAR_WIDTH),
            TextColumn("{task.fields[status]}", markup=False),
            console=self._console,
            refresh_per_second=_REFRESH_PER_S,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=int(start), status="")
        self._started = self._shown = time.monotonic()

    def __enter__(self: D) -> D:
        self._started = self._shown = time.monotonic()
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @property
    def seconds(self) -> float:
        """Seconds since the start; never 0."""
        return max(1e-3, time.monotonic() - self._started)

    @property
    def due(self) -> bool:
        """Whether to call `show` again: for callers whose status is expensive, such as a loss on the GPU."""
        interval = _PLAIN_INTERVAL_S if self._bar.disable else 1 / _REFRESH_PER_S
        return time.monotonic() - self._shown >= interval

    def show(self, title: str, status: str, *, done: float) -> None:
        """Updates the display: `done`, up to `total`, includes `start`."""
        if self.total is not None and done > self._start:
            left = int((self.total - done) * self.seconds / (done - self._start))
            status += f"  ETA {left // 3600}:{left % 3600 // 60:02}:{left % 60:02}"
        self._bar.update(self._task, completed=done, description=title, status=status)
        if self.due:
            self._shown = time.monotonic()
            if self._bar.disable:
                self.print(f"{title}: {status}")

    def print(self, line: str) -> None:
        """Prints a separate line above the bar."""
        self._console.print(printable(line), highlight=False, markup=False, soft_wrap=True)


def tracked(items: Iterable[T], title: str, *, total: int) -> Iterator[T]:
    """Yields the items, and displays how many of `total` were processed; only in the first process of a run."""
    with ProgressDisplay(title, total=total, stderr=True, quiet=not is_first_process()) as display:
        for done, item in enumerate(items, start=1):
            yield item
            display.show(title, f"{done}/{total}", done=done)


class FrameProgress(ProgressDisplay):
    """Counts images and video frames, and the objects found in them; `total` is None if unknown."""

    def __init__(self, *, total: int | None) -> None:
        super().__init__("", total=total, stderr=True)
        self.frames = 0
        self._objects = 0

    def step(self, name: str, *, objects: int) -> None:
        """Counts one frame of the image or video `name`."""
        self.frames += 1
        self._objects += objects
        of_total = "" if self.total is None else f"/{self.total}"
        self.show(name[-30:], f"{self.frames}{of_total} frames  {self.frames / self.seconds:.1f}/s", done=self.frames)

    def summary(self) -> str:
        """The totals, in one line."""
        return f"{self.frames} frames, {self._objects} objects shown, {self.frames / self.seconds:.1f} frames/s"


class DownloadProgress(ProgressDisplay):
    """Counts files and bytes; all methods are thread-safe.

    An unfinished file counts by the share that has arrived, so that one large file also moves the bar.
    """

    def __init__(self, title: str, *, total: int) -> None:
        super().__init__(title, total=total)
        self._lock = threading.Lock()
        self._shares: dict[Path, float] = {}
        self._finished = 0
        self._bytes = 0

    def received(self, path: Path, *, count: int, share: float) -> None:
        """Counts `count` more bytes of the file `path`, of which `share` (0 to 1) has arrived."""
        with self._lock:
            self._bytes += count
            self._shares[path] = share
            self._update()

    def finished(self, path: Path) -> None:
        """Counts a file that is complete or has failed."""
        with self._lock:
            self._shares.pop(path, None)
            self._finished += 1
            self._update()

    def _update(self) -> None:
        rates = f"{self._finished / self.seconds:.1f}/s  {self._bytes / self.seconds / 1e6:.1f} MB/s"
        done = self._finished + sum(self._shares.values())
        self.show(self._title, f"{self._finished}/{self.total} files  {rates}", done=done)
