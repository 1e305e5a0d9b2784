"""How a download goes: files and bytes a second."""

from __future__ import annotations

import threading
from pathlib import Path

from ssd.meter import Meter


class TransferMeter(Meter):
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
