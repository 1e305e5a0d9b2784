"""metrics.csv: one row each time metrics are logged.

Lightning's CSVLogger deletes the file of an earlier run in the same folder, which a resumed run must keep.
"""

from __future__ import annotations

import csv
import io
import os
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from ssd.common.atomic_files import write_atomically
from ssd.common.errors import DataError
from ssd.common.untrusted_files import open_untrusted

_MAX_COLUMNS = 10_000
_MAX_DIGITS = 19


class CsvLogger(Logger):
    """Appends rows to `path`, and rewrites the file when a metric with a new name is logged.

    Args:
        purge_step: drop the rows from this step on, which a resumed run repeats.
    """

    def __init__(self, *, path: str, purge_step: int | None = None) -> None:
        super().__init__()
        self._path = Path(path)
        with self._rows() as (columns, rows):
            self._columns = columns
            if columns and purge_step is not None:
                self._write(row for row in rows if (step := _step(row)) is not None and step < purge_step)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Does nothing: .hydra/config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {**metrics, "step": step}
        if "epoch" in row:
            row["epoch"] = int(metrics["epoch"])
        if row.keys() <= set(self._columns):
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        else:
            with self._rows() as (columns, rows):
                self._columns = ["step", "epoch", *sorted({*columns, *row} - {"step", "epoch"})]
                self._write(chain(rows, [row]))

    @contextmanager
    def _rows(self) -> Iterator[tuple[list[str], Iterator[dict[str, Any]]]]:
        """The columns and the rows of the file, which may be large; none of a missing or empty file.

        Raises:
            DataError: it is not a file that this logger wrote.
        """
        if not os.path.lexists(self._path):
            yield [], iter(())
            return
        with open_untrusted(self._path) as file, io.TextIOWrapper(io.BufferedReader(file), "utf-8", newline="") as text:
            reader = csv.DictReader(text)
            try:
                columns = list(reader.fieldnames or [])
                if columns and not _are_columns(columns):
                    raise csv.Error(f"the columns must be step and others, each once, at most {_MAX_COLUMNS:,}")
                yield columns, _complete(reader)
            except (UnicodeDecodeError, csv.Error) as error:
                line = max(1, reader.line_num)
                fix = "restore the file, or remove it"
                raise DataError(f"{self._path}:{line}: not the metrics of a run: {error}; {fix}") from error

    @rank_zero_only
    def _write(self, rows: Iterable[dict[str, Any]]) -> None:
        def write(path: Path) -> None:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self._columns)
                writer.writeheader()
                writer.writerows(rows)

        write_atomically(self._path, write)


def _are_columns(names: list[str]) -> bool:
    return "step" in names and len(set(names)) == len(names) <= _MAX_COLUMNS


def _complete(reader: csv.DictReader[str]) -> Iterator[dict[str, Any]]:
    for row in reader:
        if None in row:
            raise csv.Error("more values than columns")
        yield row


def _step(row: dict[str, Any]) -> int | None:
    """The step of a row; None for a row that was cut off."""
    text = row["step"] or ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < _MAX_DIGITS else None
