"""What a run says: the data at its start, the table, the files and the next commands at its end."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ssd.common.runtime import is_first_process

_log = logging.getLogger("ssd")


def log(line: str) -> None:
    """A line for the terminal and train.log; one process of several speaks."""
    if is_first_process():
        _log.info(line)


def relative_to_cwd(path: Path) -> Path:
    """The path as a user in the current folder would write it."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def log_table(table: Table) -> None:
    """A table for the terminal and train.log."""
    console = Console(soft_wrap=True, markup=False, emoji=False)  # names may hold brackets
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().rstrip().splitlines():
        log(line)
