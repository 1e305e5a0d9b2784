"""The boxes of the chosen classes from the CSV files of Open Images, streamed block by block."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Int32, Int64
from pyarrow import csv as arrow_csv

from ssd.common.errors import DataError
from ssd.common.image_formats import IMAGE_SUFFIXES
from ssd.common.untrusted_files import open_untrusted
from ssd.data.reading.folder import stem_of
from ssd.data.validation import Report

_EDGES = ("XMin", "YMin", "XMax", "YMax")  # in the files: XMin, XMax, YMin, YMax
_FLAGS = ("IsGroupOf", "IsDepiction")
MID, NAME = "LabelName", "ClassName"  # a file that has both goes by the name: some have one MID for all classes
_TYPES = (
    dict.fromkeys(("ImageID", MID, NAME), pa.string())
    | dict.fromkeys(_EDGES, pa.float32())
    | dict.fromkeys(_FLAGS, pa.int8())
)
_LINE = "line"  # our own column
_FILE_NAME = r"[^/\\\x00-\x1f]+"
OFFICIAL_ID = "[0-9A-Za-z_-]+"
_BLOCK = 1 << 22  # bytes read at a time


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a CSV file with the chosen classes; N images, M boxes (xyxy fractions, not yet validated)."""

    ids: list[str]
    image: Int32[np.ndarray, "M"]
    boxes: Float32[np.ndarray, "M 4"]
    labels: Int32[np.ndarray, "M"]
    group_of: Bool[np.ndarray, "M"]
    depiction: Bool[np.ndarray, "M"]
    lines: Int32[np.ndarray, "M"]

    def take(self, rows: Int64[np.ndarray, "K"]) -> Rows:
        """Only these rows; `ids` stays the same."""
        columns = (self.image, self.boxes, self.labels, self.group_of, self.depiction, self.lines)
        return Rows(self.ids, *(column[rows] for column in columns))


def read_rows(path: Path, *, labels: dict[str, int], report: Report, id_pattern: str = _FILE_NAME) -> Rows:
    """Reads the boxes of the classes in `labels`; the others are never held in memory.

    Keys of `labels` are MIDs such as /m/0k4j, or texts of the column ClassName where the file has it.

    Args:
        path: the file.
        labels: by key.
        report: gets wrong rows.
        id_pattern: what ids must look like.

    Raises:
        DataError: a column is missing, a value is not a number, or an id is wrong; names file and line.
    """
    start, written = next(csv_rows(path), (1, []))
    header = [name.strip() for name in written]
    texts = ("ImageID", NAME if NAME in header else MID)
    missing = [name for name in (*texts, *_EDGES) if name not in header]
    if missing:
        found = ", ".join(header)[:200]
        raise DataError(f"{path}:{start}: no column {missing[0]!r} (found: {found}); download the file again")
    columns = [*texts, *_EDGES, *(name for name in _FLAGS if name in header)]
    try:
        if header != written:
            raise ValueError(f"spaces around the names of columns: {','.join(written)}")
        return _read(path, columns, labels, id_pattern, start=start)
    except (pa.ArrowInvalid, ValueError) as error:
        # The fast reader fails without a line number, also at empty lines, which it cannot count: read again, slowly
        data, lines = _valid_rows(path, columns, labels, id_pattern, report)
        try:
            return replace(_read(data, columns, labels, id_pattern, start=1), lines=lines)
        except (pa.ArrowInvalid, ValueError):
            raise DataError(f"{path}: {str(error).splitlines()[0]}; download the file again") from error


def _read(
    source: Path | io.BytesIO, columns: list[str], labels: dict[str, int], id_pattern: str, *, start: int
) -> Rows:
    """The rows of a file whose header is line `start`.

    Raises:
        ValueError: a value is wrong.
    """
    types = {name: _TYPES[name] for name in columns}
    label_of_mid = np.array(list(labels.values()), dtype=np.int32)
    numbers: dict[str, int] = {}
    schema = pa.schema(types | dict.fromkeys((*columns[:2], _LINE), pa.int32()))
    table = pa.Table.from_batches(_batches(source, types, list(labels), numbers, start), schema=schema)
    boxes = np.empty((len(table), 4), dtype=np.float32)
    for side, edge in enumerate(_EDGES):
        boxes[:, side] = table[edge].to_numpy()
    ids_valid = pc.match_substring_regex(pa.array(list(numbers), pa.string()), f"^(?:{id_pattern})$")
    if not np.isfinite(boxes).all() or not pc.all(ids_valid, min_count=0).as_py():
        raise ValueError("a number or an ImageID is wrong")
    flags = {name: table[name].to_numpy() == 1 for name in columns if name in _FLAGS}
    none = np.zeros(len(boxes), dtype=bool)
    rows = Rows(
        ids=list(numbers),
        image=table["ImageID"].to_numpy(),
        boxes=boxes,
        labels=label_of_mid[table[columns[1]].to_numpy()],
        group_of=flags.get("IsGroupOf", none),
        depiction=flags.get("IsDepiction", none),
        lines=table[_LINE].to_numpy(),
    )
    del table
    pa.default_memory_pool().release_unused()  # Arrow would keep 0.4 GB of the whole training file
    return rows


def _batches(
    source: Path | io.BytesIO, types: dict[str, pa.DataType], keys: list[str], numbers: dict[str, int], start: int
) -> Iterator[pa.RecordBatch]:
    """Rows of the classes `keys`, with image and class as integers, and their lines; adds new ids to `numbers`."""
    reader = arrow_csv.open_csv(
        source,
        read_options=arrow_csv.ReadOptions(block_size=_BLOCK, use_threads=False, skip_rows=start - 1),
        parse_options=arrow_csv.ParseOptions(ignore_empty_lines=False),
        # null_values: "NaN" would become a null by default, and no check would find it
        convert_options=arrow_csv.ConvertOptions(include_columns=list(types), column_types=types, null_values=[]),
    )
    column = list(types)[1]
    value_set = pa.array([key.strip() for key in keys], pa.string())
    for batch in reader:
        label = pc.index_in(pc.utf8_trim_whitespace(batch[column]), value_set=value_set)
        rows = np.flatnonzero(label.is_valid().to_numpy(zero_copy_only=False))
        lines = pa.array(rows + (start + 1), pa.int32())
        start += len(batch)
        chosen = batch.take(pa.array(rows))
        ids = chosen["ImageID"].dictionary_encode()
        number = [numbers.setdefault(_plain_id(id), len(numbers)) for id in ids.dictionary.to_pylist()]
        image = pa.array(number, pa.int32()).take(ids.indices)
        chosen = chosen.set_column(0, "ImageID", image).set_column(1, column, label.drop_null())
        yield chosen.append_column(_LINE, lines)


def _plain_id(text: str) -> str:
    """Without spaces around it, and without the extension of an image."""
    name = text.strip()
    return stem_of(name) if name.lower().endswith(IMAGE_SUFFIXES) else name


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of the rows that are not blank."""
    raw = io.BufferedReader(open_untrusted(path))
    with io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        try:
            yield from ((reader.line_num, row) for row in reader if row)
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: not CSV: {error}; download the file again") from error


def _valid_rows(
    path: Path, columns: list[str], labels: dict[str, int], id_pattern: str, report: Report
) -> tuple[io.BytesIO, Int32[np.ndarray, "M"]]:
    """`columns` of the valid rows of the classes in `labels` as CSV, and their lines; reports the other rows."""
    rows = csv_rows(path)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    positions = [header.index(name) for name in columns]
    keys = {key.strip() for key in labels}
    valid, lines = io.StringIO(), []
    writer = csv.writer(valid)
    writer.writerow(columns)
    for line, row in rows:
        if problem := _check_row(row, header, id_pattern):
            report.add(f"{path}:{line}", f"{problem}; correct the line", fatal=True)
        elif row[positions[1]].strip() in keys:
            writer.writerow([row[position] for position in positions])
            lines.append(line)
    return io.BytesIO(valid.getvalue().encode(errors="surrogateescape")), np.array(lines, dtype=np.int32)


def _check_row(row: list[str], header: list[str], id_pattern: str) -> str | None:
    """The first error in a row."""
    if len(row) != len(header):
        return f"{len(row)} columns, but {len(header)} in the header"
    for name, text in zip(header, row, strict=True):
        if name in _CHECKS and not _CHECKS[name][0](text):
            return f"{name} is {text[:80]!r}: {_CHECKS[name][1]}"
        if name == "ImageID" and not re.fullmatch(id_pattern, _plain_id(text)):
            return f"ImageID is {text[:80]!r}: it must be the name of an image, without a folder"
    return None


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float(np.finfo(np.float32).max)  # false for NaN, too
    except ValueError:
        return False


_CHECKS: dict[str, tuple[Callable[[str], bool], str]] = {
    **dict.fromkeys(_EDGES, (_is_number, "not a number (the decimal separator is a point)")),
    **dict.fromkeys(_FLAGS, (lambda text: text.strip() in ("-1", "0", "1"), "not 0, 1 or -1")),
}
