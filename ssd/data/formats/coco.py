"""COCO format: one JSON file for each split, in the folder layouts found in practice.

Accepted are root/annotations/*.json, root/*.json, and JSON files beside the images of a split (root/train/*.json).
A box is (x, y, width, height) in pixels, 0 is the left or upper edge of the image. Crowds are ignored regions; images
without boxes are negatives.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, Unpack

from ssd.common.errors import DataError
from ssd.data.formats.coco_files import DOWNLOAD_HELP, choose_files, image_folders
from ssd.data.reading.annotations import AnnotatedImage, AnnotatedObject, build_splits
from ssd.data.reading.division import UNDIVIDED
from ssd.data.reading.options import CommonOptions, ReadOptions
from ssd.data.splits import Splits
from ssd.data.validation import Report

_MAX_PX = 1e9


@dataclass(slots=True)
class _CocoFile:
    """The content of a JSON file."""

    path: Path
    images: dict[str, AnnotatedImage] = field(default_factory=dict)  # by path, which is also the id of the image


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
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"dataset.root={root}: no such folder. {DOWNLOAD_HELP}")
    chosen = {"train": train_json, "val": val_json, "test": test_json}
    report = report or Report()
    categories: set[str] = set()
    files: dict[str, _CocoFile] = {}
    for split, path in choose_files(folder, chosen).items():
        with report.collect_errors():
            folders = image_folders(folder, path, split, images)
            files[split], names = _parse(path, folders, root=folder, report=report)
            categories.update(names)
    if not any(file.images for file in files.values()):
        raise DataError(f"dataset.root={root}: no image in any JSON. {DOWNLOAD_HELP}")
    images_of = {split: list(file.images.values()) for split, file in files.items()}
    if list(files) == ["train"] and val_json is None and test_json is None:
        images_of = {UNDIVIDED: images_of["train"]}
    return build_splits(
        folder,
        images_of,
        options=ReadOptions(**options),
        report=report,
        defined_classes=categories,
        hold_out_val=val_json is None,
    )


def _parse(path: Path, folders: list[Path], *, root: Path, report: Report) -> tuple[_CocoFile, set[str]]:
    """The images with their objects, and the names of all categories, used or not."""
    content = _load_json(path)
    names = _categories(path, content, report)
    file = _CocoFile(path)
    by_id: dict[Any, AnnotatedImage] = {}
    for number, item in _entries(path, content, "images", report):
        where = f"{path}: image {_id(item.get('id'), number)}"
        with report.collect_errors():
            if _key(item, "id", where) in by_id:
                raise DataError(f"{where}: the id is used twice; give each image its own")
            size = (item.get("height"), item.get("width"))
            by_id[item["id"]] = image = AnnotatedImage("", "", f"{path}: annotation ", size, where)
            image.path = image.id = _find(_file_name(item, where), folders, root)
            if image.path in file.images:
                raise DataError(f"{where}: {image.path} is listed twice; keep one entry")
            file.images[image.path] = image
    for number, item in _entries(path, content, "annotations", report):
        line = item["id"] if isinstance(item.get("id"), int) else number
        with report.collect_errors():
            _add_object(item, line, f"{path}: annotation {_id(item.get('id'), number)}", by_id, names)
    return file, set(names.values())


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes(), object_hook=_without_outline)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}; download or export the file again") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}; download or export the file again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not in COCO format: it must be an object with images, annotations and categories")
    return content


def _without_outline(item: dict[str, Any]) -> dict[str, Any]:
    item.pop("segmentation", None)  # most of the file; as Python numbers it would fill the memory
    return item


def _entries(path: Path, content: dict[str, Any], key: str, report: Report) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a list of the file, with their positions."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise DataError(f"{path}: no list {key!r}: not in COCO format, or a file without boxes; use instances_*.json")
    for number, item in enumerate(entries):
        if not isinstance(item, dict):
            report.add(str(path), f"{key}: entry {number + 1} is {str(item)[:40]!r}, not an object", fatal=True)
    return [(number, item) for number, item in enumerate(entries) if isinstance(item, dict)]


def _categories(path: Path, content: dict[str, Any], report: Report) -> dict[Any, str]:
    """Name by id; ids have gaps, and each file may number its classes differently."""
    names: dict[Any, str] = {}
    for number, item in _entries(path, content, "categories", report):
        where = f"{path}: category {_id(item.get('id'), number)}"
        name = item.get("name")
        with report.collect_errors():
            if not isinstance(name, str) or not name.strip():
                raise DataError(f"{where}: name is {name!r}; it must be a text that is not empty")
            if _key(item, "id", where) in names:
                raise DataError(f"{where}: the id is used twice; give each category its own")
            names[item["id"]] = name.strip()
    return names


def _id(value: object, number: int) -> str:
    return f"without id (entry {number + 1})" if value is None else str(value)[:40]


def _key(item: dict[str, Any], key: str, where: str) -> Any:
    value = item.get(key)
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise DataError(f"{where}: {key} is {value!r}; it must be an integer or a text")
    return value


def _file_name(item: dict[str, Any], where: str) -> str:
    name = item.get("file_name")
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: file_name is {name!r}; it must be the name of the image")
    path = PureWindowsPath(name)  # accepts both kinds of slash
    if "\0" in name or path.anchor or ".." in path.parts:
        raise DataError(f"{where}: file_name {name!r} is refused: it must be a path below the folder of the images")
    return name


def _find(name: str, folders: list[Path], root: Path) -> str:
    path = folders[0] / name
    with suppress(OSError):  # a name that is too long
        path = next((path for folder in folders if (path := folder / name).is_file()), path)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


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
    if item.get("iscrowd") not in (None, 0, 1):
        raise DataError(f"{where}: iscrowd is {item['iscrowd']!r}; it must be 0 or 1")
    image.objects.append(AnnotatedObject(name, (x, y, x + width, y + height), item.get("iscrowd") == 1, line))


def _box(value: object, where: str) -> list[float]:
    with suppress(TypeError, OverflowError):
        if isinstance(value, list) and len(value) == 4 and not any(isinstance(edge, str | bool) for edge in value):
            edges = [float(edge) for edge in value]
            if all(abs(edge) < _MAX_PX for edge in edges):  # false for NaN, too
                return edges
    raise DataError(f"{where}: bbox is {str(value)[:80]}; it must be four numbers: x, y, width, height in pixels")
