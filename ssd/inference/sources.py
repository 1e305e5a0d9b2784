"""What to predict on: an image, an animation, a video, a folder or glob of them, a URL, or a camera."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Literal

from ssd.common.animations import FrameKind, frame_kind
from ssd.common.errors import ConfigError, DamagedImageError, DataError, PartialError
from ssd.common.image_formats import IMAGE_SUFFIXES
from ssd.common.image_header import is_image
from ssd.common.images import ImageArray, decode_image, read_bytes
from ssd.inference.animation import AnimationReader
from ssd.inference.remote import fetch
from ssd.inference.video import VIDEO_SUFFIXES, VideoReader, is_video

MediumKind = FrameKind | Literal["video"]

_log = logging.getLogger("ssd")
_UNSUPPORTED_SUFFIXES = re.compile(  # of images and videos that cannot be read
    r"\.(jxl|tga|svg|psd|exr|hdr|ico|raw|dng|cr2|cr3|nef|arw|orf|rw2|raf"
    r"|vob|mts|m2ts|m2v|rm|rmvb|asf|divx|f4v|3g2|h264|h265|hevc|mxf)"
)


@dataclass(frozen=True, slots=True)
class Medium:
    """An image, several pages of a file, an animation, or a video (or camera).

    `path` is a file, or a camera number. `name` is its name in the output: the path relative to the source (for a
    glob, to its fixed part). `source` is its name in the records.
    """

    path: Path | int
    name: Path
    source: str
    kind: MediumKind

    @property
    def is_video(self) -> bool:
        """Whether its frames follow each other in time."""
        return self.kind in ("animation", "video")


@dataclass(frozen=True, slots=True)
class Frame:
    """An image, page `number` (from 0), or frame `number` of a video with `rate` frames per second; else None.

    `time_s` is the time of a frame of an animation, whose frames may differ in their durations.
    """

    image: ImageArray
    medium: Medium
    number: int | None = None
    rate: float | None = None
    time_s: float | None = None


@dataclass(slots=True)
class ReadStatus:
    """Progress of `read_frames`: how many media it has opened, and the errors of those that are not complete."""

    opened: int = 0
    errors: list[str] = field(default_factory=list)


def find_media(source: str, *, downloads: Path, output: str | Path | None = None) -> list[Medium]:
    """Resolves `source`: files (see `find_files`), a camera number, or a URL, which is fetched into `downloads`.

    Raises:
        ConfigError: see `find_files`.
        DataError, MachineError: see `ssd.inference.remote.fetch`; or the download is neither image nor video.
    """
    if "://" in source:
        path = fetch(source, downloads)
        kind = _kind_by_content(path)  # the name in a URL may be wrong
        if kind is None:
            raise DataError(f"{source}: neither an image nor a video; check that the URL does not lead to a web page")
        return [Medium(path, Path(path.name), source, kind)]
    if source.isdecimal() and not Path(source).exists():
        return [Medium(int(source), Path(f"camera_{source}"), source, "video")]
    return find_files(source, output=output)


def find_files(source: str, *, output: str | Path | None = None) -> list[Medium]:
    """The images and videos of a file, a folder (with its subfolders) or a glob, sorted.

    If the folder `output` is below the source, its files are skipped: an earlier run wrote them.

    Raises:
        ConfigError: no files found, or a glob has `..` after its first wildcard.
    """
    if not source.strip():
        raise ConfigError("source is empty: give a file, a folder, a glob in quotes, a URL or a camera number")
    path, unreadable = Path(source), list[Path]()
    if os.path.lexists(path) and not path.is_dir():  # a FIFO is an error later
        base, found = path.parent, [path]
    elif path.is_dir():
        base, (found, unreadable) = path, _walk(path)
    else:
        base = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        found = [Path(name) for name in sorted(glob.glob(source, recursive=True))]
    files = _skip_output([file for file in found if not file.is_dir()], base, output)
    if path.is_dir():
        files = _skip_other_files(files, source)
    media = [Medium(file, file.relative_to(base), str(file), _kind(file)) for file in files]
    media += [Medium(folder, folder.relative_to(base), str(folder), "image") for folder in unreadable]  # an error later
    if any(".." in medium.name.parts for medium in media):
        raise ConfigError(f"source={source}: put '..' before the first wildcard; the output would leave its folder")
    if not media:
        raise ConfigError(f"source={source}: no image or video found; give a file, a folder or a glob in quotes")
    return media


def _walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files below a folder, and the folders that cannot be read; sorted."""
    found, unreadable = list[Path](), list[Path]()
    for parent, _, files in os.walk(folder, onerror=lambda error: unreadable.append(Path(error.filename))):
        found += [Path(parent, name) for name in files]
    return sorted(found), sorted(unreadable)


def _skip_output(files: list[Path], base: Path, output: str | Path | None) -> list[Path]:
    if output is None:
        return files
    folder, resolved_base = Path(output).resolve(), base.resolve()
    if resolved_base not in folder.parents:
        return files
    kept = [file for file in files if folder not in (resolved_base / file.relative_to(base)).parents]
    if len(kept) < len(files):
        _log.info("output=%s is below the source: skipped its files", output)
    return kept


def _skip_other_files(files: list[Path], source: str) -> list[Path]:
    """The files with the suffix of an image or video; warns of formats that cannot be read."""
    kept = [file for file in files if file.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)]
    unsupported = Counter(file.suffix.lower() for file in files if _UNSUPPORTED_SUFFIXES.fullmatch(file.suffix.lower()))
    if unsupported:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(unsupported.items()))
        _log.warning("source=%s: skipped unsupported formats: %s; convert them to .jpg or .mp4", source, listed)
    return kept


def read_frames(media: Sequence[Medium], status: ReadStatus) -> Iterator[Frame]:
    """Yields the images and frames in order; adds the errors of unreadable or incomplete files to `status`."""
    for medium in media:
        status.opened += 1
        try:
            yield from _read(medium)
        except (DataError, PartialError) as error:
            status.errors.append(str(error))


def count_frames(media: Sequence[Medium]) -> int | None:
    """The expected number of frames; None if it is unknown."""
    total = 0
    for medium in media:
        if isinstance(medium.path, int):
            return None
        with suppress(DataError):  # `read_frames` reports it
            count = 1 if medium.kind == "image" else _open(medium).frame_count
            if count is None:
                return None
            total += count
    return total


def _open(medium: Medium) -> VideoReader | AnimationReader:
    if medium.kind == "video" or isinstance(medium.path, int):
        return VideoReader(medium.path, name=medium.source)
    return AnimationReader(medium.path, pages=medium.kind == "pages", name=medium.source)


def _read(medium: Medium) -> Iterator[Frame]:
    if medium.kind == "image":
        yield from _read_image(medium)
        return
    reader = _open(medium)
    if isinstance(reader, VideoReader):
        for number, image in enumerate(reader):
            yield Frame(image, medium, number, reader.rate)
    else:
        for frame in reader:
            yield Frame(frame.image, medium, frame.number, reader.rate, frame.time_s)


def _read_image(medium: Medium) -> Iterator[Frame]:
    data = read_bytes(str(medium.path))
    try:
        yield Frame(decode_image(data, name=medium.source), medium)
    except DamagedImageError as error:
        yield Frame(decode_image(data, name=medium.source, accept_damage=True), medium)
        raise PartialError(str(error)) from error


def _kind(path: Path) -> MediumKind:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return "video"
    return frame_kind(path) if suffix in IMAGE_SUFFIXES else _kind_by_content(path) or "image"


def _kind_by_content(path: Path) -> MediumKind | None:
    """None for a file that is neither an image nor a video."""
    if is_image(path):
        return frame_kind(path)
    return "video" if is_video(path) else None
