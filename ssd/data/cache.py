"""A cache for the readers of folders: on the next start, no annotation is parsed and no image is opened.

Each combination of settings has one safetensors file in <root>/.ssd_cache, which is memory-mapped, so processes share
its pages. It may be deleted at any time. No file is written to a read-only folder or a full disk. A file counts only if
this user's program wrote it: its checksum is keyed, as a dataset may come from a stranger with a cache in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ssd.common.atomic_files import remove_partial_files, write_atomically
from ssd.common.errors import DataError
from ssd.common.image_formats import IMAGE_SUFFIXES
from ssd.common.images import ImageArray, read_below
from ssd.common.untrusted_files import open_untrusted
from ssd.common.untrusted_text import parse_json
from ssd.common.user_key import keyed_digest
from ssd.data.index import DetectionIndex, PackedStrings
from ssd.data.splits import Splits
from ssd.data.validation import Problem, Report

FOLDER = ".ssd_cache"
_WRITE_BITS = 0o222
_MAX_FILES = 8  # combinations of settings
_NAME = re.compile(r"[0-9a-f]{16}\.safetensors")
_STALE_S = 3600.0  # after which a file that is being written was left by a killed process
_MAX_IMAGES = 200_000  # looking at each takes half a second


def read_cached(read: partial[Splits]) -> Splits:
    """The result of `read`, from the cache as long as its sources do not change.

    Sources are the settings of `read`; size and modification time of the files below its `root` (or below a path in
    another setting) that are not hidden; and the code of the readers. Of a folder of more than _MAX_IMAGES images only
    the folder's modification time counts: an image that is overwritten in place is noticed when it is decoded.
    """
    root = read.keywords.get("root")
    if root is None or not Path(root).is_dir():
        return read()
    path = _cache_file(read)
    if path.parent.is_symlink() or path.is_symlink():
        unused = read()
        unused.report.note(f"{path.parent} is not used: it is a link, or holds one; remove it")
        return unused
    fingerprint = _fingerprint(read)
    splits = _load(path, fingerprint, partial(read_below, str(root)))
    if splits is None:
        splits = read()
        writable = Path(root).stat().st_mode & _WRITE_BITS  # the root user can write to read-only folders
        if writable and all(getattr(index.load, "func", None) is read_below for _, index in splits.items()):
            with suppress(OSError, SafetensorError):  # a folder that cannot be written, a full disk
                write_atomically(path, partial(_save, splits, fingerprint))
                _remove_old_files(path.parent)
    return splits


def _remove_old_files(folder: Path) -> None:
    """Removes what this program wrote, but for the newest files: other names, and links, stay."""
    ours = [Path(entry) for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
    ours = [path for path in ours if _NAME.fullmatch(path.name) and _has_our_header(path)]
    for path in sorted(ours, key=lambda path: path.stat().st_mtime, reverse=True)[_MAX_FILES:]:
        path.unlink()
    remove_partial_files(folder, older_than_s=_STALE_S)


def _has_our_header(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return _HEADER in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _cache_file(read: partial[Splits]) -> Path:
    settings = {name: value for name, value in read.keywords.items() if name != "root"}
    text = f"{read.func.__module__}.{read.func.__qualname__} {json.dumps(settings, sort_keys=True, default=str)}"
    return Path(read.keywords["root"], FOLDER, f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors")


# --- fingerprint of the sources ----------------------------------------------------------------------------------


def _fingerprint(read: partial[Splits]) -> str:
    root = Path(read.keywords["root"]).resolve()
    named = [root / value for value in read.keywords.values() if isinstance(value, str)]
    lines = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path(__file__).parent.rglob("*.py"))]
    seen: set[tuple[int, int]] = set()
    for path in (root, *named):
        lines += sorted(_sources(path, seen))
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _sources(path: Path, seen: set[tuple[int, int]]) -> Iterator[str]:
    """A line for each source at or below `path` that can be read; follows every link once."""
    with suppress(OSError):
        info = path.stat()
        if (info.st_dev, info.st_ino) in seen:
            return
        seen.add((info.st_dev, info.st_ino))
        if not path.is_dir():
            yield f"{path} {info.st_size} {info.st_mtime_ns}"
            return
        images = []
        for entry in os.scandir(path):
            if entry.name.lower().endswith(IMAGE_SUFFIXES):
                images.append(entry)
            elif not entry.name.startswith("."):
                yield from _sources(Path(entry), seen)
        if images:
            yield f"{path} {info.st_mtime_ns} {_images_digest(images)}"


def _images_digest(images: Sequence[os.DirEntry[str]]) -> str:
    lines = []
    for entry in images if len(images) <= _MAX_IMAGES else ():
        with suppress(OSError):  # a broken link
            info = entry.stat()
            lines.append(f"{entry.name} {info.st_size} {info.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()


# --- the file ----------------------------------------------------------------------------------------------------

_COLUMNS = ("sizes", "box_offsets", "boxes", "labels", "ignore", "source_lines", "source_of")
_STRINGS = ("paths", "ids", "sources")
_PARTS = ("data", "offsets")  # of PackedStrings
_ARRAYS = (*_COLUMNS, *(f"{name}.{part}" for name in _STRINGS for part in _PARTS))
_HEADER = "header"  # one entry only: safetensors writes several in random order


def _save(splits: Splits, fingerprint: str, path: Path) -> None:
    arrays = {f"{split}.{name}": attrgetter(name)(index) for split, index in splits.items() for name in _ARRAYS}
    problems = [astuple(problem) for problem in splits.report.problems]
    header = {"fingerprint": fingerprint, "class_names": splits.class_names, "problems": problems}
    text = json.dumps(header | {"notes": splits.report.notes, "splits": [split for split, _ in splits.items()]})
    save_file(arrays, path, metadata={_HEADER: f"{_checksum(arrays, text)} {text}"})


def _checksum(arrays: dict[str, np.ndarray], text: str) -> str | None:
    """Of names, types, shapes and contents; None where this user has no key."""
    parts: list[bytes | memoryview] = [text.encode()]
    for name, array in sorted(arrays.items()):
        parts += [
            f"{name} {array.dtype} {array.shape}".encode(),
            np.ascontiguousarray(array).reshape(-1).view(np.uint8).data,
        ]
    return keyed_digest(parts)


def _load(path: Path, fingerprint: str, load: Callable[[str], ImageArray]) -> Splits | None:
    """None if there is no such file, this user's program did not write it, or its sources have changed."""
    try:
        open_untrusted(path).close()
        with safe_open(path, framework="pt") as file:  # "pt": mapped, as "np" would copy
            checksum, _, text = file.metadata()[_HEADER].partition(" ")
            header = parse_json(text, name=str(path))
            if header["fingerprint"] != fingerprint:
                return None
            arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118  it is no dict
        expected = _checksum(arrays, text)
    except (DataError, OSError, SafetensorError, ValueError, TypeError, KeyError):
        return None
    if expected is None or checksum != expected:
        return None
    indexes = {}
    for split in header["splits"]:
        columns: dict[str, Any] = {name: arrays[f"{split}.{name}"] for name in _COLUMNS}
        for name in _STRINGS:
            columns[name] = PackedStrings(*(arrays[f"{split}.{name}.{part}"] for part in _PARTS))
        indexes[split] = DetectionIndex(class_names=tuple(header["class_names"]), load=load, **columns)
    report = Report([Problem(*problem) for problem in header["problems"]], header["notes"])
    return Splits(**indexes, report=report)
