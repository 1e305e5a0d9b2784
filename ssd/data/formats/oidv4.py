"""Folders of the OIDv4_ToolKit: <split>/<class>/<ImageID>.jpg, with boxes in pixels in <class>/Label/<ImageID>.txt.

A line is the name of a class and x1 y1 x2 y2. An image of several classes is in the folder of each, with all its boxes
of that class.
"""

from __future__ import annotations

from pathlib import Path

from ssd.common.errors import DataError
from ssd.common.text import read_text
from ssd.data.reading.annotations import AnnotatedImage, AnnotatedObject, build_splits
from ssd.data.reading.folder import images_by_stem, split_of
from ssd.data.reading.options import ReadOptions
from ssd.data.splits import Splits
from ssd.data.validation import Report

_FOLDERS = ("", "Dataset", "OID/Dataset")  # below the root
_LABELS = "Label"


def find_folder(root: Path) -> Path | None:
    """The folder of the splits; None if this is another layout."""
    folders = (root / name for name in _FOLDERS)
    return next((folder for folder in folders if any(folder.glob(f"*/*/{_LABELS}"))), None)


def read_folder(root: Path, folder: Path, *, options: ReadOptions, report: Report) -> Splits:
    """Reads the splits in `folder`, which is at or below `root`.

    Raises:
        DataError: an unusable line; names file, line and fix.
    """
    images: dict[str, dict[str, AnnotatedImage]] = {}
    for labels in sorted(folder.glob(f"*/*/{_LABELS}")):
        split = split_of([labels.parents[1].name]) or "train"
        files = images_by_stem(labels.parent)
        for path in sorted(labels.glob("*.txt")):
            with report.collect_errors():
                default = labels.parent / files.get(path.stem, f"{path.stem}.jpg")
                below = default.relative_to(root).as_posix()
                image = images.setdefault(split, {}).setdefault(
                    path.stem, AnnotatedImage(below, f"{split}/{path.stem}", f"{path}:")
                )
                image.objects += _objects(path)
    for split, members in images.items():
        report.note(f"{split}: {len(members)} images of the OIDv4_ToolKit in {folder.relative_to(root).as_posix()}")
    listed = {split: list(members.values()) for split, members in images.items()}
    return build_splits(root, listed, options=options, report=report)


def _objects(path: Path) -> list[AnnotatedObject]:
    objects = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        name, *edges = line.rsplit(maxsplit=4)
        try:
            x1, y1, x2, y2 = map(float, edges)
        except ValueError:
            raise DataError(
                f"{path}:{number}: {line[:80]!r} is not a class and x1 y1 x2 y2; correct the line"
            ) from None
        objects.append(AnnotatedObject(name.strip(), (x1, y1, x2, y2), False, number))
    return objects
