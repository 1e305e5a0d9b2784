"""The files of a dataset folder, and the file that a written name means."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from ssd.common.errors import DataError
from ssd.common.image_formats import IMAGE_SUFFIXES

_HELPERS = ("__macosx", "thumbs.db", "desktop.ini")  # and every hidden name
_MASKS = ("segmentationclass", "segmentationobject", "segmentation", "masks", "mask", "trimaps")
_ROLES = frozenset(  # names of folders for the kind of their files, not for a part of the data
    (
        *("annotations", "annotation", "annots", "ann", "xmls", "xml", "labels", "label", "json", "bboxes"),
        *("jpegimages", "images", "image", "imgs", "img", "photos", "data", "imagesets", "main"),
        *("obj_train_data", "layout"),
    )
)
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "minival"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_Parts = tuple[str, ...]


class SourceFolder:
    """What is in a dataset folder, without hidden files, helper files of other programs and masks.

    Attributes:
        root: the folder.
        files: paths below the root, with slashes, of all files but images; sorted.
        images: the same of the images.
    """

    def __init__(self, root: str | Path) -> None:
        """Lists the folder.

        Raises:
            DataError: a folder cannot be read, or a link leads to a folder around the root.
        """
        self.root = Path(root)
        self.files: list[str] = []
        self.images: list[str] = []
        self._walk("", seen=set())
        self.files.sort()
        self.images.sort()

    def _walk(self, folder: str, *, seen: set[tuple[int, int]]) -> None:
        """Follows links to folders, each folder once."""
        try:
            info = (self.root / folder).stat()
            if (info.st_dev, info.st_ino) in seen:
                return
            seen.add((info.st_dev, info.st_ino))
            with os.scandir(self.root / folder) as entries:
                listed = list(entries)
        except OSError as error:
            raise DataError(f"{self.root / folder}: cannot be read: {error.strerror}; make it readable") from error
        for entry in listed:
            path, name = f"{folder}{entry.name}", entry.name.lower()
            if name.startswith(".") or name in _HELPERS:
                continue
            if _is_folder(entry):
                if entry.is_symlink():
                    self._check_link(path)
                self._walk(f"{path}/", seen=seen)
            elif not name.endswith(IMAGE_SUFFIXES):
                self.files.append(path)
            elif not any(part in _MASKS for part in folder.lower().split("/")):
                self.images.append(path)

    def _check_link(self, path: str) -> None:
        root, target = Path(os.path.realpath(self.root)), Path(os.path.realpath(self.root / path))
        if target in root.parents:
            raise DataError(f"{self.root / path}: is a link to {target}, around the dataset; remove the link")

    def with_suffix(self, *suffixes: str) -> list[str]:
        """The files whose names end so, in any case."""
        return [path for path in self.files if path.lower().endswith(suffixes)]


class FileTable:
    """Finds the file that belongs to a name: an image to its annotation, an annotation to a line of a list.

    Files belong together if they have the same name, with or without suffix, and the folders of one are among those of
    the other, apart from folders such as Annotations and JPEGImages: `VOC2007/Annotations/cam1/7.xml` and
    `VOC2007/JPEGImages/cam1/7.jpg`, but not `train/7.xml` and `val/7.jpg`.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            name = base_name(path)
            for key in {_normal(name), _normal(stem_of(name))}:
                self._by_name[key].append(path)

    def find(self, written: str, *, near: str = "") -> list[str]:
        """The best matches of a name; several if they are equally good, none if there is no match.

        Args:
            written: a name or path with either kind of slash, with or without suffix; may be percent-encoded or
                absolute.
            near: path of the file in which it is written.
        """
        path = written.replace("\\", "/")
        return self._find(path, near) or (self._find(unquote(path), near) if "%" in path else [])

    def _find(self, path: str, near: str) -> list[str]:
        folder, _, name = path.rpartition("/")
        near_parts = _parts(near.rpartition("/")[0])
        split = split_of(near_parts)
        found = [other for other in self._by_name.get(_normal(name), ()) if _may_be_of(split, other)]
        for wanted in dict.fromkeys((near_parts + _parts(folder), _parts(folder))):
            ranked = [(rank, other) for other in found if (rank := _rank(other, name, wanted)) is not None]
            if ranked:
                best = min(rank for rank, _ in ranked)
                return [other for rank, other in ranked if rank == best]
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def images_by_stem(folder: Path) -> dict[str, str]:
    """The names of the images in a folder, by name without suffix; empty if there is no such folder."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208  Paths take seconds for each million
    return {name.rpartition(".")[0]: name for name in names if name.lower().endswith(IMAGE_SUFFIXES)}


def base_name(path: str) -> str:
    """What follows the last slash."""
    return path.rpartition("/")[2]


def stem_of(name: str) -> str:
    """The name or path without its suffix."""
    return name.rpartition(".")[0] or name


def split_of(names: Sequence[str]) -> str | None:
    """The split (train, val or test) that names of folders or of a file mean, such as train2017 or Validation-set.

    The last one that means exactly one split decides.
    """
    for name in reversed(names):
        splits = {_SPLIT_WORDS[word] for word in re.findall("[a-z]+", name.lower()) if word in _SPLIT_WORDS}
        if len(splits) == 1:
            return splits.pop()
    return None


def split_of_folders(path: str) -> str | None:
    """`split_of` the folders of a path."""
    return split_of(path.split("/")[:-1])


def _may_be_of(split: str | None, path: str) -> bool:
    return split is None or split_of_folders(path) in (None, split)


def _rank(path: str, name: str, wanted: _Parts) -> tuple[int, bool] | None:
    """0 folders more or less is best, then the same case; None if the folders exclude each other."""
    folder, _, other = path.rpartition("/")
    distance = _distance(_parts(folder), wanted)
    return None if distance is None else (distance, name not in (other, stem_of(other)))


def _distance(parts: _Parts, others: _Parts) -> int | None:
    """The number of folders that only one of the two has; None if both have some."""
    longer, shorter = sorted((parts, others), key=len, reverse=True)
    rest = iter(longer)
    return len(longer) - len(shorter) if all(part in rest for part in shorter) else None


def _parts(folder: str) -> _Parts:
    names = PurePosixPath(_normal(folder)).parts
    return tuple(name for name in names if name not in _ROLES and name not in ("/", "..", "."))


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()  # macOS writes decomposed letters
