"""PASCAL VOC format: an XML file for each image, in the folder layouts found in practice.

Accepted are VOCdevkit folders (VOC2007 and VOC2012 together are the 07+12 recipe), a VOC folder with ImageSets/Main,
folders train/val/test of images with their XML files beside them, and any folder of XML files (split by the seed).

Coordinates in VOC are 1-based; 1 is subtracted from all four edges, as in the published results.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from ssd.common.errors import DataError
from ssd.data.annotations import AnnotatedImage, AnnotatedObject, images_by_stem, index_annotations
from ssd.data.formats.voc_splits import DOWNLOAD_HELP, choose_splits
from ssd.data.splits import Splits, class_list
from ssd.data.validation import Report

_EDGES = ("xmin", "ymin", "xmax", "ymax")
_FIRST_PIXEL = 1.0
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_LINE = " line"  # no attribute in a file can have a name with a space


def read_voc(
    root: str,
    *,
    classes: Sequence[str] | None = None,
    train_splits: Sequence[str] | None = None,
    val_splits: Sequence[str] | None = None,
    test_splits: Sequence[str] | None = None,
    strict: bool = False,
    seed: int = 0,
    report: Report | None = None,
) -> Splits:
    """Reads a folder in VOC format.

    Args:
        root: the folder of the dataset.
        classes: the class list; all classes of the files if None. Objects of other classes are skipped and reported.
        train_splits, val_splits, test_splits: lists in ImageSets/Main, such as `trainval` or `VOC2007/trainval`; an
            empty list means no such split; None takes the lists that exist, and holds out a seeded tenth of the
            training images for validation if there is none.
        strict: a box that would have to be dropped or clipped is an error.
        seed: selects the held-out images.

    Raises:
        ConfigError: a split list that does not exist.
        DataError: an unusable folder or file; names file, line and fix.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"dataset.root={root}: no such folder. {DOWNLOAD_HELP}")
    report = report or Report()
    chosen = {"train": train_splits, "val": val_splits, "test": test_splits}
    names = choose_splits(folder, seed=seed, chosen=chosen, report=report)
    names_in = cache(images_by_stem)
    splits: dict[str, list[AnnotatedImage]] = {split: [] for split in names}
    for split, name in ((split, name) for split, split_names in names.items() for name in split_names):
        with report.collect_errors():
            splits[split].append(_parse(folder, name, names_in, report))
    found = (item.class_name for members in splits.values() for image in members for item in image.objects)
    class_names = class_list(classes, found, where=root, report=report)

    def locate(name: str, line: int) -> str:
        return f"{_annotation_file(folder, name)}:{line}"

    indexes = {}
    for split, members in splits.items():
        if members:
            for name, item in ((image.id, item) for image in members for item in image.objects):
                if item.class_name not in class_names:
                    rule = f"object of class {item.class_name!r} skipped: not in dataset.classes"
                    report.add(locate(name, item.line), rule, skipped_classes=item.class_name)
            indexes[split] = index_annotations(
                folder, members, class_names=class_names, locate=locate, report=report, strict=strict
            )
    return Splits(**indexes, report=report)


def _find_image(root: Path, annotation: str, names_in: Callable[[Path], dict[str, str]]) -> str:
    """Path below the root of the image with the stem of the annotation (<filename> is often wrong).

    Any suffix is accepted, in any case. If there is no such image, it is the path where VOC would have it.
    """
    path = Path(annotation)
    standard = path.parent.parent / "JPEGImages"
    for folder in (standard, path.parent, path.parent.parent / "images"):
        if name := names_in(root / folder).get(path.name):
            return (folder / name).as_posix()
    return f"{standard / path.name}.jpg"


def _annotation_file(root: Path, name: str) -> Path:
    """The XML file of an annotation; `name` is its path below the root, without the suffix."""
    files = [root / f"{name}{suffix}" for suffix in (".xml", ".XML")]
    return next((file for file in files if file.is_file()), files[0])


def _parse(root: Path, name: str, names_in: Callable[[Path], dict[str, str]], report: Report) -> AnnotatedImage:
    path = _annotation_file(root, name)
    try:
        tree = _parse_xml(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise DataError(f"{path}: no such annotation, but ImageSets/Main lists it") from None
    except ParseError as error:
        raise DataError(f"{path}:{error.position[0]}: not XML: {error}") from error
    except (DefusedXmlException, ValueError) as error:
        raise DataError(f"{path}: refused: {error}") from error
    size = tree.find("size")
    source = f"{path}:{1 if size is None else size.get(_LINE)}"
    image = AnnotatedImage(_find_image(root, name, names_in), name, source, _written_size(tree))
    for number, item in enumerate(tree.iter("object"), start=1):
        with report.collect_errors():
            image.objects.append(_object(path, number, item))
    return image


def _parse_xml(data: bytes) -> Element:
    """The root element; every element has the line where it starts as its attribute _LINE."""
    builder = _LineNumbers()
    parser = builder.parser = DefusedXMLParser(target=builder)
    parser.feed(data)
    return parser.close()


class _LineNumbers(TreeBuilder):
    parser: Any

    def start(self, tag: Any, attrs: dict[Any, Any], /) -> Element:
        return super().start(tag, {**attrs, _LINE: self.parser.parser.CurrentLineNumber})


def _written_size(tree: Element) -> tuple[int, int] | None:
    try:
        return int(float(tree.findtext("size/height", ""))), int(float(tree.findtext("size/width", "")))
    except (ValueError, OverflowError):
        return None


def _object(path: Path, number: int, item: Element) -> AnnotatedObject:
    def error(element: Element | None, message: str) -> DataError:
        line = (item if element is None else element).get(_LINE)
        return DataError(f"{path}:{line}: object {number}: {message}")

    name = (item.findtext("name") or "").strip()
    if not name:
        raise error(item.find("name"), "no <name>; add it or remove the object")
    box = item.find("bndbox")
    if box is None:
        raise error(None, "no <bndbox>; add it or remove the object")
    edges = []
    for tag in _EDGES:
        value = (box.findtext(tag) or "").strip()
        if not _NUMBER.fullmatch(value) or math.isinf(float(value)):
            raise error(box.find(tag), f"<{tag}> is {value!r}, not a number; correct it")
        edges.append(float(value) - _FIRST_PIXEL)
    difficult = (item.findtext("difficult") or "0").strip() not in ("", "0")
    line = int(box.find(_EDGES[0]).get(_LINE))  # type: ignore[union-attr, arg-type]  # just read
    return AnnotatedObject(name, (edges[0], edges[1], edges[2], edges[3]), difficult, line)
