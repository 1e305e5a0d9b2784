"""A cache for every reader of a folder: the next start parses no annotation and opens no image.

One file for each choice of settings lies in <root>/.ssd_cache: the arrays of the indexes as they lie in memory, then
their places, the report and a checksum. It is mapped, not read, so processes share its pages. It may be deleted at any
time; where it cannot be written, or the folder is marked as read-only, there is none.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import astuple
from functools import partial
from pathlib import Path

import numpy as np

from ssd.common.atomic_files import write_atomically
from ssd.common.images import IMAGE_SUFFIXES, ImageArray, read_below
from ssd.data.index import DetectionIndex, PackedStrings
from ssd.data.splits import Splits
from ssd.data.validation import Problem, Report

FOLDER = ".ssd_cache"
_WRITE_BITS = 0o222
_KEPT = 8  # choices of settings
_ALIGNMENT = 64  # bytes
_END = 8 + 4  # bytes: length of the description, checksum


def read_cached(read: partial[Splits]) -> Splits:
    """What `read` returns, from the cache while its sources are what they were.

    Sources are the settings of `read`, the files below its `root` (or that another setting names) that are neither
    images nor hidden, with size and time, the times of the folders of images, and the code of the readers. A
    image that is overwritten in place is not noticed.
    """
    root = read.keywords.get("root")
    if root is None or not Path(root).is_dir():
        return read()
    path, fingerprint = _place(read), _fingerprint(read)
    splits = _load(path, fingerprint, partial(read_below, str(root)))
    if splits is None:
        splits = read()
        writable = Path(root).stat().st_mode & _WRITE_BITS  # root could write where nobody should
        if writable and all(getattr(index.load, "func", None) is read_below for _, index in splits.items()):
            with suppress(OSError):  # a folder that cannot be written, a full disk
                write_atomically(path, partial(_save, splits, fingerprint))
                newest_first = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
                for file in newest_first[_KEPT:]:
                    file.unlink()
    return splits


def _place(read: partial[Splits]) -> Path:
    settings = {name: value for name, value in read.keywords.items() if name != "root"}
    text = f"{read.func.__module__}.{read.func.__qualname__} {json.dumps(settings, sort_keys=True, default=str)}"
    return Path(read.keywords["root"], FOLDER, f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.index")


# --- what a change is --------------------------------------------------------------------------------------------


def _fingerprint(read: partial[Splits]) -> str:
    root = Path(read.keywords["root"]).resolve()
    named = [root / value for value in read.keywords.values() if isinstance(value, str)]
    lines = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path(__file__).parent.rglob("*.py"))]
    seen: set[tuple[int, int]] = set()
    for path in (root, *named):
        lines += sorted(_sources(path, seen))
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _sources(path: Path, seen: set[tuple[int, int]]) -> Iterator[str]:
    """A line for each source at or below `path` that can be read; links are followed, once."""
    with suppress(OSError):
        info = path.stat()
        if (info.st_dev, info.st_ino) in seen:
            return
        seen.add((info.st_dev, info.st_ino))
        if not path.is_dir():
            yield f"{path} {info.st_size} {info.st_mtime_ns}"
            return
        images = False
        for entry in os.scandir(path):
            if entry.name.lower().endswith(IMAGE_SUFFIXES):
                images = True
            elif not entry.name.startswith("."):
                yield from _sources(Path(entry), seen)
        if images:
            yield f"{path} {info.st_mtime_ns}"


# --- the file ----------------------------------------------------------------------------------------------------


def _save(splits: Splits, fingerprint: str, path: Path) -> None:
    places: dict[str, list[tuple[str, tuple[int, ...], int]]] = {}
    with path.open("wb") as file:
        for name, index in splits.items():
            places[name] = []
            for array in _arrays(index):
                file.write(bytes(-file.tell() % _ALIGNMENT))
                places[name].append((array.dtype.str, array.shape, file.tell()))
                array.tofile(file)
        problems = [astuple(problem) for problem in splits.report.problems]
        about = {"fingerprint": fingerprint, "class_names": splits.class_names, "problems": problems, "places": places}
        text = json.dumps(about).encode()
        file.write(text + len(text).to_bytes(8, "little"))
    checksum = zlib.crc32(np.memmap(path, mode="r").data)
    with path.open("ab") as file:
        file.write(checksum.to_bytes(4, "little"))


def _load(path: Path, fingerprint: str, load: Callable[[str], ImageArray]) -> Splits | None:
    """None where there is no such file, it is damaged, or its sources have changed."""
    try:
        data = np.asarray(np.memmap(path, mode="c"))  # "c": torch warns of arrays that cannot be written
        length, checksum = (int.from_bytes(part.tobytes(), "little") for part in (data[-_END:-4], data[-4:]))
        about = json.loads(data[-_END - length : -_END].tobytes())
        if about["fingerprint"] != fingerprint or zlib.crc32(data[:-4].data) != checksum:
            return None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    indexes: dict[str, DetectionIndex | None] = {"train": None, "val": None, "test": None}
    for name, places in about["places"].items():
        arrays = [_mapped(data, *place) for place in places]
        indexes[name] = DetectionIndex(
            tuple(about["class_names"]), load, PackedStrings(*arrays[:2]), PackedStrings(*arrays[2:4]), *arrays[4:]
        )
    return Splits(**indexes, report=Report([Problem(*problem) for problem in about["problems"]]))


def _arrays(index: DetectionIndex) -> list[np.ndarray]:
    """In the order of the fields of an index."""
    strings = (index.paths.data, index.paths.offsets, index.ids.data, index.ids.offsets)
    return [*strings, index.sizes, index.box_offsets, index.boxes, index.labels, index.ignore]


def _mapped(data: np.ndarray, dtype: str, shape: list[int], start: int) -> np.ndarray:
    size = np.dtype(dtype).itemsize * math.prod(shape)
    return data[start : start + size].view(dtype).reshape(shape)
