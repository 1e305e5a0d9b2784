"""The folder that a dataset is downloaded into: a lock against a second process, and a marker of what it holds."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ssd.common.atomic_files import write_atomically
from ssd.common.errors import MachineError
from ssd.common.text import read_text

_MARKER, _LOCK = ".download.json", ".download.lock"
OTHER_DOWNLOADER = "sub-*-annotations-bbox.csv"  # files of the downloader by dusty-nv and jetsonai
_log = logging.getLogger("ssd")


def holds_tables_only(root: Path) -> bool:
    """Whether a folder is empty but for tables: it then waits for images, and is no dataset from elsewhere."""
    visible = (path for path in root.iterdir() if not path.name.startswith("."))
    return not any(root.glob(OTHER_DOWNLOADER)) and all(path.suffix in (".csv", ".json") for path in visible)


@dataclass(frozen=True, slots=True)
class DownloadFolder:
    """A folder, and the `selection` to download into it: the settings that decide which files, but not from where."""

    root: Path
    selection: Mapping[str, object]

    @property
    def has_marker(self) -> bool:
        """Whether a download has started here, of this selection or of another."""
        return (self.root / _MARKER).is_file()

    @property
    def is_finished(self) -> bool:
        """Whether a download of exactly this selection has finished; single files of it may have failed."""
        return self.has_marker and read_text(self.root / _MARKER) == self._marker(finished=True)

    def write_marker(self, *, finished: bool) -> None:
        """Records the selection and whether its download has finished."""
        write_atomically(self.root / _MARKER, self._marker(finished=finished))

    def _marker(self, *, finished: bool) -> str:
        return json.dumps({"finished": finished, **self.selection}, indent=1)

    def lock(self, *, wait: bool) -> AbstractContextManager[object]:
        """Excludes other processes from the folder until the context is left or this process ends, even killed.

        Raises:
            MachineError: the folder cannot be written, or it is locked and `wait` is false.
        """
        lock = FileLock(self.root / _LOCK)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            return lock.acquire(blocking=False)
        except Timeout:
            if not wait:
                raise MachineError(
                    f"dataset.root={self.root}: another process is downloading into it; wait until it has finished"
                ) from None
            _log.info("waiting for another process that is downloading into %s", self.root)
            return lock.acquire()
        except OSError as error:
            raise MachineError(
                f"dataset.root={self.root}: cannot be written: {error.strerror}; choose another folder"
            ) from error
