"""PASCAL VOC format: an XML file for each image, in the folders that people really have.

Understood are VOCdevkit folders (VOC2007 and VOC2012 together are the 07+12 recipe), a VOC folder with ImageSets/Main,
folders train/val/test of images with their XML beside them, and any heap of XML files (split by a seed).

Coordinates in VOC are 1-based; 1 is subtracted from all four edges, as the published results did.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from ssd.common.errors import DataError
from ssd.common.images import IMAGE_SUFFIXES, read_below, read_size
from ssd.data.formats.voc_splits import DOWNLOAD_HELP, choose_splits
from ssd.data.index import DetectionIndex, ImageRecord, build_index
from ssd.data.splits import Splits, class_list
from ssd.data.validation import Report, check_set_aside, describe_image, repair

_EDGES = ("xmin", "ymin", "xmax", "ymax")
_FIRST_PIXEL = 1.0


@dataclass(frozen=True, slots=True)
class _Object:
    number: int  # in the file, from 0
    name: str
    box: tuple[float, float, float, float]  # pixels, as written
    difficult: bool


@dataclass(frozen=True, slots=True)
class _Annotation:
    """One XML file: `name` is its path below the root, without the suffix."""

    name: str
    image: str  # path below the root
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
    report: Report | None = None,
) -> Splits:
    """Reads a folder in VOC format.

    Args:
        root: the folder.
        classes: the class list; found in the files when None. Objects of other classes are left out and counted.
        train_splits, val_splits, test_splits: lists in ImageSets/Main, such as `trainval` or `VOC2007/trainval`; an
            empty list is no such split; None takes what is there, and holds out a seeded tenth of the training
            images for validation where nothing is.
        strict: a box that would have to be mended is an error.
        seed: of the held-out images.
        report: takes down what is wrong.

    Raises:
        ConfigError: a split list that does not exist.
        DataError: a folder or file that cannot be used; names file, line and fix.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"dataset.root={root}: no such folder. {DOWNLOAD_HELP}")
    report = Report() if report is None else report
    chosen = {"train": train_splits, "val": val_splits, "test": test_splits}
    names = choose_splits(folder, seed=seed, chosen=chosen, report=report)
    images = _Images(folder)
    annotations: dict[str, list[_Annotation]] = {split: [] for split in names}
    for split, name in ((split, name) for split, split_names in names.items() for name in split_names):
        with report.collect_errors():
            annotations[split].append(_parse(folder, name, images, report))
    found = (item.name for split in annotations.values() for annotation in split for item in annotation.objects)
    class_names = class_list(classes, found, where=root, report=report)
    build = partial(_index, folder, class_names=class_names, report=report, strict=strict)
    indexes = {split: build(items) for split, items in annotations.items() if items}
    return Splits(indexes.get("train"), indexes.get("val"), indexes.get("test"), report)


# --- one annotation ----------------------------------------------------------------------------------------------


class _Images:
    """Finds an image by stem, whatever the suffix and its case; <filename> may be wrong."""

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


def _file(root: Path, name: str) -> Path | None:
    return next((file for suffix in (".xml", ".XML") if (file := root / f"{name}{suffix}").is_file()), None)


def _parse(root: Path, name: str, images: _Images, report: Report) -> _Annotation:
    path = _file(root, name)
    if path is None:
        raise DataError(f"{root / name}.xml: no such annotation, but it is listed in ImageSets/Main")
    text = path.read_bytes()
    try:
        tree = ElementTree.fromstring(text)
    except ParseError as error:
        raise DataError(f"{path}:{error.position[0]}: not XML: {error}") from error
    except (DefusedXmlException, ValueError) as error:
        raise DataError(f"{path}: refused: {error}") from error
    image = images.find(name) or str(Path(name).parent.parent / "JPEGImages" / Path(name).name) + ".jpg"
    objects = []
    for number, item in enumerate(tree.iter("object")):
        with report.collect_errors():
            objects.append(_object(path, text, number, item))
    return _Annotation(name, image, _written_size(tree), objects)


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
    return _Object(number, name, (edges[0], edges[1], edges[2], edges[3]), difficult not in ("", "0"))


def _line(text: bytes, object_number: int | None, tag: str) -> int:
    """Line of a tag in the n-th object (or in the file), or of the object where it has none; no parser keeps it."""
    starts = [0] if object_number is None else [found.start() for found in re.finditer(rb"<object[\s>]", text)]
    place = object_number or 0
    start, end = [*starts, len(text)][place : place + 2] if place < len(starts) else (0, 0)
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
            broken.append((annotation.image, str(error)))
    check_set_aside(broken, images=len(annotations), report=report)
    index = build_index(records, class_names=class_names, load=partial(read_below, str(root)))
    kept = {annotation.name: annotation for annotation in annotations}
    places = partial(_places, root=root, annotations=kept)
    return repair(index, report, strict=strict, places=places)


def _places(
    index: DetectionIndex, rows: Sequence[int], *, root: Path, annotations: dict[str, _Annotation]
) -> list[tuple[str, str]]:
    """File, line of the first edge, and the edges as written; the files are read again, as the lines are not kept."""
    places = []
    for row, image in zip(rows, index.images_of(rows), strict=True):
        name = index.ids[image]
        known = [item for item in annotations[name].objects if item.name in index.class_names]
        item = known[row - int(index.box_offsets[image])]
        edges = ", ".join(f"{tag} {edge:.10g}" for tag, edge in zip(_EDGES, item.box, strict=True))
        places.append((_place(root, name, item.number, _EDGES[0]), f"{edges}; {describe_image(index, image)}"))
    return places


def _place(root: Path, name: str, number: int | None, tag: str) -> str:
    path = _file(root, name)
    return f"{path}:{_line(path.read_bytes(), number, tag)}" if path else name  # gone since


def _record(root: Path, annotation: _Annotation, class_names: tuple[str, ...], report: Report) -> ImageRecord:
    height, width = size = read_size(root / annotation.image)

    def where(tag: str, number: int | None = None) -> str:
        """Training counts by image, and does not read a file again."""
        return _place(root, annotation.name, number, tag) if report.keep_going else annotation.image

    if annotation.written_size is not None and annotation.written_size != size:
        rule = "size in the annotation differs from the image's, which is used"
        written = "{1} x {0}".format(*annotation.written_size)
        report.add(where("size"), rule, value=f"{written}; {annotation.image}, {width} x {height} px")
    objects = [item for item in annotation.objects if item.name in class_names]
    for item in annotation.objects:
        if item.name not in class_names:
            report.add(where("name", item.number), f"object of class {item.name!r} left out: not in dataset.classes")
    scale = (width, height, width, height)
    return ImageRecord(
        path=annotation.image,
        id=annotation.name,
        size=size,
        boxes=[_fractions(item.box, scale) for item in objects],
        labels=[class_names.index(item.name) for item in objects],
        ignore=[item.difficult for item in objects],
    )


def _fractions(box: Iterable[float], scale: Iterable[float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = ((edge - _FIRST_PIXEL) / side for edge, side in zip(box, scale, strict=True))
    return x1, y1, x2, y2
