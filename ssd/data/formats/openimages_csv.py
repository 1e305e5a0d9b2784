"""The CSV files of Open Images: class names, and the boxes of the classes asked for, streamed block by block."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Int32, Int64
from pyarrow import csv as arrow_csv

from ssd.common.errors import ConfigError, DataError
from ssd.data.splits import class_list
from ssd.data.validation import Report

SPLITS = {"train": "train", "val": "validation", "test": "test"}  # ours: theirs
_FILES = ("{}-annotations-bbox.csv", "oidv6-{}-annotations-bbox.csv", "sub-{}-annotations-bbox.csv")
_CLASS_FILES = "*class-descriptions-boxable.csv"
EDGES = ("XMin", "YMin", "XMax", "YMax")  # in the files: XMin, XMax, YMin, YMax
_FLAGS = ("IsGroupOf", "IsDepiction")
_TEXTS = ("ImageID", "LabelName")
_NEEDED = (*_TEXTS, *EDGES)
_TYPES = {"ImageID": pa.string(), "LabelName": pa.string(), "IsGroupOf": pa.int8(), "IsDepiction": pa.int8()}
_ID = "[0-9A-Za-z_-]+"  # an id becomes a path
_BLOCK = 1 << 22  # bytes read at a time
DOWNLOAD_HELP = (
    "python -m ssd download dataset=openimages fetches what is missing; or get 2018_04/<split>/<split>-annotations-bbox"
    ".csv and 2018_04/class-descriptions-boxable.csv from https://storage.googleapis.com/openimages/ and the images "
    "into <root>/<split>/<ImageID>.jpg"
)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a CSV that are of the classes asked for; N images, M boxes (xyxy fractions, not yet checked)."""

    ids: list[str]
    image: Int32[np.ndarray, "M"]
    boxes: Float32[np.ndarray, "M 4"]
    labels: Int32[np.ndarray, "M"]
    group_of: Bool[np.ndarray, "M"]
    depiction: Bool[np.ndarray, "M"]

    def take(self, rows: Int64[np.ndarray, "K"]) -> Rows:
        """These rows only, or again; the ids stay."""
        columns = (self.image, self.boxes, self.labels, self.group_of, self.depiction)
        return Rows(self.ids, *(column[rows] for column in columns))


def find_files(root: Path) -> dict[str, Path]:
    """The CSV file of each split (ours: train, val, test) that is there.

    Raises:
        DataError: none for training.
    """
    candidates = {split: [root / name.format(theirs) for name in _FILES] for split, theirs in SPLITS.items()}
    found = {split: [path for path in paths if path.is_file()] for split, paths in candidates.items()}
    if not found["train"]:
        raise DataError(f"dataset.root={root}: no {_FILES[0].format('train')}. {DOWNLOAD_HELP}")
    return {split: paths[0] for split, paths in found.items() if paths}


def read_class_names(root: Path, report: Report) -> dict[str, str]:
    """Name by MID, from the class file, or from the ClassName column of a `sub-` file.

    Raises:
        DataError: there is neither, or a line that is not MID,Name.
    """
    files = sorted(root.glob(_CLASS_FILES))
    if not files:
        return _names_in_rows(root)
    names = {}
    for line, row in read_lines(files[0]):
        with report.collect_errors():
            if len(row) >= 2 and row[0].startswith("/"):
                names[row[0]] = row[1].strip()
            elif line > 1:  # the first may be a header
                raise DataError(f"{files[0]}:{line}: {','.join(row)[:80]!r} is not MID,Name; correct the line")
    return names


def _names_in_rows(root: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for path in sorted(root.glob(_FILES[2].format("*"))):
        rows = read_lines(path)
        header = next(rows, (1, []))[1]
        if "LabelName" in header and "ClassName" in header:
            mid, name = header.index("LabelName"), header.index("ClassName")
            names.update({row[mid]: row[name].strip() for _, row in rows if len(row) == len(header)})
    if not names:
        raise DataError(f"dataset.root={root}: no class-descriptions-boxable.csv. {DOWNLOAD_HELP}")
    return names


def choose_classes(
    wanted: Sequence[str] | None, names: dict[str, str], *, where: str, report: Report
) -> tuple[str, ...]:
    """The class list: the names asked for, in any case, spelt as in `names`; or all of them, sorted.

    Raises:
        DataError: there is no class of that name; suggests one.
    """
    known = {name.casefold(): name for name in names.values()}
    if wanted is None:
        return class_list(None, known.values(), where=where, report=report)
    chosen = []
    for name in wanted:
        with report.collect_errors():
            if name.casefold() not in known:
                close = difflib.get_close_matches(name.casefold(), known, n=1)
                there = f"see {_CLASS_FILES} for the {len(known)} names"
                hint = f"did you mean {known[close[0]]!r}?" if close else there
                raise DataError(f"{where}: no class {name!r}; {hint} (dataset.classes)")
            chosen.append(known[name.casefold()])
    if not wanted:
        raise ConfigError("dataset.classes=[]: name a class, or null for all")
    return class_list(chosen, known.values(), where=where, report=report)


def read_rows(path: Path, *, labels: dict[str, int], report: Report) -> Rows:
    """Reads the boxes of the classes in `labels` (by MID such as /m/0k4j); the rest never fills the memory.

    Raises:
        DataError: a column is missing, a number is none, or an id could be a path; names file and line.
    """
    try:
        return _read(path, path, labels)
    except DataError:
        if not report.keep_going:
            raise
    return _read(path, _good_lines(path, labels, report), labels)


def _read(path: Path, source: Path | io.BytesIO, labels: dict[str, int]) -> Rows:
    types = {name: _TYPES.get(name, pa.float32()) for name in _columns(path)}
    label_of_mid = np.array(list(labels.values()), dtype=np.int32)
    numbers: dict[str, int] = {}
    try:
        batches = _batches(source, types, pa.array(list(labels), pa.string()), numbers)
        table = pa.Table.from_batches(batches, schema=pa.schema(types | dict.fromkeys(_TEXTS, pa.int32())))
    except pa.ArrowInvalid as error:
        raise _located(path, str(error).splitlines()[0]) from error
    boxes = np.empty((len(table), 4), dtype=np.float32)
    for side, edge in enumerate(EDGES):
        boxes[:, side] = table[edge].to_numpy()
    known = pc.match_substring_regex(pa.array(list(numbers), pa.string()), f"^{_ID}$")
    if not np.isfinite(boxes).all() or not pc.all(known, min_count=0).as_py():
        raise _located(path, "a number or an ImageID is wrong")
    flags = {name: table[name].to_numpy() == 1 for name in types if name in _FLAGS}
    none = np.zeros(len(boxes), dtype=bool)
    rows = Rows(
        ids=list(numbers),
        image=table["ImageID"].to_numpy(),
        boxes=boxes,
        labels=label_of_mid[table["LabelName"].to_numpy()],
        group_of=flags.get("IsGroupOf", none),
        depiction=flags.get("IsDepiction", none),
    )
    del table
    pa.default_memory_pool().release_unused()  # Arrow would keep 0.4 GB of the whole training file
    return rows


def _batches(
    source: Path | io.BytesIO, types: dict[str, pa.DataType], mids: pa.Array, numbers: dict[str, int]
) -> Iterator[pa.RecordBatch]:
    """Rows of the classes without text: ids are numbered in `numbers`, which grows, and classes by `mids`."""
    reader = arrow_csv.open_csv(
        source,
        read_options=arrow_csv.ReadOptions(block_size=_BLOCK, use_threads=False),
        # null_values: "NaN" would become a null, which no rule would meet
        convert_options=arrow_csv.ConvertOptions(include_columns=list(types), column_types=types, null_values=[]),
    )
    for batch in reader:
        label = pc.index_in(batch["LabelName"], value_set=mids)
        chosen = batch.filter(label.is_valid())
        ids = chosen["ImageID"].dictionary_encode()
        number = [numbers.setdefault(id, len(numbers)) for id in ids.dictionary.to_pylist()]
        image = pa.array(number, pa.int32()).take(ids.indices)
        yield chosen.set_column(0, "ImageID", image).set_column(1, "LabelName", label.drop_null())


def _columns(path: Path) -> list[str]:
    header = next(read_lines(path), (1, []))[1]
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise DataError(f"{path}:1: no column {missing[0]!r} (there are: {', '.join(header)[:200]}); fetch it again")
    return [*_NEEDED, *(name for name in _FLAGS if name in header)]


def read_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of the rows that are not blank."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        try:
            yield from ((reader.line_num, row) for row in reader if row)
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: not CSV: {error}; fetch it again") from error


def _located(path: Path, otherwise: str) -> DataError:
    """The error with its line, found by reading again, slowly: the fast reader does not know."""
    rows = read_lines(path)
    header = next(rows, (1, []))[1]
    try:
        for line, row in rows:
            _check_row(path, line, row, header)
    except DataError as error:
        return error
    return DataError(f"{path}: {otherwise}; fetch the file again")


def _good_lines(path: Path, labels: dict[str, int], report: Report) -> io.BytesIO:
    """The file without its wrong lines, which go to `report`, and without other classes."""
    rows = read_lines(path)
    header = next(rows, (1, []))[1]
    good = io.StringIO()
    writer = csv.writer(good)
    writer.writerow(header)
    for line, row in rows:
        with report.collect_errors():
            _check_row(path, line, row, header)
            if row[header.index("LabelName")] in labels:
                writer.writerow(row)
    return io.BytesIO(good.getvalue().encode(errors="surrogateescape"))


def _check_row(path: Path, line: int, row: list[str], header: list[str]) -> None:
    if len(row) != len(header):
        raise DataError(f"{path}:{line}: {len(row)} columns where the header has {len(header)}; correct the line")
    for name, text in zip(header, row, strict=True):
        if name in _TESTS and not _TESTS[name][0](text):
            raise DataError(f"{path}:{line}: {name} is {text[:80]!r}: {_TESTS[name][1]}; correct the line")


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float(np.finfo(np.float32).max)  # false for NaN, too
    except ValueError:
        return False


_TESTS: dict[str, tuple[Callable[[str], bool], str]] = {
    "ImageID": (lambda text: bool(re.fullmatch(_ID, text)), "refused: only letters, digits, - and _"),
    **dict.fromkeys(EDGES, (_is_number, "not a number (a point marks decimals)")),
    **dict.fromkeys(_FLAGS, (lambda text: text.strip() in ("-1", "0", "1"), "not 0, 1 or -1")),
}
