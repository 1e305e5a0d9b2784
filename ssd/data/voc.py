"""PASCAL VOC format: an XML file for each picture, in the folders that people really have.

Understood are VOCdevkit folders (VOC2007 and VOC2012 together are the 07+12 recipe), a VOC folder with ImageSets/Main,
folders train/val/test of pictures with their XML beside them, and any heap of XML files (split by a seed).

Coordinates in VOC are 1-based; 1 is subtracted from all four edges, as the published results did.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from ssd.data.index import DetectionIndex, PictureRecord, build_index
from ssd.data.repair import Report, check_set_aside, repair
from ssd.data.splits import VALIDATION_SHARE, Splits, class_list, hold_out, seeded_split
from ssd.errors import ConfigError, DataError
from ssd.images import IMAGE_SUFFIXES, Picture, read_image, read_size

_EDGES = ("xmin", "ymin", "xmax", "ymax")
_FIRST_PIXEL = 1.0
_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_DOWNLOAD_HELP = (
    "Get VOCtrainval_06-Nov-2007.tar, VOCtest_06-Nov-2007.tar and VOCtrainval_11-May-2012.tar from a mirror of "
    "PASCAL VOC, unpack them side by side and give dataset.root=<folder with VOC2007 and VOC2012>"
)


@dataclass(frozen=True, slots=True)
class _Object:
    name: str
    box: tuple[float, float, float, float]  # pixels, as written
    difficult: bool


@dataclass(frozen=True, slots=True)
class _Annotation:
    """One XML file: `name` is its path below the root, without the suffix."""

    name: str
    picture: str  # path below the root
    written_size: tuple[int, int] | None  # (H, W)
    objects: list[_Object]


def read_voc(
    root: str,
    *,
    classes: Sequence[str] | None,
    train_splits: Sequence[str] | None,
    val_splits: Sequence[str] | None,
    test_splits: Sequence[str] | None,
    strict: bool,
    seed: int,
) -> Splits:
    """Reads a folder in VOC format.

    Args:
        root: the folder.
        classes: the class list; found in the files when None. Objects of other classes are left out and counted.
        train_splits, val_splits, test_splits: lists in ImageSets/Main, such as `trainval` or `VOC2007/trainval`; an
            empty list is no such split; None takes what is there, and holds out a seeded tenth of the training
            pictures for validation where nothing is.
        strict: a box that would have to be mended is an error.
        seed: of the held-out pictures.

    Raises:
        ConfigError: a split list that does not exist.
        DataError: a folder or file that cannot be used; names file, line and fix.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"dataset.root={root}: no such folder. {_DOWNLOAD_HELP}")
    names = _choose_splits(folder, seed=seed, chosen={"train": train_splits, "val": val_splits, "test": test_splits})
    report = Report()
    pictures = _Pictures(folder)
    annotations = {
        split: [_parse(folder, name, pictures) for name in split_names] for split, split_names in names.items()
    }
    found = (item.name for split in annotations.values() for annotation in split for item in annotation.objects)
    class_names = class_list(classes, found, where=root)
    build = partial(_index, folder, class_names=class_names, report=report, strict=strict)
    indexes = {split: build(items) for split, items in annotations.items() if items}
    return Splits(indexes.get("train"), indexes.get("val"), indexes.get("test"), report)


# --- which pictures belong to which split ------------------------------------------------------------------------


def _choose_splits(root: Path, *, chosen: dict[str, Sequence[str] | None], seed: int) -> dict[str, list[str]]:
    """For each split the annotations: paths below root without .xml."""
    lists = _split_lists(root)
    if not lists:
        if any(chosen.values()):
            raise ConfigError(f"dataset.root={root} has no ImageSets/Main, so splits cannot be chosen by name")
        return _splits_without_lists(root, seed=seed)
    automatic = _automatic_lists(lists)
    names: dict[str, list[str]] = {}
    for split, wanted in chosen.items():
        entries = automatic[split] if wanted is None else list(wanted)
        names[split] = list(dict.fromkeys(name for entry in entries for name in _read_list(root, entry, lists)))
    if not names["train"]:
        raise DataError(f"{root}/ImageSets/Main: no picture in the training split; give dataset.train_splits=[...]")
    if not names["val"] and chosen["val"] is None:
        names["train"], names["val"] = hold_out(names["train"], share=VALIDATION_SHARE, seed=seed)
    return names


def _split_lists(root: Path) -> dict[str, Path]:
    """Lists in ImageSets/Main by name, with the year's folder before it in a VOCdevkit."""
    years = [root, *sorted(root.glob("VOC20[0-9][0-9]")), *sorted(root.glob("VOCdevkit/VOC20[0-9][0-9]"))]
    lists: dict[str, Path] = {}
    for year in years:
        for path in sorted((year / "ImageSets" / "Main").glob("*.txt")):
            if path.stem in ("train", "val", "trainval", "test") or year == root:
                lists[f"{year.name}/{path.stem}" if year != root else path.stem] = path
    return lists


def _automatic_lists(lists: dict[str, Path]) -> dict[str, list[str]]:
    years = {name.rpartition("/")[0] for name in lists}
    if years != {""}:  # the 07+12 recipe
        both = [f"{year}/trainval" for year in sorted(years) if f"{year}/trainval" in lists]
        return {"train": both, "val": [], "test": [name for name in lists if name.endswith("/test")]}
    has_val = "val" in lists and bool(_read_text(lists["val"]).split())
    train = "train" if "train" in lists and (has_val or "trainval" not in lists) else "trainval"
    return {
        "train": [train] if train in lists else [],
        "val": ["val"] if has_val else [],
        "test": ["test"] if "test" in lists else [],
    }


def _read_list(root: Path, entry: str, lists: dict[str, Path]) -> Iterator[str]:
    if entry not in lists:
        raise ConfigError(f"dataset.root={root}: no split {entry!r}; there are {', '.join(lists)}")
    year = lists[entry].parents[2].relative_to(root)
    for number, line in enumerate(_read_text(lists[entry]).splitlines(), start=1):
        columns = line.split()
        if not columns or (columns[-1] == "-1" and len(columns) > 1):  # per-class lists mark absence by -1
            continue
        if not _is_plain_name(columns[0]):
            raise DataError(f"{lists[entry]}:{number}: {columns[0]!r} is not a picture's name")
        yield (year / "Annotations" / columns[0]).as_posix()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text in UTF-8: {error}") from error


def _is_plain_name(name: str) -> bool:
    return "\0" not in name and not Path(name).is_absolute() and ".." not in Path(name).parts


def _splits_without_lists(root: Path, *, seed: int) -> dict[str, list[str]]:
    names = sorted(
        path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*") if path.suffix.lower() == ".xml"
    )
    if not names:
        raise DataError(f"dataset.root={root}: no XML file in it. {_DOWNLOAD_HELP}")
    by_folder: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name in names:
        split = next((_SPLIT_FOLDERS[part] for part in Path(name.lower()).parts[:-1] if part in _SPLIT_FOLDERS), None)
        if split is None:
            return seeded_split(names, seed=seed)
        by_folder[split].append(name)
    if not by_folder["train"]:
        return seeded_split(names, seed=seed)
    if not by_folder["val"]:
        by_folder["train"], by_folder["val"] = hold_out(by_folder["train"], share=VALIDATION_SHARE, seed=seed)
    return by_folder


# --- one annotation ----------------------------------------------------------------------------------------------


class _Pictures:
    """Finds a picture by stem, whatever the suffix and its case; <filename> may be wrong."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[Path, dict[str, str]] = {}

    def find(self, annotation: str) -> str | None:
        path = Path(annotation)
        for folder in dict.fromkeys((path.parent.parent / "JPEGImages", path.parent, path.parent.parent / "images")):
            name = self._names(folder).get(path.name)
            if name is not None:
                return (folder / name).as_posix()
        return None

    def _names(self, folder: Path) -> dict[str, str]:
        if folder not in self._folders:
            directory = self._root / folder
            names = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
            self._folders[folder] = {Path(name).stem: name for name in names if name.lower().endswith(IMAGE_SUFFIXES)}
        return self._folders[folder]


def _parse(root: Path, name: str, pictures: _Pictures) -> _Annotation:
    path = next((file for suffix in (".xml", ".XML") if (file := root / f"{name}{suffix}").is_file()), None)
    if path is None:
        raise DataError(f"{root / name}.xml: no such annotation, but it is listed in ImageSets/Main")
    text = path.read_bytes()
    try:
        tree = ElementTree.fromstring(text)
    except ParseError as error:
        raise DataError(f"{path}:{error.position[0]}: not XML: {error}") from error
    except (DefusedXmlException, ValueError) as error:
        raise DataError(f"{path}: refused: {error}") from error
    picture = pictures.find(name) or str(Path(name).parent.parent / "JPEGImages" / Path(name).name) + ".jpg"
    objects = [_object(path, text, number, item) for number, item in enumerate(tree.iter("object"))]
    return _Annotation(name, picture, _written_size(tree), objects)


def _written_size(tree: Element) -> tuple[int, int] | None:
    try:
        return int(float(tree.findtext("size/height", ""))), int(float(tree.findtext("size/width", "")))
    except (ValueError, OverflowError):
        return None


def _object(path: Path, text: bytes, number: int, item: Element) -> _Object:
    def fail(tag: str, message: str) -> DataError:
        return DataError(f"{path}:{_line(text, number, tag)}: object {number + 1}: {message}")

    name = (item.findtext("name") or "").strip()
    if not name:
        raise fail("name", "no <name>")
    box = item.find("bndbox")
    if box is None:
        raise fail("object", "no <bndbox>")
    edges = []
    for tag in _EDGES:
        value = (box.findtext(tag) or "").strip()
        if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value) or math.isinf(float(value)):
            raise fail(tag, f"<{tag}> is {value!r}, not a number")
        edges.append(float(value))
    difficult = (item.findtext("difficult") or "0").strip()
    return _Object(name, (edges[0], edges[1], edges[2], edges[3]), difficult not in ("", "0"))


def _line(text: bytes, object_number: int, tag: str) -> int:
    """Line of a tag in the n-th object, or of the object where it has none; the parser does not keep it."""
    starts = [found.start() for found in re.finditer(rb"<object[\s>]", text)]
    start, end = [*starts, len(text)][object_number : object_number + 2] if object_number < len(starts) else (0, 0)
    inside = re.search(rf"<{tag}[\s>/]".encode(), text[start:end])
    return text.count(b"\n", 0, start + (inside.start() if inside else 0)) + 1


# --- to the index ------------------------------------------------------------------------------------------------


def _index(
    root: Path, annotations: list[_Annotation], *, class_names: tuple[str, ...], report: Report, strict: bool
) -> DetectionIndex:
    records, broken = [], []
    for annotation in annotations:
        try:
            records.append(_record(root, annotation, class_names, report))
        except DataError as error:
            broken.append((annotation.picture, str(error)))
    check_set_aside(broken, pictures=len(annotations), report=report)
    index = build_index(records, class_names=class_names, load=partial(_load, str(root)))
    return repair(index, report, strict=strict)


def _load(root: str, path: str) -> Picture:
    return read_image(Path(root, path))


def _record(root: Path, annotation: _Annotation, class_names: tuple[str, ...], report: Report) -> PictureRecord:
    height, width = size = read_size(root / annotation.picture)
    if annotation.written_size not in (None, size):
        report.add(annotation.picture, "size in the annotation differs from the picture's, which is used")
    objects = [item for item in annotation.objects if item.name in class_names]
    for item in annotation.objects:
        if item.name not in class_names:
            report.add(annotation.picture, f"object of class {item.name!r} left out: not in dataset.classes")
    scale = (width, height, width, height)
    return PictureRecord(
        path=annotation.picture,
        id=annotation.name,
        size=size,
        boxes=[_fractions(item.box, scale) for item in objects],
        labels=[class_names.index(item.name) for item in objects],
        ignore=[item.difficult for item in objects],
    )


def _fractions(box: Iterable[float], scale: Iterable[float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = ((edge - _FIRST_PIXEL) / side for edge, side in zip(box, scale, strict=True))
    return x1, y1, x2, y2
