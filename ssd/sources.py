"""What to predict on: a picture, a folder of pictures, or a glob."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from ssd.errors import ConfigError
from ssd.images import IMAGE_SUFFIXES


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A file, and the name that it has in the output: its path below the source (below the fixed part of a glob)."""

    path: Path
    name: Path


def find_pictures(source: str) -> list[PictureFile]:
    """The pictures that `source` means, sorted; folders are searched to the bottom.

    Raises:
        ConfigError: nothing there, or a glob that climbs after its first wildcard.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        found = [PictureFile(file, file.relative_to(path)) for file in files]
    elif path.is_file():
        found = [PictureFile(path, Path(path.name))]
    else:
        fixed = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        files = [file for name in sorted(glob.glob(source, recursive=True)) if (file := Path(name)).is_file()]
        found = [PictureFile(file, file.relative_to(fixed)) for file in files]
    if any(".." in picture.name.parts for picture in found):
        raise ConfigError(f"source={source}: put '..' before the first wildcard, or the output would leave its folder")
    if not found:
        raise ConfigError(f"source={source}: no picture there; give a file, a folder, or a glob in quotes")
    return found
