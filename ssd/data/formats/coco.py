"""COCO format: one JSON file for each split, in the folder layouts found in practice.

JSON files lie in the root, in annotations, or beside the images of a split; each image is searched for by its name. A
box is (x, y, width, height) in pixels, 0 is the left or upper edge of the image. Crowds are ignored regions; images
without boxes are negatives.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, Unpack

from ssd.common.errors import DataError
from ssd.common.untrusted_text import read_json
from ssd.data.formats.coco_files import DOWNLOAD_HELP, ImageFinder, choose_files
from ssd.data.reading.annotations import AnnotatedImage, AnnotatedObject, build_splits
from ssd.data.reading.division import UNDIVIDED
from ssd.data.reading.folder import SourceFolder
from ssd.data.reading.options import CommonOptions, ReadOptions
from ssd.data.splits import Splits
from ssd.data.validation import Report

_MAX_PX = 1e9
_MAX_LINE = 2**31  # of the lines in an index


@dataclass(slots=True)
class _CocoFile:
    """The content of a JSON file: its images by path, its categories, and those that are only a group of others."""

    images: dict[str, AnnotatedImage] = field(default_factory=dict)
    categories: dict[Any, str] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)


def read_coco(
    root: str,
    *,
    train_json: str | None = None,
    val_json: str | None = None,
    test_json: str | None = None,
    images: str | None = None,
    report: Report | None = None,
    **options: Unpack[CommonOptions],
) -> Splits:
    """Reads a folder in COCO format.

    Args:
        root: the folder of the dataset.
        train_json, val_json, test_json: paths below root; found by name if None, no such split if empty. A single
            JSON file is split by the seed; if only `val` is missing, a seeded tenth of `train` is held out.
        images: folder of the images, below root; searched for if None.
        report: gets every problem.
        options: see ReadOptions.

    Raises:
        ConfigError: a JSON file that does not exist, or several for one split.
        DataError: an unusable folder or file; names file, entry and fix.
    """
    if not Path(root).is_dir():
        raise DataError(f"dataset.root={root}: no such folder. {DOWNLOAD_HELP}")
    report, folder = report or Report(), SourceFolder(root)
    finder = ImageFinder(folder, images)
    files: dict[str, _CocoFile] = {}
    chosen = choose_files(folder, {"train": train_json, "val": val_json, "test": test_json})
    for split, name in chosen.items():
        with report.collect_errors():
            files[split] = _Parser(folder.root, name, split, finder, report).parse()
            label = "all" if split == UNDIVIDED else split
            report.note(f"{label}: {len(files[split].images)} images of {name}")
    if not any(file.images for file in files.values()):
        raise DataError(f"dataset.root={root}: no image in any JSON. {DOWNLOAD_HELP}")
    return build_splits(
        folder.root,
        {split: list(file.images.values()) for split, file in files.items()},
        options=ReadOptions(**options),
        report=report,
        defined_classes=_defined_classes(files.values()),
        hold_out_val=val_json is None,
    )


def _defined_classes(files: Iterable[_CocoFile]) -> set[str]:
    """All categories, used or not, but for groups without a box: Roboflow writes one for the whole dataset."""
    defined = {name for file in files for name in file.categories.values()}
    groups = {name for file in files for name in file.groups}
    used = {item.class_name for file in files for image in file.images.values() for item in image.objects}
    return defined - (groups - used) or defined


class _Parser:
    """Reads the JSON file `name`, below the root, of a split."""

    def __init__(self, root: Path, name: str, split: str, finder: ImageFinder, report: Report) -> None:
        self._path, self._name, self._split = root / name, name, split
        self._finder, self._report = finder, report

    def parse(self) -> _CocoFile:
        """Wrong entries go to the report.

        Raises:
            DataError: no COCO format, none of the images was found, or an entry where the report does not collect.
        """
        content = _load_json(self._path)
        file = _CocoFile()
        self._read_categories(content, file)
        by_id = self._images(content, file)
        annotations = self._entries(content, "annotations")
        ids = [item.get("id") for _, item in annotations]
        by_number = not all(type(id) is int and 0 <= id < _MAX_LINE for id in ids)  # then their ids name them
        source = f"{self._path}: annotation {'number ' if by_number else ''}"
        for image in file.images.values():
            image.source = source
        for number, item in annotations:
            line = number + 1 if by_number else item["id"]
            with self._report.collect_errors():
                _add_object(item, line, f"{source}{line}", by_id, file.categories)
        return file

    def _images(self, content: dict[str, Any], file: _CocoFile) -> dict[Any, AnnotatedImage]:
        by_id: dict[Any, AnnotatedImage] = {}
        found, name = 0, ""
        entries = self._entries(content, "images")
        for number, item in entries:
            where = f"{self._path}: image {_id(item.get('id'), number)}"
            with self._report.collect_errors():
                id = _key(item, "id", where)
                if id in by_id:
                    raise DataError(f"{where}: the id is used twice; give each image its own")
                size = (item.get("height"), item.get("width"))
                by_id[id] = image = AnnotatedImage("", "", "", size, where)
                name = _file_name(item, where)
                path = self._finder.find(name, near=self._name, split=self._split)
                found += path is not None
                if path is None and PureWindowsPath(name).anchor:
                    raise _refused(name, where)
                path = image.path = image.id = path or name
                if path in file.images:
                    raise DataError(f"{where}: {path} is listed twice; keep one entry")
                file.images[path] = image
        if by_id and not found:
            raise self._finder.none_found(self._path, name, len(entries))
        return by_id

    def _entries(self, content: dict[str, Any], key: str) -> list[tuple[int, dict[str, Any]]]:
        """The objects of a list of the file, with their positions."""
        entries = content.get(key)
        if not isinstance(entries, list):
            raise DataError(
                f"{self._path}: no list {key!r}: not in COCO format, or a file without boxes; use instances_*.json"
            )
        for number, item in enumerate(entries):
            if not isinstance(item, dict):
                rule = f"{key}: entry {number + 1} is {str(item)[:40]!r}, not an object"
                self._report.add(str(self._path), rule, fatal=True)
        return [(number, item) for number, item in enumerate(entries) if isinstance(item, dict)]

    def _read_categories(self, content: dict[str, Any], file: _CocoFile) -> None:
        """Name by id; ids have gaps, and each file may number its classes differently."""
        names: dict[Any, str] = file.categories
        parents: dict[str, str] = {}
        for number, item in self._entries(content, "categories"):
            where = f"{self._path}: category {_id(item.get('id'), number)}"
            with self._report.collect_errors():
                name = _category_name(item.get("name"), where)
                id = _key(item, "id", where)
                if id in names:
                    raise DataError(f"{where}: the id is used twice; give each category its own")
                if name in parents:
                    self._report.add(where, "another category has the same name; they are one class", value=name)
                names[id] = name
                parents[name] = str(item.get("supercategory"))
        used = {above for own, above in parents.items() if own != above}
        file.groups = {name for name in parents if name in used}


def _load_json(path: Path) -> dict[str, Any]:
    content = read_json(path, each=_without_outline)
    if not isinstance(content, dict):
        raise DataError(f"{path}: not in COCO format: it must be an object with images, annotations and categories")
    return content


def _without_outline(item: dict[str, Any]) -> dict[str, Any]:
    item.pop("segmentation", None)  # most of the file; as Python numbers it would fill the memory
    return item


def _category_name(name: object, where: str) -> str:
    """Some files have numbers for names."""
    text = str(name).strip() if isinstance(name, str | int) and not isinstance(name, bool) else ""
    if not text:
        raise DataError(f"{where}: name is {name!r}; it must be a text that is not empty")
    return text


def _id(value: object, number: int) -> str:
    return f"without id (entry {number + 1})" if value is None else str(value)[:40]


def _key(item: dict[str, Any], key: str, where: str) -> Any:
    value = item.get(key)
    if isinstance(value, float) and value.is_integer():  # 1.0 from a table
        return int(value)
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise DataError(f"{where}: {key} is {value!r}; it must be an integer or a text")
    return value


def _file_name(item: dict[str, Any], where: str) -> str:
    name = item.get("file_name")
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: file_name is {name!r}; it must be the name of the image")
    path = PureWindowsPath(name)  # accepts both kinds of slash
    if "\0" in name or ".." in path.parts:
        raise _refused(name, where)
    return name


def _refused(name: str, where: str) -> DataError:
    return DataError(f"{where}: file_name {name!r} is refused: it must be a path below the folder of the images")


def _add_object(
    item: dict[str, Any], line: int, where: str, images: dict[Any, AnnotatedImage], names: dict[Any, str]
) -> None:
    image = images.get(_key(item, "image_id", where))
    if image is None:
        raise DataError(f"{where}: image_id {item['image_id']!r} is not in images; remove it or add the image")
    name = names.get(_key(item, "category_id", where))
    if name is None:
        raise DataError(f"{where}: category_id {item['category_id']!r} is not in categories; correct it or add it")
    x, y, width, height = _box(item.get("bbox"), where)
    crowd = item.get("iscrowd")
    if crowd not in (0, 1, None, "0", "1"):
        raise DataError(f"{where}: iscrowd is {crowd!r}; it must be 0 or 1")
    image.objects.append(AnnotatedObject(name, (x, y, x + width, y + height), crowd in (1, "1"), line))


def _box(value: object, where: str) -> list[float]:
    with suppress(TypeError, OverflowError):
        if isinstance(value, list) and len(value) == 4 and not any(isinstance(edge, str | bool) for edge in value):
            edges = [float(edge) for edge in value]
            if all(abs(edge) < _MAX_PX for edge in edges):  # false for NaN, too
                return edges
    raise DataError(f"{where}: bbox is {str(value)[:80]}; it must be four numbers: x, y, width, height in pixels")
