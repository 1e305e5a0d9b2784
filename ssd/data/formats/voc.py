"""PASCAL VOC format: an XML file for each image, in the folder layouts found in practice.

Accepted are VOCdevkit folders (VOC2007 and VOC2012 together are the 07+12 recipe), lists in ImageSets/Main, ImageSets
or the root, folders for train, val and test, and any folder of images and XML files (split by the seed).

Coordinates in VOC are 1-based; 1 is subtracted from all four edges, as in the published results.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from ssd.common.errors import DataError
from ssd.data.formats.voc_splits import DOWNLOAD_HELP, choose_splits
from ssd.data.formats.voc_xml import VocXml, parse_xml
from ssd.data.reading.annotations import AnnotatedImage, build_splits
from ssd.data.reading.box_units import BoxUnits
from ssd.data.reading.folder import FileTable, SourceFolder, base_name, stem_of
from ssd.data.reading.options import CommonOptions, ReadOptions
from ssd.data.splits import Splits
from ssd.data.validation import Report


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
    if not Path(root).is_dir():
        raise DataError(f"dataset.root={root}: no such folder. {DOWNLOAD_HELP}")
    report = report or Report()
    folder = SourceFolder(root)
    chosen = {"train": train_splits, "val": val_splits, "test": test_splits}
    names = choose_splits(folder, chosen=chosen, report=report)
    parsed = _parse(folder, {name for members in names.values() for name in members}, report)
    images = {split: [parsed[name] for name in members if name in parsed] for split, members in names.items()}
    return build_splits(
        folder.root,
        images,
        options=ReadOptions(**options),
        report=report,
        units=BoxUnits(first_pixel=1.0),
        hold_out_val=val_splits is None,
    )


def _parse(folder: SourceFolder, names: set[str], report: Report) -> dict[str, AnnotatedImage]:
    """The images by the path of their annotation, below the root."""
    finder = _ImageFinder(folder)
    parsed: dict[str, AnnotatedImage] = {}
    owner: dict[str, str] = {}
    for name in sorted(names):
        with report.collect_errors():
            file = parse_xml(folder.root / name, report)
            if file is None:
                report.add(f"{folder.root / name}", "no annotation in VOC format; skipped")
                continue
            image = finder.find(name, file)
            if image in owner:
                raise DataError(
                    f"{folder.root / name}: {image} has another annotation, {owner[image]}; remove one of the two"
                )
            owner[image] = name
            location = f"{folder.root / name}:"
            size_location = f"{location}{file.size_line}"
            parsed[name] = AnnotatedImage(image, stem_of(name), location, file.size, size_location, file.objects)
    return parsed


class _ImageFinder:
    """Finds the image of an annotation: by its stem; <filename>, which is often wrong, decides between several."""

    def __init__(self, folder: SourceFolder) -> None:
        self._folder = folder
        self._images = FileTable(folder.images)
        self._others: FileTable | None = None  # files in formats that are not read

    def find(self, name: str, file: VocXml) -> str:
        """Path below the root; where the image should be if there is none.

        Raises:
            DataError: several images fit equally well.
        """
        found = self._images.find(stem_of(base_name(name)), near=name)
        if len(found) > 1:
            found = [path for path in found if base_name(path) == base_name(file.filename)] or found
        if not found and file.filename:
            found = self._images.find(file.filename, near=name) or self._images.find(
                base_name(file.filename), near=name
            )
        if len(found) > 1:
            raise DataError(
                f"{self._folder.root / name}: {' and '.join(found)} fit, and <filename> is {file.filename!r}; "
                "remove one, or correct <filename>"
            )
        return found[0] if found else self._missing(name)

    def _missing(self, name: str) -> str:
        if self._others is None:
            unread = [path for path in self._folder.files if not path.lower().endswith((".xml", ".txt", ".json"))]
            self._others = FileTable(unread)
        stem = stem_of(base_name(name))
        found = self._others.find(stem, near=name)
        folder = name.rpartition("/")[0]
        standard = f"{folder.rpartition('/')[0]}/JPEGImages".lstrip("/")
        folder = standard if base_name(folder).lower() == "annotations" else folder
        return found[0] if found else f"{folder}/{stem}.jpg".lstrip("/")
