"""What the terminal shows while files are fetched: a bar with files and bytes a second and the time left.

Where the output is no terminal, a plain line at most every 30 seconds.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_PLAIN_SECONDS = 30.0
_BAR_WIDTH = 12  # everything fits into 80 columns


class Meter:
    """Counts files and bytes; any thread may call it.

    A file that is under way counts by the share of it that is there, so that one large file moves the bar, too.
    """

    def __init__(self, title: str, *, total: int) -> None:
        self._title = title
        self._total = total
        self._console = Console()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=_BAR_WIDTH),
            TextColumn("{task.fields[status]}"),
            console=self._console,
            refresh_per_second=4,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, status="")
        self._lock = threading.Lock()
        self._shares: dict[Path, float] = {}
        self._done = 0
        self._bytes = 0
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> Meter:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def received(self, path: Path, *, count: int, share: float) -> None:
        """`count` more bytes of the file `path`, of which `share` (0..1) is there now."""
        with self._lock:
            self._bytes += count
            self._shares[path] = share
            self._show()

    def finished(self, path: Path) -> None:
        """The file is there, or was given up."""
        with self._lock:
            self._shares.pop(path, None)
            self._done += 1
            self._show()

    def _show(self) -> None:
        now = time.monotonic()
        seconds = max(1e-3, now - self._started)
        completed = self._done + sum(self._shares.values())
        left = (self._total - completed) * seconds / completed if completed else 0.0
        status = (
            f"{self._done}/{self._total} files  {self._done / seconds:.1f}/s  {self._bytes / seconds / 1e6:.1f} MB/s"
            f"  ETA {int(left // 3600)}:{int(left % 3600 // 60):02}:{int(left % 60):02}"
        )
        self._bar.update(self._task, completed=completed, status=status)
        if not self._console.is_terminal and now - self._printed >= _PLAIN_SECONDS:
            self._printed = now
            self._console.print(f"{self._title}: {status}", highlight=False, soft_wrap=True)
