"""Output of a command: lines for the terminal and train.log, and paths as a user would type them."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from ssd.common.runtime import is_first_process
from ssd.common.text import printable

_log = logging.getLogger("ssd")


class _Printable(logging.Filter):
    """Escapes what a terminal would obey in messages with names from files."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(record.getMessage()), None
        return True


_log.addFilter(_Printable())


def log(line: str) -> None:
    """Prints a line to the terminal and train.log, in the first process of a distributed run only."""
    if is_first_process():
        _log.info(line)


def relative_to_cwd(path: Path) -> Path:
    """The path relative to the current folder, or absolute if it is not below it."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def for_shell(path: str | Path) -> str:
    """The path as a shell takes it: in quotes where it has spaces, brackets and the like."""
    return shlex.quote(str(path))
