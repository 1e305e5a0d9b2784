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
from typing import Any, Unpack
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from ssd.common.errors import DataError
from ssd.data.formats.voc_splits import DOWNLOAD_HELP, choose_splits
from ssd.data.reading.annotations import AnnotatedImage, AnnotatedObject, build_splits
from ssd.data.reading.box_units import BoxUnits
from ssd.data.reading.folder import images_by_stem
from ssd.data.reading.options import CommonOptions, ReadOptions
from ssd.data.splits import Splits
from ssd.data.validation import Report

_EDGES = ("xmin", "ymin", "xmax", "ymax")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_LINE = " line"  # no attribute in a file can have a name with a space


def read_voc(
    root: str,
    *,
    train_splits: Sequence[str] | None = None,
    val_splits: Sequence[str] | None = None,
    test_splits: Sequence[str] | None = None,
    report: Report | None = None,
    **options: Unpack[CommonOptions],
) -> Splits:
    """Reads a folder in VOC format.

    Args:
        root: the folder of the dataset.
        train_splits, val_splits, test_splits: lists in ImageSets/Main, such as `trainval` or `VOC2007/trainval`; an
            empty list means no such split; None takes the lists that exist.
        report: gets every problem.
        options: see ReadOptions.

    Raises:
        ConfigError: a split list that does not exist.
        DataError: an unusable folder or file; names file, line and fix.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"dataset.root={root}: no such folder. {DOWNLOAD_HELP}")
    report = report or Report()
    chosen = {"train": train_splits, "val": val_splits, "test": test_splits}
    names = choose_splits(folder, chosen=chosen, report=report)
    names_in = cache(images_by_stem)
    images: dict[str, list[AnnotatedImage]] = {split: [] for split in names}
    for split, name in ((split, name) for split, split_names in names.items() for name in split_names):
        with report.collect_errors():
            images[split].append(_parse(folder, name, names_in, report))
    return build_splits(
        folder,
        images,
        options=ReadOptions(**options),
        report=report,
        units=BoxUnits(first_pixel=1.0),
        hold_out_val=val_splits is None,
    )


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
    size_location = f"{path}:{1 if size is None else size.get(_LINE)}"
    image = AnnotatedImage(_find_image(root, name, names_in), name, f"{path}:", _written_size(tree), size_location)
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


def _written_size(tree: Element) -> tuple[object, object]:
    return tree.findtext("size/height"), tree.findtext("size/width")


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
        edges.append(float(value))
    difficult = (item.findtext("difficult") or "0").strip() not in ("", "0")
    line = int(box.find(_EDGES[0]).get(_LINE))  # type: ignore[union-attr, arg-type]  # just read
    return AnnotatedObject(name, (edges[0], edges[1], edges[2], edges[3]), difficult, line)
