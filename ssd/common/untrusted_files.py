"""Opens files that may come from a stranger: regular files of bounded size.

A FIFO or a device in the place of a file never blocks. Links are followed; `check_inside` checks where they lead.
"""

from __future__ import annotations

import math
import os
import stat
from io import FileIO
from pathlib import Path

from ssd.common.errors import DataError

MAX_BYTES = 1 << 30  # of a file that is read as a whole; the annotations of COCO's train2017 have 0.45 GB
_FLAGS = sum(getattr(os, name, 0) for name in ("O_RDONLY", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"))
_KINDS = {"a folder": stat.S_ISDIR, "a FIFO": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}


def open_untrusted(path: str | Path, *, max_bytes: float = math.inf, what: str = "file") -> FileIO:
    """Opens a regular file to be read, unbuffered, without waiting for the other end of a FIFO.

    Raises:
        DataError: missing, unreadable, larger than `max_bytes`, or a folder, FIFO, socket or device; the message calls
            it `what`.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        raise DataError(f"{path}: no such {what}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    info = os.fstat(descriptor)
    if stat.S_ISREG(info.st_mode) and info.st_size <= max_bytes:
        return FileIO(descriptor)
    os.close(descriptor)
    if stat.S_ISREG(info.st_mode):
        raise DataError(f"{path}: larger than the {max_bytes} bytes that such a {what} can have; replace it")
    kind = next((name for name, is_kind in _KINDS.items() if is_kind(info.st_mode)), "a device")
    raise DataError(f"{path}: cannot be read: it is {kind}, not a regular file")


def read_untrusted(path: str | Path, *, max_bytes: int = MAX_BYTES, what: str = "file") -> bytes:
    """The content of a regular file.

    Raises:
        DataError: as `open_untrusted`, or it is larger than `max_bytes`.
    """
    with open_untrusted(path, max_bytes=max_bytes, what=what) as file:
        try:
            return file.readall() or b""  # None where a file of /proc would block
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def check_inside(path: str | Path, folder: str | Path) -> None:
    """Checks that no link on the way from `folder` to `path` leads out of the folder; `folder` itself may be a link.

    Raises:
        DataError: one does.
    """
    target, root = os.path.realpath(path), os.path.realpath(folder)
    if os.path.commonpath([target, root]) != root:
        raise DataError(f"{path}: leads out of {folder}, to {target}; replace the link with what it leads to")
