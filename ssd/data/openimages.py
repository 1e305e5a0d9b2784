"""Open Images: one CSV of boxes for each split, pictures in <split>/<ImageID>.jpg, a list of class names.

Understood are the official files of versions 4 to 7, and those that the downloader of dusty-nv and jetsonai writes
(sub-<split>-annotations-bbox.csv, which name the classes themselves). Official files come first where both are there:
a `sub-` file may lack boxes of its pictures. 14.6 million rows are streamed; only those of the classes stay.

Only pictures with a box of the classes are used: in Open Images nobody looked for every class in every picture.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Int32, Int64
from pyarrow import csv as arrow_csv

from ssd.data.index import DetectionIndex, PackedStrings
from ssd.data.repair import Report, check_set_aside, repair
from ssd.data.splits import Splits, class_list
from ssd.errors import ConfigError, DataError
from ssd.images import IMAGE_SUFFIXES, read_below, read_size

_SPLITS = {"train": "train", "val": "validation", "test": "test"}  # ours: theirs
_FILES = ("{}-annotations-bbox.csv", "oidv6-{}-annotations-bbox.csv", "sub-{}-annotations-bbox.csv")
_CLASS_FILES = "*class-descriptions-boxable.csv"
_EDGES = ("XMin", "YMin", "XMax", "YMax")  # in the files: XMin, XMax, YMin, YMax
_FLAGS = ("IsGroupOf", "IsDepiction")
_NEEDED = ("ImageID", "LabelName", *_EDGES)
_TYPES = {"ImageID": pa.string(), "LabelName": pa.string(), "IsGroupOf": pa.int8(), "IsDepiction": pa.int8()}
_ID = "[0-9A-Za-z_-]+"  # an id becomes a path
_BLOCK = 1 << 22  # bytes read at a time
DOWNLOAD_HELP = (
    "Get 2018_04/<split>/<split>-annotations-bbox.csv and 2018_04/class-descriptions-boxable.csv from "
    "https://storage.googleapis.com/openimages/ and the pictures into <root>/<split>/<ImageID>.jpg"
)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a CSV that are of the classes asked for; N pictures, M boxes (xyxy fractions, not yet checked)."""

    ids: list[str]
    picture: Int64[np.ndarray, "M"]
    boxes: Float32[np.ndarray, "M 4"]
    labels: Int32[np.ndarray, "M"]
    group_of: Bool[np.ndarray, "M"]
    depiction: Bool[np.ndarray, "M"]


def read_openimages(root: str, *, classes: Sequence[str] | None, include_depictions: bool, strict: bool) -> Splits:
    """Reads a folder in the layout of Open Images.

    Args:
        root: the folder of the CSV files.
        classes: names as in the class file, in any case; None takes all that have a box.
        include_depictions: keeps drawings, photographs and statues of objects.
        strict: a box that would have to be mended is an error.

    Raises:
        ConfigError: a class listed twice.
        DataError: a file that cannot be used, an unknown class, or no picture to train on; names file, line and fix.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"dataset.root={root}: no such folder. {DOWNLOAD_HELP}")
    files = _find_files(folder)
    names = read_class_names(folder)
    class_names = _choose_classes(classes, names, where=root)
    labels = {mid: class_names.index(name) for mid, name in names.items() if name in class_names}
    rows = {split: read_rows(path, labels=labels) for split, path in files.items()}
    report = Report()
    if not include_depictions:
        rows = {split: _without_depictions(rows[split], path.name, report) for split, path in files.items()}
    if classes is None:
        class_names, rows = _only_used(class_names, rows, where=root)
    found = {s: _index(folder, path, _SPLITS[s], rows[s], class_names, report) for s, path in files.items()}
    indexes = {split: repair(index, report, strict=strict) for split, index in found.items() if len(index)}
    if "train" not in indexes:
        why = "; ".join(report.summary_lines())
        raise DataError(f"dataset.root={root}: no picture to train on: {why}. {DOWNLOAD_HELP}")
    return Splits(indexes.get("train"), indexes.get("val"), indexes.get("test"), report)


def read_rows(path: Path, *, labels: dict[str, int]) -> Rows:
    """Reads the boxes of the classes in `labels` (by MID such as /m/0k4j); the rest never fills the memory.

    Raises:
        DataError: a column is missing, a number is none, or an id could be a path; names file and line.
    """
    columns = _columns(path)
    types = {name: _TYPES.get(name, pa.float32()) for name in columns}
    mids = pa.array(list(labels), pa.string())
    label_of_mid = np.array(list(labels.values()), dtype=np.int32)
    try:
        table = pa.Table.from_batches(_batches(path, types, mids), schema=pa.schema(types))
    except pa.ArrowInvalid as error:
        raise _located(path, str(error).splitlines()[0]) from error
    ids = table["ImageID"].dictionary_encode().combine_chunks()
    boxes = np.column_stack([table[edge].to_numpy() for edge in _EDGES])
    known = pc.match_substring_regex(ids.dictionary, f"^{_ID}$")
    if not np.isfinite(boxes).all() or not pc.all(known, min_count=0).as_py():
        raise _located(path, "a number or an ImageID is wrong")
    flags = {name: table[name].to_numpy() == 1 for name in columns if name in _FLAGS}
    none = np.zeros(len(boxes), dtype=bool)
    return Rows(
        ids=ids.dictionary.to_pylist(),
        picture=ids.indices.to_numpy().astype(np.int64),
        boxes=boxes,
        labels=label_of_mid[pc.index_in(table["LabelName"], value_set=mids).to_numpy()],
        group_of=flags.get("IsGroupOf", none),
        depiction=flags.get("IsDepiction", none),
    )


def _batches(path: Path, types: dict[str, pa.DataType], mids: pa.Array) -> Iterator[pa.RecordBatch]:
    reader = arrow_csv.open_csv(
        path,
        read_options=arrow_csv.ReadOptions(block_size=_BLOCK, use_threads=False),
        # null_values: "NaN" would become a null, which no rule would meet
        convert_options=arrow_csv.ConvertOptions(include_columns=list(types), column_types=types, null_values=[]),
    )
    for batch in reader:
        yield batch.filter(pc.is_in(batch["LabelName"], value_set=mids))


def _columns(path: Path) -> list[str]:
    header = next(_lines(path), (1, []))[1]
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise DataError(f"{path}:1: no column {missing[0]!r} (there are: {', '.join(header)[:200]}); fetch it again")
    return [*_NEEDED, *(name for name in _FLAGS if name in header)]


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of the rows that are not blank."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        try:
            yield from ((reader.line_num, row) for row in reader if row)
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: not CSV: {error}; fetch it again") from error


def _located(path: Path, otherwise: str) -> DataError:
    """The error with its line, found by reading again, slowly: the fast reader does not know."""
    rows = _lines(path)
    header = next(rows, (1, []))[1]
    tests: dict[str, tuple[Callable[[str], bool], str]] = {
        "ImageID": (lambda text: bool(re.fullmatch(_ID, text)), "refused: only letters, digits, - and _"),
        **dict.fromkeys(_EDGES, (_is_number, "not a number (a point marks decimals)")),
        **dict.fromkeys(_FLAGS, (lambda text: text.strip() in ("-1", "0", "1"), "not 0, 1 or -1")),
    }
    for line, row in rows:
        if len(row) != len(header):
            return DataError(f"{path}:{line}: {len(row)} columns where the header has {len(header)}; correct the line")
        for name, text in zip(header, row, strict=True):
            if name in tests and not tests[name][0](text):
                return DataError(f"{path}:{line}: {name} is {text[:80]!r}: {tests[name][1]}; correct the line")
    return DataError(f"{path}: {otherwise}; fetch the file again")


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float(np.finfo(np.float32).max)  # false for NaN, too
    except ValueError:
        return False


def _find_files(root: Path) -> dict[str, Path]:
    candidates = {split: [root / name.format(theirs) for name in _FILES] for split, theirs in _SPLITS.items()}
    found = {split: [path for path in paths if path.is_file()] for split, paths in candidates.items()}
    if not found["train"]:
        raise DataError(f"dataset.root={root}: no {_FILES[0].format('train')}. {DOWNLOAD_HELP}")
    return {split: paths[0] for split, paths in found.items() if paths}


def read_class_names(root: Path) -> dict[str, str]:
    """Name by MID, from the class file, or from the ClassName column of a `sub-` file.

    Raises:
        DataError: there is neither, or a line that is not MID,Name.
    """
    files = sorted(root.glob(_CLASS_FILES))
    if not files:
        return _names_in_rows(root)
    names = {}
    for line, row in _lines(files[0]):
        if len(row) >= 2 and row[0].startswith("/"):
            names[row[0]] = row[1].strip()
        elif line > 1:  # the first may be a header
            raise DataError(f"{files[0]}:{line}: {','.join(row)[:80]!r} is not MID,Name; correct the line")
    return names


def _names_in_rows(root: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for path in sorted(root.glob(_FILES[2].format("*"))):
        rows = _lines(path)
        header = next(rows, (1, []))[1]
        if "LabelName" in header and "ClassName" in header:
            mid, name = header.index("LabelName"), header.index("ClassName")
            names.update({row[mid]: row[name].strip() for _, row in rows if len(row) == len(header)})
    if not names:
        raise DataError(f"dataset.root={root}: no class-descriptions-boxable.csv. {DOWNLOAD_HELP}")
    return names


def _choose_classes(wanted: Sequence[str] | None, names: dict[str, str], *, where: str) -> tuple[str, ...]:
    known = {name.casefold(): name for name in names.values()}
    if wanted is None:
        return class_list(None, known.values(), where=where)
    chosen = []
    for name in wanted:
        if name.casefold() not in known:
            close = difflib.get_close_matches(name.casefold(), known, n=1)
            hint = f"did you mean {known[close[0]]!r}?" if close else f"see {_CLASS_FILES} for the {len(known)} names"
            raise DataError(f"{where}: no class {name!r}; {hint} (dataset.classes)")
        chosen.append(known[name.casefold()])
    if not chosen:
        raise ConfigError("dataset.classes=[]: name a class, or null for all")
    return class_list(chosen, known.values(), where=where)


def _only_used(names: tuple[str, ...], rows: dict[str, Rows], *, where: str) -> tuple[tuple[str, ...], dict[str, Rows]]:
    """The class list without those that have no box in any split, and the rows with labels to fit."""
    used = np.unique(np.concatenate([item.labels for item in rows.values()]))
    labels = {split: np.searchsorted(used, item.labels).astype(np.int32) for split, item in rows.items()}
    fewer = class_list(None, (names[label] for label in used), where=where)
    return fewer, {split: replace(item, labels=labels[split]) for split, item in rows.items()}


def _without_depictions(rows: Rows, file: str, report: Report) -> Rows:
    if not rows.depiction.any():
        return rows
    report.add(file, f"{int(rows.depiction.sum())} depictions left out (dataset.include_depictions)")
    by_box = ("picture", "boxes", "labels", "group_of", "depiction")
    return replace(rows, **{name: getattr(rows, name)[~rows.depiction] for name in by_box})


def _index(
    root: Path, file: Path, split: str, rows: Rows, class_names: tuple[str, ...], report: Report
) -> DetectionIndex:
    folder = next((path for path in (root / split, root / "images" / split) if path.is_dir()), root / split)
    on_disk = _pictures(folder)
    wanted = np.unique(rows.picture).tolist()
    present = [number for number in wanted if rows.ids[number] in on_disk]
    if not wanted:
        report.add(file.name, "no box of the classes, so no such split")
    if missing := len(wanted) - len(present):
        report.add(file.name, f"{missing} of {len(wanted)} pictures left out: not in {folder}")
    paths = {number: (folder / on_disk[rows.ids[number]]).relative_to(root).as_posix() for number in present}
    sizes = _sizes(root, paths, report)
    numbers = np.full(len(rows.ids), -1, dtype=np.int64)
    numbers[list(sizes)] = np.arange(len(sizes))
    picture = numbers[rows.picture]
    order = np.argsort(picture, kind="stable")[np.count_nonzero(picture < 0) :]
    counts = np.bincount(picture[order], minlength=len(sizes))
    return DetectionIndex(
        class_names=class_names,
        load=partial(read_below, str(root)),
        paths=PackedStrings.pack(paths[number] for number in sizes),
        ids=PackedStrings.pack(rows.ids[number] for number in sizes),
        sizes=np.array(list(sizes.values()), dtype=np.int32).reshape(-1, 2),
        box_offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        boxes=rows.boxes[order],
        labels=rows.labels[order],
        ignore=rows.group_of[order],
    )


def _pictures(folder: Path) -> dict[str, str]:
    """File names by stem."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return {Path(name).stem: name for name in names if name.lower().endswith(IMAGE_SUFFIXES)}


def _sizes(root: Path, paths: dict[int, str], report: Report) -> dict[int, tuple[int, int]]:
    sizes, broken = {}, []
    for number, path in paths.items():
        try:
            sizes[number] = read_size(root / path)
        except DataError as error:
            broken.append((path, str(error)))
    check_set_aside(broken, pictures=len(paths), report=report)
    return sizes
