"""The files of a folder in YOLO format: class names, splits, and the label file of an image."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ssd.common.errors import ConfigError, DataError
from ssd.common.text import read_text
from ssd.common.untrusted_text import read_yaml
from ssd.data.reading.division import divide_by_folder
from ssd.data.reading.folder import FileTable, SourceFolder, base_name, split_of, stem_of
from ssd.data.validation import Report

_NAME_FILES = ("classes.txt", "obj.names", "classes.names", "_darknet.labels", "labels.txt", "predefined_classes.txt")
_NO_LABELS = (
    *_NAME_FILES,
    "readme.txt",
    "readme.roboflow.txt",
    "readme.dataset.txt",
    "requirements.txt",
    "license.txt",
)
_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}  # keys of data.yaml
_LIST = re.compile(r"(train|val|valid|validation|test)(_list)?\.txt", re.IGNORECASE)


class YoloFolder:
    """What a folder in YOLO format defines.

    Attributes:
        root: the folder.
        class_names: by number; empty if no file has them.
        names_file: where they are.

    Raises:
        ConfigError: `data_yaml` does not exist, or there are several and none is named.
        DataError: an unusable file.
    """

    def __init__(self, root: str, data_yaml: str | None) -> None:
        self.root = Path(root)
        self._files = SourceFolder(root)
        self._images = FileTable(self._files.images)
        self._yaml_path = _find_yaml(self._files, data_yaml)
        self._yaml = {} if self._yaml_path is None else read_data_yaml(self.root / self._yaml_path)
        self.names_file, self.class_names = self._class_names()
        texts = self._files.with_suffix(".txt")
        named = {base_name(entry) for split in _SPLITS for entry in self._entries(split)}
        self._lists = [path for path in texts if _LIST.fullmatch(base_name(path)) or path in named]
        others = set(texts).difference(self._lists)
        self._labels = FileTable(path for path in texts if path in others and base_name(path).lower() not in _NO_LABELS)

    def label_file(self, image: str) -> str | None:
        """The label file of an image; None if there is none.

        Raises:
            DataError: there are several.
        """
        found = self._labels.find(stem_of(base_name(image)), near=image)
        if len(found) > 1:
            raise DataError(f"{self.root / image}: label files {' and '.join(found)} fit; remove one")
        return found[0] if found else None

    def splits(self, report: Report) -> dict[str, list[str]]:
        """The images of each split, or under UNDIVIDED; their origin is noted in the report.

        Raises:
            DataError: no image, or a list that names images which do not exist.
        """
        found = (
            self._of_yaml(report)
            or self._of_lists(report)
            or (divide_by_folder(self._files.images, kind="images", report=report))
        )
        if not any(found.values()):
            raise DataError(f"dataset.root={self.root}: no image in it; give a folder of images and label files")
        return found

    def _entries(self, split: str) -> list[str]:
        """The folders and lists of a split in data.yaml."""
        value: Any = next((self._yaml[key] for key in _SPLITS[split] if self._yaml.get(key)), [])
        return [str(entry) for entry in (value if isinstance(value, list) else [value])]

    def _class_names(self) -> tuple[str, dict[int, str]]:
        if self._yaml_path is not None:
            return self._yaml_path, _names_of_yaml(self._yaml, self.root / self._yaml_path)
        named = [path for path in self._files.files if base_name(path).lower() in _NAME_FILES]
        for path in sorted(named, key=lambda path: (path.count("/"), path)):
            lines = [line.strip() for line in read_text(self.root / path).splitlines()]
            return path, {number: name for number, name in enumerate(lines) if name}
        return "classes.txt", {}

    def _of_yaml(self, report: Report) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for split in _SPLITS:
            entries = self._entries(split)
            paths = dict.fromkeys(path for entry in entries for path in self._of_entry(entry, report))
            if paths:
                found[split] = list(paths)
                report.note(f"{split}: {len(paths)} images of {', '.join(entries)} ({self._yaml_path})")
            elif entries:
                report.note(f"{split}: {', '.join(entries)} of {self._yaml_path} has no image here")
        return found if "train" in found else {}

    def _of_entry(self, entry: str, report: Report) -> list[str]:
        """The images of a folder or a list that data.yaml names, relative to its `path`, to itself, or to the root."""
        parts = [part for part in PurePosixPath(entry.replace("\\", "/")).parts if part not in ("/", ".", "..")]
        for start in range(len(parts)):
            below = "/".join(parts[start:])
            if below.lower().endswith(".txt") and (self.root / below).is_file():
                return list(self._of_list(below, report))
            prefix = f"{below}/".lower()
            if images := [path for path in self._files.images if path.lower().startswith(prefix)]:
                return images
        return []

    def _of_lists(self, report: Report) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in self._lists:
            split = split_of([stem_of(base_name(path))]) or "train"
            images = list(self._of_list(path, report))
            if images:
                found.setdefault(split, []).extend(images)
                report.note(f"{split}: {len(images)} images of {path}")
        return found if "train" in found else {}

    def _of_list(self, path: str, report: Report) -> Iterator[str]:
        for number, line in enumerate(read_text(self.root / path, as_file_names=True).splitlines(), start=1):
            entry = line.strip()
            if not entry:
                continue
            images = self._images.find(entry.removeprefix("./"))
            if len(images) == 1:
                yield images[0]
            else:
                what = f"is {' or '.join(images[:3])}" if images else f"is no image below dataset.root={self.root}"
                report.add(f"{self.root / path}:{number}", f"{entry!r} {what}; correct the line", fatal=True)


def read_data_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of keys and values.

    Raises:
        DataError: it is not.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: no keys and values; a data.yaml has `names`, `train` and `val`")
    return content


def _find_yaml(files: SourceFolder, data_yaml: str | None) -> str | None:
    if data_yaml is not None:
        if not (files.root / data_yaml).is_file():
            raise ConfigError(f"dataset.data_yaml={data_yaml}: no such file in {files.root}")
        return data_yaml
    found = [path for path in files.with_suffix(".yaml", ".yml") if "/" not in path and is_data_yaml(files.root / path)]
    preferred = [path for path in found if stem_of(path).lower() in ("data", "dataset")] or found
    if len(preferred) > 1:
        raise ConfigError(
            f"dataset.root={files.root}: several files with names: {', '.join(found)}; give dataset.data_yaml="
        )
    return preferred[0] if preferred else None


def is_data_yaml(path: Path) -> bool:
    """Whether a YAML file has the class names and splits of a dataset."""
    try:
        content = read_data_yaml(path)
    except DataError:
        return stem_of(path.name).lower() in ("data", "dataset")
    return bool(content.keys() & {"names", "nc"}) and bool(content.keys() & {"train", "val", "names"})


def _names_of_yaml(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    names = content.get("names")
    if isinstance(names, list):
        return {number: str(name) for number, name in enumerate(names)}
    if isinstance(names, dict) and all(str(key).isdecimal() for key in names):
        return {int(key): str(name) for key, name in names.items()}
    if names is None and isinstance(content.get("nc"), int) and 0 < content["nc"] <= 10_000:
        return {number: f"class_{number}" for number in range(content["nc"])}
    raise DataError(f"{path}: names is {str(names)[:80]!r}; it must be a list, or number: name")


def is_label_file(path: Path) -> bool:
    """Whether a text file looks like the labels of an image: lines of a class number and at least four fractions."""
    if path.name.lower() in _NO_LABELS or _LIST.fullmatch(path.name):
        return False
    try:
        lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
        return bool(lines) and all(
            len(line) >= 5 and line[0].isdecimal() and [float(x) for x in line] for line in lines
        )
    except (DataError, ValueError):
        return False
