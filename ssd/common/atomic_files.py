"""Atomic file writes: a temporary file beside the target is filled, flushed to disk and renamed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

_TEMPORARY = ".partial"


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


def remove_partial_files(folder: Path) -> None:
    """Removes temporary files of killed writers; no other process may be writing to `folder`."""
    for temporary in folder.glob(f".*{_TEMPORARY}"):
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Waits until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
