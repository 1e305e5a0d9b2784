"""Which JSON files of a folder in COCO format belong to which split, and which image a name in them means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ssd.common.errors import ConfigError, DataError
from ssd.data.formats import foreign_json
from ssd.data.reading.division import UNDIVIDED
from ssd.data.reading.folder import FileTable, SourceFolder, base_name, split_of, split_of_folders, stem_of

_DETECTION = "instances_"  # the official folder has captions_, person_keypoints_, image_info_ as well
DOWNLOAD_HELP = (
    "Get train2017.zip, val2017.zip and annotations_trainval2017.zip from cocodataset.org, unpack them side by side "
    "and give dataset.root=<folder with annotations, train2017 and val2017>"
)


def choose_files(folder: SourceFolder, chosen: Mapping[str, str | None]) -> dict[str, str]:
    """The JSON file of each split, below the root: the chosen one, or one found by name if that is None.

    A single file that nobody has chosen is UNDIVIDED.

    Raises:
        ConfigError: a chosen file does not exist, or there are several for a split.
        DataError: there is no file, or only those of other formats.
    """
    files = {split: name for split, name in chosen.items() if name}
    for split, name in files.items():
        if not (folder.root / name).is_file():
            raise ConfigError(f"dataset.{split}_json={name}: no such file in {folder.root}")
    found = [path for path in _candidates(folder) if path not in files.values()]
    if len(found) == 1 and not files:
        undecided = chosen["val"] is None and chosen["test"] is None
        return {UNDIVIDED if undecided else "train": found[0]}
    for split in (split for split, name in chosen.items() if name is None):
        matching = [path for path in found if _split(path) == split]
        if len(matching) > 1:
            raise ConfigError(
                f"dataset.root={folder.root}: several JSON for {split}: {', '.join(matching)}; give "
                f"dataset.{split}_json="
            )
        if matching:
            files[split] = matching[0]
    if not files:
        listed = f"none of {', '.join(found[:5])} has a split in its name" if found else "no JSON of annotations"
        raise DataError(f"dataset.root={folder.root}: {listed}; give dataset.train_json=. {DOWNLOAD_HELP}")
    return files


def _candidates(folder: SourceFolder) -> list[str]:
    """The files of boxes in COCO format."""
    named = [path for path in folder.with_suffix(".json") if base_name(path).startswith(_DETECTION)]
    if named:
        return named
    found = [path for path in folder.with_suffix(".json") if foreign_json.is_coco(folder.root / path)]
    if not found:
        foreign_json.refuse([folder.root / path for path in folder.with_suffix(".json")], root=folder.root)
    return found


def _split(path: str) -> str | None:
    """By the name of the file, or else of its folders."""
    return split_of([stem_of(base_name(path))]) or split_of_folders(path)


class ImageFinder:
    """Finds the images of JSON files; `images` is the folder to search, below the root or absolute.

    Raises:
        ConfigError: there is no such folder.
    """

    def __init__(self, folder: SourceFolder, images: str | None) -> None:
        self._root = folder.root
        self._paths = folder.images
        if images is not None:
            if not (folder.root / images).is_dir():
                raise ConfigError(f"dataset.images={images}: no such folder in {folder.root}; found: {self._folders()}")
            inside = SourceFolder(folder.root / images).images
            self._paths = [(Path(images) / path).as_posix() for path in inside]
        self._table = FileTable(self._paths)

    def find(self, name: str, *, near: str, split: str) -> str | None:
        """Path of an image below the root; None if there is none.

        Raises:
            DataError: several images fit equally well.
        """
        found = self._table.find(name, near=near)
        if len(found) > 1:
            found = [path for path in found if split_of_folders(path) == split] or found
        if len(found) > 1:
            raise DataError(
                f"{self._root / near}: file_name {name!r} may be {' or '.join(found[:5])}; give dataset.images=FOLDER"
            )
        return found[0] if found else None

    def none_found(self, path: Path, name: str, count: int) -> DataError:
        """The error for a file none of whose `count` images was found."""
        return DataError(
            f"{path}: none of its {count} images was found, such as {name!r}; give dataset.images=FOLDER; folders with "
            f"images: {self._folders()}"
        )

    def _folders(self) -> str:
        counts = Counter(path.rpartition("/")[0] or "." for path in self._paths)
        return ", ".join(f"{name} ({count})" for name, count in counts.most_common(5)) or "none"
