"""Tables: the same rows for the terminal and for HTML reports."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import rich.table
from rich.console import Console

from ssd.common.console import log
from ssd.common.text import one_line

_NUMBER = re.compile(r"-|nan|[+-]?\d[\d.]*( ?%|x)?(-\d[\d.]*( ?%)?)?( of \d+)?")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of values. Floats are shown with three decimals, None as a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    def cells(self) -> list[list[str]]:
        """The rows as text."""
        return [[_text(value) for value in row] for row in self.rows]

    def numeric(self) -> list[bool]:
        """Which columns are right-aligned: those that hold only numbers.

        Texts such as 0.48-0.52, 3% or 12 of 33 count as numbers; in the first column they are names.
        """
        if not self.rows:
            return [False] * len(self.columns)
        first, *others = zip(*self.rows, strict=True)
        names = any(isinstance(value, str) for value in first)
        return [not names, *(all(map(_NUMBER.fullmatch, map(_text, column))) for column in others)]

    def log(self, *, max_rows: int | None = None) -> None:
        """Prints the table to the terminal and train.log, at most `max_rows` rows of it."""
        hidden = 0 if max_rows is None else max(0, len(self.rows) - max_rows)
        caption = f"... and {hidden} more rows: see report.html" if hidden else None
        table = rich.table.Table(title=self.title, title_justify="left", caption=caption, highlight=False)
        for column, right in zip(self.columns, self.numeric(), strict=True):
            table.add_column(column, justify="right" if right else "left", overflow="fold")
        for row in self.cells()[:max_rows]:
            table.add_row(*row)
        console = Console(soft_wrap=True, markup=False, emoji=False)  # class names may contain brackets
        with console.capture() as captured:
            console.print(table)
        for line in captured.get().rstrip().splitlines():
            log(line)


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else one_line(str(value))
