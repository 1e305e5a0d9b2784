"""metrics.csv: one row each time metrics are logged.

Lightning's CSVLogger deletes the file of an earlier run in the same folder, which a resumed run must keep.
"""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from ssd.common.atomic_files import write_atomically


class CsvLogger(Logger):
    """Appends rows to `path`, and rewrites the file when a metric with a new name is logged.

    Args:
        purge_step: drop the rows from this step on, which a resumed run repeats.
    """

    def __init__(self, *, path: str, purge_step: int | None = None) -> None:
        super().__init__()
        self._path = Path(path)
        self._columns, rows = self._read()
        if rows and purge_step is not None:
            self._write([row for row in rows if row["step"].isdigit() and int(row["step"]) < purge_step])

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
            with self._path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        else:
            columns, rows = self._read()
            self._columns = ["step", "epoch", *sorted({*columns, *row} - {"step", "epoch"})]
            self._write([*rows, row])

    def _read(self) -> tuple[list[str], list[dict[str, Any]]]:
        if not self._path.exists():
            return [], []
        with self._path.open(newline="") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or []), list(reader)

    @rank_zero_only
    def _write(self, rows: list[dict[str, Any]]) -> None:
        def write(path: Path) -> None:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, self._columns)
                writer.writeheader()
                writer.writerows(rows)

        write_atomically(self._path, write)
