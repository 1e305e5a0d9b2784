"""Atomic file writes: a temporary file beside the target is filled, flushed to disk and renamed."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

_TEMPORARY = ".partial"
_WRITTEN_HERE = re.compile(r"\..+\.\d+\.partial")  # by `write_atomically`


def write_atomically(path: Path, content: str | bytes | Callable[[Path], object], *, durable: bool = True) -> None:
    """Replaces `path` in one step, so that a reader sees either the old file or the complete new one.

    Args:
        path: its folder is created if missing.
        content: text (UTF-8), bytes, or a function that fills the temporary file whose path it gets. That name has
            another suffix than `path`.
        durable: flush file and folder, so that the file also survives a power failure. Without it (for many small
            files that can be recreated: a flush may take 10 ms) only a crash of this process is covered.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    if temporary.is_symlink():  # would be written through
        temporary.unlink()
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        if durable:
            flush(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        flush(path.parent)


def remove_partial_files(folder: Path, *, older_than_s: float = 0.0) -> None:
    """Removes temporary files of killed writers; no other process may be writing to one that is that old."""
    for temporary in folder.glob(f".*{_TEMPORARY}"):
        if _WRITTEN_HERE.fullmatch(temporary.name) and time.time() - temporary.lstat().st_mtime >= older_than_s:
            temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Waits until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
