"""Which annotations of a folder in VOC format belong to which split."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssd.common.errors import ConfigError, DataError
from ssd.common.image_formats import IMAGE_SUFFIXES
from ssd.common.text import read_text
from ssd.data.reading.division import UNDIVIDED, divide_by_folder
from ssd.data.reading.folder import FileTable, SourceFolder, base_name, split_of, stem_of
from ssd.data.validation import Report

DOWNLOAD_HELP = (
    "Give dataset.root=<folder of images and XML files>; ssd download dataset=voc dataset.root=DIR downloads "
    "PASCAL VOC 2007 and 2012"
)
_LIST_FOLDERS = ("imagesets/main", "imagesets")  # the first that has lists is used
_YEAR = re.compile(r"VOC20\d\d")
_PLAIN = re.compile(
    r"(train|val|trainval|training|valid|validation|test|testing|dev)([_-]?(list|set|ids|images|20\d\d))?"
)
_FLAG = re.compile(r"(.*\S)\s+(-1|0|1)")  # of a class that the image has, as difficult objects only, or has not
_PAIR = re.compile(r".*\.\w+\s+(.*\.xml)", re.IGNORECASE)  # image and annotation


@dataclass(frozen=True, slots=True)
class _SplitList:
    """A list of images: its path below the root, and that of the folder with its annotations."""

    path: str
    base: str

    @property
    def stem(self) -> str:
        return stem_of(base_name(self.path))

    @property
    def is_of_a_class(self) -> bool:
        """Whether it has the flags of a class, such as cat_train."""
        return _PLAIN.fullmatch(self.stem.lower()) is None and split_of([self.stem.rpartition("_")[2]]) is not None


def choose_splits(
    folder: SourceFolder, *, chosen: Mapping[str, Sequence[str] | None], report: Report
) -> dict[str, list[str]]:
    """The annotations of each split, or under UNDIVIDED: paths below the root. Their origin is noted in the report.

    Args:
        folder: the dataset.
        chosen: for each split the names of its lists; None selects lists automatically, an empty list means no split.
        report: gets wrong lines.

    Raises:
        ConfigError: a chosen list does not exist.
        DataError: no annotation, no image for training, or an unusable list.
    """
    annotations = folder.with_suffix(".xml")
    if not annotations:
        raise DataError(f"dataset.root={folder.root}: no XML file in it. {DOWNLOAD_HELP}")
    lists = _find_lists(folder)
    if not lists and any(chosen.values()):
        raise ConfigError(
            f"dataset.root={folder.root} has no ImageSets/Main, so splits cannot be chosen by name; omit "
            "dataset.*_splits"
        )
    if not lists:
        return divide_by_folder(annotations, kind="annotations", report=report)
    return _ListReader(folder, annotations, lists, report).read(chosen)


def _find_lists(folder: SourceFolder) -> dict[str, _SplitList]:
    """The lists by name, which starts with the folder of the dataset if that is not the root: `VOC2007/train`."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in folder.with_suffix(".txt"):
        parent = path.rpartition("/")[0]
        kind = next((kind for kind in _LIST_FOLDERS if f"/{parent.lower()}".endswith(f"/{kind}")), None)
        if kind is not None:
            found.setdefault(parent[: -len(kind)].rstrip("/"), {}).setdefault(kind, []).append(path)
        elif not parent and _PLAIN.fullmatch(stem_of(path).lower()):
            found.setdefault("", {}).setdefault("", []).append(path)
    lists = {}
    for base, kinds in sorted(found.items()):
        paths = next(kinds[kind] for kind in (*_LIST_FOLDERS, "") if kind in kinds)
        for path in paths:
            item = _SplitList(path, base)
            lists[f"{base_name(base)}/{item.stem}" if base else item.stem] = item
    return lists


class _ListReader:
    """Reads the lists of a dataset."""

    def __init__(
        self, folder: SourceFolder, annotations: Sequence[str], lists: Mapping[str, _SplitList], report: Report
    ) -> None:
        self._folder, self._annotations, self._lists, self._report = folder, annotations, lists, report
        self._tables: dict[str, FileTable] = {}

    def read(self, chosen: Mapping[str, Sequence[str] | None]) -> dict[str, list[str]]:
        automatic = _automatic(self._lists, self._is_empty)
        names: dict[str, list[str]] = {}
        for split in (*chosen, UNDIVIDED):
            entries = chosen.get(split)
            picked = automatic.get(split, []) if entries is None else [self._named(entry) for entry in entries]
            if split == UNDIVIDED and names["train"]:
                continue
            members = dict.fromkeys(name for item in picked for name in self._entries(item, all_lines=entries is None))
            if members or split in chosen:
                names[split] = list(members)
            if picked:
                files = ", ".join(item.path for item in picked)
                self._report.note(f"{'all' if split == UNDIVIDED else split}: {len(members)} images of {files}")
        return self._checked(names)

    def _checked(self, names: dict[str, list[str]]) -> dict[str, list[str]]:
        if UNDIVIDED in names:
            names = {UNDIVIDED: names[UNDIVIDED]}
        elif not names["train"] and not self._report.problems:
            raise DataError(
                f"{self._folder.root}: no image in the training split; give dataset.train_splits=[...], found: "
                f"{', '.join(self._lists)}"
            )
        listed = {name for members in names.values() for name in members}
        if unused := len(set(self._annotations) - listed):
            self._report.note(f"{unused} annotations are in no list of the splits, so they are not used")
        return names

    def _named(self, entry: str) -> _SplitList:
        matches = [item for name, item in self._lists.items() if entry in (name, item.stem)]
        exact = self._lists.get(entry)
        if exact is None and len(matches) != 1:
            raise ConfigError(
                f"dataset.root={self._folder.root}: no split {entry!r}; choose from {', '.join(self._lists)}"
            )
        return exact or matches[0]

    def _is_empty(self, item: _SplitList) -> bool:
        return not self._text(item).split()

    def _text(self, item: _SplitList) -> str:
        return read_text(self._folder.root / item.path, as_file_names=True)

    def _entries(self, item: _SplitList, *, all_lines: bool) -> Iterator[str]:
        """The annotations of a list; of the list of a class those of images with the class, unless `all_lines`."""
        if item.base not in self._tables:
            prefix = f"{item.base}/" if item.base else ""
            self._tables[item.base] = FileTable(name for name in self._annotations if name.startswith(prefix))
        table = self._tables[item.base]
        for number, line in enumerate(self._text(item).splitlines(), start=1):
            entry = line.strip()
            flagged = _FLAG.fullmatch(entry)
            if flagged and (item.is_of_a_class or not _find(table, entry)):
                entry, flag = flagged.groups()
                if flag == "-1" and not (all_lines and item.is_of_a_class):
                    continue
            if entry:
                with self._report.collect_errors():
                    yield self._annotation(table, entry, f"{self._folder.root / item.path}:{number}")

    def _annotation(self, table: FileTable, entry: str, location: str) -> str:
        found = _find(table, entry)
        if "\0" in entry or ".." in Path(entry).parts:
            raise DataError(f"{location}: {entry!r} is not an image's name; correct the line")
        if len(found) > 1:
            raise DataError(f"{location}: {entry!r} is {' or '.join(found)}; write the folder, too")
        if not found:
            raise DataError(f"{location}: {entry!r} has no XML file; correct the line, or add the annotation")
        return found[0]


def _find(table: FileTable, entry: str) -> list[str]:
    """The annotation that a line means: its path or that of the image, or both, with or without suffix."""
    if pair := _PAIR.fullmatch(entry):
        entry = pair.group(1)
    found = table.find(entry)
    if not found and entry.lower().endswith((*IMAGE_SUFFIXES, ".xml")):
        found = table.find(stem_of(entry))
    return found


def _automatic(lists: Mapping[str, _SplitList], is_empty: Callable[[_SplitList], bool]) -> dict[str, list[_SplitList]]:
    """The lists of each split, or of UNDIVIDED if their names mean no split."""
    by_base: dict[str, list[_SplitList]] = {}
    for item in lists.values():
        by_base.setdefault(item.base, []).append(item)
    chosen: dict[str, list[_SplitList]] = {}
    for base, items in by_base.items():
        for split, picked in _of_base(base, items, is_empty).items():
            chosen.setdefault(split, []).extend(picked)
    return chosen


def _of_base(
    base: str, items: Iterable[_SplitList], is_empty: Callable[[_SplitList], bool]
) -> dict[str, list[_SplitList]]:
    items = list(items)
    plain = [item for item in items if _PLAIN.fullmatch(item.stem.lower())]
    both = [item for item in plain if item.stem.lower().startswith("trainval")]
    if both and _YEAR.fullmatch(base_name(base)):  # the 07+12 recipe
        return {"train": both, "test": [item for item in plain if split_of([item.stem]) == "test"]}
    named = plain or [item for item in items if item.is_of_a_class]
    splits: dict[str, list[_SplitList]] = {"train": [], "val": [], "test": []}
    for item in named:
        split = split_of([item.stem.rpartition("_")[2] if not plain else item.stem])
        if item not in both and split is not None and not is_empty(item):
            splits[split].append(item)
    if both and not (splits["train"] and splits["val"]):
        splits["train"] = both
    return splits if splits["train"] else splits | {UNDIVIDED: [item for item in items if item not in named]}
