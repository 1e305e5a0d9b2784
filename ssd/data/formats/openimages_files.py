"""The files of a folder in the layout of Open Images, and the classes that they define."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssd.common.errors import ConfigError, DataError
from ssd.data.formats.openimages_csv import MID, NAME, csv_rows
from ssd.data.reading.classes import class_list
from ssd.data.validation import Report

SPLITS = {"train": "train", "val": "validation", "test": "test"}  # our name: name in Open Images
_OTHER_NAMES = {"train": ("train",), "val": ("validation", "val", "valid"), "test": ("test",)}
_BOX_FILES = ("{}-annotations-bbox.csv", "oidv6-{}-annotations-bbox.csv", "sub-{}-annotations-bbox.csv")
_FOLDERS = ("", "annotations", "csv_folder", "csv", "labels")
_CLASS_FILES = "*class-descriptions-boxable.csv"
DOWNLOAD_HELP = (
    "ssd download dataset=openimages downloads what is missing; or get 2018_04/<split>/<split>-annotations-"
    "bbox.csv and 2018_04/class-descriptions-boxable.csv from https://storage.googleapis.com/openimages/ and the "
    "images into <root>/<split>/<ImageID>.jpg"
)


def find_files(root: Path) -> dict[str, Path]:
    """The CSV file of each split (train, val, test) that exists.

    Raises:
        DataError: no file for training.
    """
    found: dict[str, Path] = {}
    for split, names in _OTHER_NAMES.items():
        paths = (root / folder / file.format(name) for folder in _FOLDERS for file in _BOX_FILES for name in names)
        if path := next((path for path in paths if path.is_file()), None):
            found[split] = path
    if "train" not in found:
        raise DataError(f"dataset.root={root}: no {_BOX_FILES[0].format('train')}. {DOWNLOAD_HELP}")
    return found


def image_folder(root: Path, split: str) -> Path:
    """Where the images of a split are, or should be."""
    folders = [root / below.format(name) for name in _OTHER_NAMES[split] for below in ("{}", "images/{}", "{}/images")]
    return next((folder for folder in reversed(folders) if _has_files(folder)), root / SPLITS[split])


def _has_files(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:  # iterdir would list millions for the first one
        return any(entry.is_file() for entry in entries)


@dataclass(frozen=True, slots=True)
class ClassNames:
    """Class name by MID or by text in the column ClassName; `mids` has the MID of such a text, if it has just one."""

    names: dict[str, str]
    mids: dict[str, str]


def read_class_names(root: Path, files: Sequence[Path], report: Report) -> ClassNames:
    """The classes of the class file, and of the box files with a column ClassName.

    Names that differ in case only are one class.

    Raises:
        DataError: there is neither, or a line is not MID,Name.
    """
    names: dict[str, str] = {}
    for path in sorted(path for folder in _FOLDERS for path in (root / folder).glob(_CLASS_FILES))[:1]:
        names |= _names_of_class_file(path, report)
    mids: dict[str, str] = {}
    for path in files:
        mids |= _read_column(path, report)
    names |= {text: text.strip() for text in mids}
    if not names:
        raise DataError(f"dataset.root={root}: no class-descriptions-boxable.csv. {DOWNLOAD_HELP}")
    return ClassNames(_merged(names, root, report), {text: mid for text, mid in mids.items() if mid})


def _names_of_class_file(path: Path, report: Report) -> dict[str, str]:
    names = {}
    for line, row in csv_rows(path):
        if len(row) >= 2 and row[0].strip().startswith("/"):
            names[row[0].strip()] = _as_text(row[1]).strip()
        elif line > 1:  # the first may be a header
            report.add(f"{path}:{line}", f"{','.join(row)[:80]!r} is not MID,Name; correct the line", fatal=True)
    return names


def _as_text(cell: str) -> str:
    """Bytes that are no UTF-8 are Latin-1, as old spreadsheets write it."""
    try:
        cell.encode()
    except UnicodeEncodeError:
        return cell.encode(errors="surrogateescape").decode("latin-1")
    return cell


def _read_column(path: Path, report: Report) -> dict[str, str]:
    """The texts of the column ClassName with their MIDs; empty for a text with several or none."""
    rows = csv_rows(path)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    if NAME not in header:
        return {}
    name, mid = header.index(NAME), header.index(MID) if MID in header else None
    pairs = {(row[name], "" if mid is None else row[mid].strip()) for _, row in rows if len(row) == len(header)}
    for shared, count in Counter(mid for _, mid in pairs if mid).items():
        if count > 1:
            texts = ", ".join(sorted(text.strip() for text, other in pairs if other == shared)[:5])
            report.add(path.name, f"{MID} {shared} stands for several classes: {texts}; {NAME} is used")
    counts = Counter(text for text, _ in pairs)
    return {text: mid if counts[text] == 1 else "" for text, mid in sorted(pairs)}


def _merged(names: dict[str, str], root: Path, report: Report) -> dict[str, str]:
    """The names, in one spelling where they differ in case only."""
    spelling: dict[str, str] = {}
    keys: dict[str, list[str]] = {}
    for key, name in names.items():
        spelling.setdefault(name.casefold(), name)
        keys.setdefault(name.casefold(), []).append(key)
    for folded, members in keys.items():
        mids = [key for key in members if key.startswith("/")]
        spelled = sorted({names[key] for key in members})
        if len(mids) > 1 or len(spelled) > 1:
            what = f"{', '.join(mids)} have one name" if len(mids) > 1 else f"{', '.join(spelled)} differ in case only"
            report.add(str(root), f"{what}: one class, {spelling[folded]!r}")
    return {key: spelling[name.casefold()] for key, name in names.items()}


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
    return class_list(chosen, set(names.values()), where=where, report=report, defined_in=_CLASS_FILES)
