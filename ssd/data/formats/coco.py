"""COCO format: one JSON for each split, in the folders that people really have.

Found are root/annotations/*.json, root/*.json, and JSON files beside the images of a split (root/train/*.json).
A box is (x, y, width, height) in pixels, the first of which is 0. Crowds are ignored regions; images without boxes
are negatives.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

from ssd.common.errors import DataError
from ssd.common.images import read_below, read_size
from ssd.data.formats.coco_files import DOWNLOAD_HELP, choose_files, image_folders
from ssd.data.index import DetectionIndex, ImageRecord, build_index
from ssd.data.splits import VALIDATION_SHARE, Splits, class_list, hold_out, seeded_split
from ssd.data.validation import Report, check_set_aside, describe_image, repair

_FAR_PX = 1e9


@dataclass(slots=True)
class _Image:
    """One entry of `images` and its boxes, not yet measured."""

    path: str  # below the root, where the file is or should be
    written_size: tuple[Any, Any]  # (H, W)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)  # xywh, pixels
    classes: list[str] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    entries: list[str] = field(default_factory=list)  # file and annotation of each box, where they will be told


_Images = dict[str, _Image]  # by path


def read_coco(
    root: str,
    *,
    classes: Sequence[str] | None,
    train_json: str | None,
    val_json: str | None,
    test_json: str | None,
    images: str | None,
    strict: bool,
    seed: int,
    report: Report | None = None,
) -> Splits:
    """Reads a folder in COCO format.

    Args:
        classes: the class list; all categories of the files when None. Objects of others are left out and counted.
        train_json, val_json, test_json: below root; found by name when None, no such split when empty. Where there
            is one JSON only, it is split by the seed; where `val` alone is missing, a tenth of `train` is held out.
        images: the folder of the images, below root; looked for when None.
        strict, seed: a box that would have to be mended is an error; of the held-out images.
        report: takes down what is wrong.

    Raises:
        ConfigError: a JSON that does not exist, or several for one split.
        DataError: a folder or file that cannot be used; names the file, the entry and the fix.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"dataset.root={root}: no such folder. {DOWNLOAD_HELP}")
    chosen = {"train": train_json, "val": val_json, "test": test_json}
    report = Report() if report is None else report
    categories: set[str] = set()
    files: dict[str, _Images] = {}
    for split, path in choose_files(folder, chosen).items():
        with report.collect_errors():
            folders = image_folders(folder, path, split, images)
            files[split] = _parse(path, folders, root=folder, categories=categories, report=report, tell=strict)
    class_names = class_list(classes, categories, where=root, report=report)
    splits = _split(files, chosen, seed=seed)
    build = partial(_index, folder, class_names=class_names, report=report, strict=strict)
    indexes = {split: build(members) for split, members in splits.items() if members}
    if not indexes:
        raise DataError(f"dataset.root={root}: no image in any JSON. {DOWNLOAD_HELP}")
    return Splits(indexes.get("train"), indexes.get("val"), indexes.get("test"), report)


def _split(files: dict[str, _Images], chosen: dict[str, str | None], *, seed: int) -> dict[str, list[_Image]]:
    names = {split: list(images) for split, images in files.items()}
    if list(names) == ["train"] and chosen["val"] is None and chosen["test"] is None:
        names = seeded_split(names["train"], seed=seed)
    elif "train" in names and "val" not in names and chosen["val"] is None:
        names["train"], names["val"] = hold_out(names["train"], share=VALIDATION_SHARE, seed=seed)
    owners = {split: files[split if split in files else "train"] for split in names}
    return {split: [owners[split][name] for name in found] for split, found in names.items()}


def _parse(
    path: Path, folders: list[Path], *, root: Path, categories: set[str], report: Report, tell: bool
) -> dict[str, _Image]:
    """The images; adds the names of all categories, used or not. With `tell`, boxes keep their entries' names."""
    content = _load_json(path)
    names = _categories(path, content, report)
    categories.update(names.values())
    by_id: dict[Any, _Image] = {}
    by_path: _Images = {}
    for number, item in enumerate(_entries(path, content, "images", report)):
        where = f"{path}: image {_id(item, number)}"
        with report.collect_errors():
            if _key(item, "id", where) in by_id:
                raise DataError(f"{where}: the id is used twice; give each image its own")
            by_id[item["id"]] = image = _Image("", (item.get("height"), item.get("width")))
            image.path = _find(_file_name(item, where), folders, root)
            if image.path in by_path:
                raise DataError(f"{where}: {image.path} is listed twice; keep one entry")
            by_path[image.path] = image
    for number, item in enumerate(_entries(path, content, "annotations", report)):
        with report.collect_errors():
            where = f"{path}: annotation {_id(item, number)}"
            image = _add_box(item, where, by_id, names)
            if tell or report.keep_going:
                image.entries.append(where)
    return by_path


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes(), object_hook=_without_outline)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}; fetch the file again") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}; fetch the file again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not in COCO format: an object with images, annotations and categories is needed")
    return content


def _without_outline(item: dict[str, Any]) -> dict[str, Any]:
    item.pop("segmentation", None)  # most of the file; as Python numbers it would fill the memory
    return item


def _entries(path: Path, content: dict[str, Any], key: str, report: Report) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list):
        raise DataError(f"{path}: no list {key!r}: not in COCO format, or made without boxes; use instances_*.json")
    for number, item in enumerate(entries):
        with report.collect_errors():
            if not isinstance(item, dict):
                raise DataError(f"{path}: {key}: entry {number + 1} is {str(item)[:40]!r}, not an object")
    return [item for item in entries if isinstance(item, dict)]


def _categories(path: Path, content: dict[str, Any], report: Report) -> dict[Any, str]:
    """Name by id; ids have gaps, and each file may number its classes differently."""
    names: dict[Any, str] = {}
    for number, item in enumerate(_entries(path, content, "categories", report)):
        where = f"{path}: category {_id(item, number)}"
        name = item.get("name")
        with report.collect_errors():
            if not isinstance(name, str) or not name.strip():
                raise DataError(f"{where}: name is {name!r}; give it one")
            if _key(item, "id", where) in names:
                raise DataError(f"{where}: the id is used twice; give each category its own")
            names[item["id"]] = name.strip()
    return names


def _id(item: dict[str, Any], number: int) -> str:
    return str(item["id"])[:40] if "id" in item else f"without id (entry {number + 1})"


def _key(item: dict[str, Any], key: str, where: str) -> Any:
    value = item.get(key)
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise DataError(f"{where}: {key} is {value!r}, not a number or text; write one")
    return value


def _file_name(item: dict[str, Any], where: str) -> str:
    name = item.get("file_name")
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: file_name is {name!r}; write the image's name")
    path = PureWindowsPath(name)  # knows both kinds of slash
    if "\0" in name or path.anchor or ".." in path.parts:
        raise DataError(f"{where}: file_name {name!r} is refused: it must be a path below the folder of the images")
    return name


def _find(name: str, folders: list[Path], root: Path) -> str:
    path = folders[0] / name
    with suppress(OSError):  # a name that is too long
        path = next((path for folder in folders if (path := folder / name).is_file()), path)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _add_box(item: dict[str, Any], where: str, images: dict[Any, _Image], names: dict[Any, str]) -> _Image:
    """The image that has it now."""
    image = images.get(_key(item, "image_id", where))
    if image is None:
        raise DataError(f"{where}: image_id {item['image_id']!r} is not in images; remove it or add the image")
    name = names.get(_key(item, "category_id", where))
    if name is None:
        raise DataError(f"{where}: category_id {item['category_id']!r} is not in categories; correct it or add it")
    x, y, width, height = _box(item.get("bbox"), where)
    if item.get("iscrowd") not in (None, 0, 1):
        raise DataError(f"{where}: iscrowd is {item['iscrowd']!r}; it must be 0 or 1")
    image.boxes.append((x, y, width, height))
    image.classes.append(name)
    image.crowd.append(item.get("iscrowd") == 1)
    return image


def _box(value: object, where: str) -> list[float]:
    with suppress(TypeError, OverflowError):
        if isinstance(value, list) and len(value) == 4 and not any(isinstance(edge, str | bool) for edge in value):
            edges = [float(edge) for edge in value]
            if all(abs(edge) < _FAR_PX for edge in edges):  # false for NaN, too
                return edges
    raise DataError(f"{where}: bbox is {str(value)[:80]}; it must be four numbers: x, y, width, height in pixels")


def _index(
    root: Path, images: list[_Image], *, class_names: tuple[str, ...], report: Report, strict: bool
) -> DetectionIndex:
    records, broken = [], []
    for image in images:
        try:
            records.append(_record(root, image, class_names, report))
        except DataError as error:
            broken.append((image.path, str(error)))
    check_set_aside(broken, images=len(images), report=report)
    others = Counter(name for image in images for name in image.classes if name not in class_names)
    if others:
        first = ", ".join(f"{name} ({count})" for name, count in others.most_common(5))
        report.add(str(root), f"{others.total()} objects of classes not in dataset.classes left out: {first}")
    index = build_index(records, class_names=class_names, load=partial(read_below, str(root)))
    places = partial(_places, images={image.path: image for image in images})
    return repair(index, report, strict=strict, places=places)


def _places(index: DetectionIndex, rows: Sequence[int], *, images: dict[str, _Image]) -> list[tuple[str, str]]:
    """File and id of the annotation, and the box as written."""
    places = []
    for row, number in zip(rows, index.images_of(rows), strict=True):
        image = images[index.paths[number]]
        known = [place for place, name in enumerate(image.classes) if name in index.class_names]
        place = known[row - int(index.box_offsets[number])]
        box = ", ".join(f"{edge:.10g}" for edge in image.boxes[place])
        places.append((image.entries[place], f"bbox [{box}]; {describe_image(index, number)}"))
    return places


def _record(root: Path, image: _Image, class_names: tuple[str, ...], report: Report) -> ImageRecord:
    height, width = size = read_size(root / image.path)
    if None not in image.written_size and image.written_size != size:
        report.add(image.path, "size in the annotation differs from the image's, which is used")
    chosen = [row for row, name in enumerate(image.classes) if name in class_names]
    boxes = [image.boxes[row] for row in chosen]
    return ImageRecord(
        path=image.path,
        id=image.path,
        size=size,
        boxes=[(x / width, y / height, (x + w) / width, (y + h) / height) for x, y, w, h in boxes],
        labels=[class_names.index(image.classes[row]) for row in chosen],
        ignore=[image.crowd[row] for row in chosen],
    )
