"""A folder that a download fills: one process at a time, and a note of what was asked for and whether all was tried.

By the note, training knows its own unfinished work from a folder that somebody filled on purpose.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ssd.errors import MachineError
from ssd.files import write_atomically

_NOTE, _LOCK = ".download.json", ".download.lock"
_log = logging.getLogger("ssd")


@dataclass(frozen=True, slots=True)
class DownloadFolder:
    """`asked` tells one choice from another; where it comes from is no part of it."""

    root: Path
    asked: Mapping[str, object]

    @property
    def has_note(self) -> bool:
        """Whether a download was begun here."""
        return (self.root / _NOTE).is_file()

    @property
    def is_finished(self) -> bool:
        """Whether this very choice was tried to its end."""
        return self.has_note and (self.root / _NOTE).read_text() == self._note(finished=True)

    def note(self, *, finished: bool) -> None:
        """Leaves word for the next process."""
        write_atomically(self.root / _NOTE, lambda path: path.write_text(self._note(finished=finished)))

    def _note(self, *, finished: bool) -> str:
        return json.dumps({"finished": finished, **self.asked}, indent=1)

    @contextmanager
    def alone(self, *, wait: bool) -> Iterator[None]:
        """Keeps other processes from writing into the folder. The lock goes with its process, however that ends.

        Raises:
            MachineError: the folder cannot be written, or another process writes it and there is no `wait`.
        """
        lock = FileLock(self.root / _LOCK)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            if not wait:
                raise MachineError(
                    f"dataset.root={self.root}: another process downloads into it; wait for its end"
                ) from None
            _log.info("waiting for another process, which downloads into %s", self.root)
            lock.acquire()
        except OSError as error:
            raise MachineError(f"dataset.root={self.root}: cannot be written: {error.strerror}") from error
        try:
            yield
        finally:
            lock.release()
