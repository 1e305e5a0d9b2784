"""The CSV files of Open Images: class names, and the boxes of the chosen classes, streamed block by block."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Int32, Int64
from pyarrow import csv as arrow_csv

from ssd.common.errors import ConfigError, DataError
from ssd.data.reading.classes import class_list
from ssd.data.validation import Report

SPLITS = {"train": "train", "val": "validation", "test": "test"}  # our name: name in Open Images
_BOX_FILES = ("{}-annotations-bbox.csv", "oidv6-{}-annotations-bbox.csv", "sub-{}-annotations-bbox.csv")
_CLASS_FILES = "*class-descriptions-boxable.csv"
_EDGES = ("XMin", "YMin", "XMax", "YMax")  # in the files: XMin, XMax, YMin, YMax
_FLAGS = ("IsGroupOf", "IsDepiction")
_TEXTS = ("ImageID", "LabelName")
_REQUIRED = (*_TEXTS, *_EDGES)
_TYPES = dict.fromkeys(_TEXTS, pa.string()) | dict.fromkeys(_EDGES, pa.float32()) | dict.fromkeys(_FLAGS, pa.int8())
_LINE = "line"  # our own column
_ID = "[0-9A-Za-z_-]+"  # an id becomes a path
_BLOCK = 1 << 22  # bytes read at a time
DOWNLOAD_HELP = (
    "ssd download dataset=openimages downloads what is missing; or get 2018_04/<split>/<split>-annotations-"
    "bbox.csv and 2018_04/class-descriptions-boxable.csv from https://storage.googleapis.com/openimages/ and the "
    "images into <root>/<split>/<ImageID>.jpg"
)


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


def find_files(root: Path) -> dict[str, Path]:
    """The CSV file of each split (train, val, test) that exists.

    Raises:
        DataError: no file for training.
    """
    candidates = {split: [root / name.format(theirs) for name in _BOX_FILES] for split, theirs in SPLITS.items()}
    found = {split: [path for path in paths if path.is_file()] for split, paths in candidates.items()}
    if not found["train"]:
        raise DataError(f"dataset.root={root}: no {_BOX_FILES[0].format('train')}. {DOWNLOAD_HELP}")
    return {split: paths[0] for split, paths in found.items() if paths}


def read_class_names(root: Path, report: Report) -> dict[str, str]:
    """Class name by MID, from the class file or from the ClassName column of a `sub-` file.

    Raises:
        DataError: there is neither, or a line is not MID,Name.
    """
    files = sorted(root.glob(_CLASS_FILES))
    if not files:
        return _class_names_of_boxes(root)
    names = {}
    for line, row in _csv_rows(files[0]):
        if len(row) >= 2 and row[0].startswith("/"):
            names[row[0]] = row[1].strip()
        elif line > 1:  # the first may be a header
            report.add(f"{files[0]}:{line}", f"{','.join(row)[:80]!r} is not MID,Name; correct the line", fatal=True)
    return names


def _class_names_of_boxes(root: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for path in sorted(root.glob(_BOX_FILES[2].format("*"))):
        rows = _csv_rows(path)
        header = next(rows, (1, []))[1]
        if "LabelName" in header and "ClassName" in header:
            mid, name = header.index("LabelName"), header.index("ClassName")
            names.update({row[mid]: row[name].strip() for _, row in rows if len(row) == len(header)})
    if not names:
        raise DataError(f"dataset.root={root}: no class-descriptions-boxable.csv. {DOWNLOAD_HELP}")
    return names


def choose_classes(
    chosen: Sequence[str] | None, names: dict[str, str], *, where: str, report: Report
) -> tuple[str, ...]:
    """The class list: the chosen names, in any case, as spelled in `names`; or all of them, sorted.

    Raises:
        ConfigError: a class is chosen twice, or none at all.
        DataError: there is no class of that name.
    """
    if chosen is not None and not chosen:
        raise ConfigError("dataset.classes=[]: give at least one class, or null for all")
    known = {name.casefold(): name for name in names.values()}
    return class_list(chosen, known.values(), where=where, report=report, defined_in=_CLASS_FILES)


def read_rows(path: Path, *, labels: dict[str, int], report: Report) -> Rows:
    """Reads the boxes of the classes in `labels` (by MID such as /m/0k4j); the others are never held in memory.

    Raises:
        DataError: a column is missing, a value is not a number, or an id could be a path; names file and line.
    """
    start, header = next(_csv_rows(path), (1, []))
    missing = [name for name in _REQUIRED if name not in header]
    if missing:
        found = ", ".join(header)[:200]
        raise DataError(f"{path}:{start}: no column {missing[0]!r} (found: {found}); download the file again")
    columns = [*_REQUIRED, *(name for name in _FLAGS if name in header)]
    try:
        return _read(path, columns, labels, start=start)
    except (pa.ArrowInvalid, ValueError) as error:
        # The fast reader fails without a line number, also at empty lines, which it cannot count: read again, slowly
        data, lines = _valid_rows(path, columns, labels, report)
        try:
            return replace(_read(data, columns, labels, start=1), lines=lines)
        except (pa.ArrowInvalid, ValueError):
            raise DataError(f"{path}: {str(error).splitlines()[0]}; download the file again") from error


def _read(source: Path | io.BytesIO, columns: list[str], labels: dict[str, int], *, start: int) -> Rows:
    """The rows of a file whose header is line `start`.

    Raises:
        ValueError: a value is wrong.
    """
    types = {name: _TYPES[name] for name in columns}
    label_of_mid = np.array(list(labels.values()), dtype=np.int32)
    numbers: dict[str, int] = {}
    schema = pa.schema(types | dict.fromkeys((*_TEXTS, _LINE), pa.int32()))
    table = pa.Table.from_batches(_batches(source, types, list(labels), numbers, start), schema=schema)
    boxes = np.empty((len(table), 4), dtype=np.float32)
    for side, edge in enumerate(_EDGES):
        boxes[:, side] = table[edge].to_numpy()
    ids_valid = pc.match_substring_regex(pa.array(list(numbers), pa.string()), f"^{_ID}$")
    if not np.isfinite(boxes).all() or not pc.all(ids_valid, min_count=0).as_py():
        raise ValueError("a number or an ImageID is wrong")
    flags = {name: table[name].to_numpy() == 1 for name in columns if name in _FLAGS}
    none = np.zeros(len(boxes), dtype=bool)
    rows = Rows(
        ids=list(numbers),
        image=table["ImageID"].to_numpy(),
        boxes=boxes,
        labels=label_of_mid[table["LabelName"].to_numpy()],
        group_of=flags.get("IsGroupOf", none),
        depiction=flags.get("IsDepiction", none),
        lines=table[_LINE].to_numpy(),
    )
    del table
    pa.default_memory_pool().release_unused()  # Arrow would keep 0.4 GB of the whole training file
    return rows


def _batches(
    source: Path | io.BytesIO, types: dict[str, pa.DataType], mids: list[str], numbers: dict[str, int], start: int
) -> Iterator[pa.RecordBatch]:
    """Rows of classes `mids`, with ImageID and LabelName as integers, and their lines; adds new ids to `numbers`."""
    reader = arrow_csv.open_csv(
        source,
        read_options=arrow_csv.ReadOptions(block_size=_BLOCK, use_threads=False, skip_rows=start - 1),
        parse_options=arrow_csv.ParseOptions(ignore_empty_lines=False),
        # null_values: "NaN" would become a null by default, and no check would find it
        convert_options=arrow_csv.ConvertOptions(include_columns=list(types), column_types=types, null_values=[]),
    )
    value_set = pa.array(mids, pa.string())
    for batch in reader:
        label = pc.index_in(batch["LabelName"], value_set=value_set)
        rows = np.flatnonzero(label.is_valid().to_numpy(zero_copy_only=False))
        lines = pa.array(rows + (start + 1), pa.int32())
        start += len(batch)
        chosen = batch.take(pa.array(rows))
        ids = chosen["ImageID"].dictionary_encode()
        number = [numbers.setdefault(id, len(numbers)) for id in ids.dictionary.to_pylist()]
        image = pa.array(number, pa.int32()).take(ids.indices)
        chosen = chosen.set_column(0, "ImageID", image).set_column(1, "LabelName", label.drop_null())
        yield chosen.append_column(_LINE, lines)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of the rows that are not blank."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        try:
            yield from ((reader.line_num, row) for row in reader if row)
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: not CSV: {error}; download the file again") from error


def _valid_rows(
    path: Path, columns: list[str], labels: dict[str, int], report: Report
) -> tuple[io.BytesIO, Int32[np.ndarray, "M"]]:
    """`columns` of the valid rows of the classes in `labels` as CSV, and their lines; reports the other rows."""
    rows = _csv_rows(path)
    header = next(rows, (1, []))[1]
    positions = [header.index(name) for name in columns]
    valid, lines = io.StringIO(), []
    writer = csv.writer(valid)
    writer.writerow(columns)
    for line, row in rows:
        if problem := _check_row(row, header):
            report.add(f"{path}:{line}", f"{problem}; correct the line", fatal=True)
        elif row[header.index("LabelName")] in labels:
            writer.writerow([row[position] for position in positions])
            lines.append(line)
    return io.BytesIO(valid.getvalue().encode(errors="surrogateescape")), np.array(lines, dtype=np.int32)


def _check_row(row: list[str], header: list[str]) -> str | None:
    """The first error in a row."""
    if len(row) != len(header):
        return f"{len(row)} columns, but {len(header)} in the header"
    for name, text in zip(header, row, strict=True):
        if name in _CHECKS and not _CHECKS[name][0](text):
            return f"{name} is {text[:80]!r}: {_CHECKS[name][1]}"
    return None


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float(np.finfo(np.float32).max)  # false for NaN, too
    except ValueError:
        return False


_CHECKS: dict[str, tuple[Callable[[str], bool], str]] = {
    "ImageID": (lambda text: bool(re.fullmatch(_ID, text)), "only letters, digits, - and _ are allowed"),
    **dict.fromkeys(_EDGES, (_is_number, "not a number (the decimal separator is a point)")),
    **dict.fromkeys(_FLAGS, (lambda text: text.strip() in ("-1", "0", "1"), "not 0, 1 or -1")),
}
