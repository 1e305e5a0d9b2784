"""What to predict on: an image, a video, a folder or glob of both, a web address, a camera."""

from __future__ import annotations

import glob
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.client import responses
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from PIL import Image, UnidentifiedImageError
from urllib3 import BaseHTTPResponse, exceptions

from ssd.common import http
from ssd.common.errors import ConfigError, DamagedImageError, DataError, MachineError, PartialError
from ssd.common.http import HEADERS, Network, connection_pool
from ssd.common.images import IMAGE_SUFFIXES, ImageArray, decode_image, read_bytes
from ssd.inference.video import VIDEO_SUFFIXES, VideoReader, is_video

_LIMIT_BYTES = 2 * 2**30
_SILENCE_S = 20.0  # without a byte
_TOTAL_S = 1800.0
_BLOCK_BYTES = 2**16
_LONGEST_NAME = 80


def fetch(url: str, folder: Path, *, limit_bytes: int = _LIMIT_BYTES, silence_s: float = _SILENCE_S) -> Path:
    """Downloads `url` into `folder`, under a name that is safe there.

    Raises:
        ConfigError: no address, or not http or https.
        DataError: the server has no such file, or it is too large or cut short.
        MachineError: no answer, or a way that leads out of the web.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # is read only now
    except ValueError as error:
        raise ConfigError(f"source={url}: not an address: {error}; check its spelling") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"source={url}: only http:// and https:// addresses are fetched")
    path = folder / safe_name(url)
    network = Network(workers=1, tries=1, connect_timeout_s=silence_s, read_timeout_s=silence_s)
    request: dict[str, Any] = {"headers": HEADERS, "preload_content": False, "enforce_content_length": False}
    try:
        with connection_pool(url, network) as pool, pool.request("GET", url, **request) as response:
            if response.status != 200:
                raise DataError(f"{url}: the server answers {response.status} {responses.get(response.status, '')}")
            promised = response.length_remaining
            size = _receive(response, path, url, limit_bytes=limit_bytes)
    except exceptions.HTTPError as error:  # an unknown scheme after a redirect is one, too
        raise MachineError(f"{url}: cannot be fetched: {http.explain(error)}; is the network there?") from error
    if promised is not None and size != promised:
        raise DataError(f"{url}: {size} of {promised} bytes came; try again")
    return path


def safe_name(url: str) -> str:
    """The last part of the path of `url`, as a file name without anything special."""
    last = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "_", last).strip("._")[-_LONGEST_NAME:] or "download"


def _receive(response: BaseHTTPResponse, path: Path, url: str, *, limit_bytes: int) -> int:
    """Writes the body; returns its bytes."""
    end, size = time.monotonic() + _TOTAL_S, 0
    with path.open("wb") as file:
        for block in response.stream(_BLOCK_BYTES, decode_content=False):
            size += len(block)
            if size > limit_bytes:
                raise DataError(f"{url}: over {limit_bytes} bytes; download it by other means and give the file")
            if time.monotonic() > end:
                raise MachineError(f"{url}: not here after {_TOTAL_S:g} s; download it by other means")
            file.write(block)
    return size


_log = logging.getLogger("ssd")
_UNREAD = re.compile(  # suffixes of what are images and videos to their owners
    r"\.(heic|heif|avif|jp2|j2k|jpx|jxl|tga|svg|psd|exr|hdr|ico|raw|dng|cr2|cr3|nef|arw|orf|rw2|raf"
    r"|vob|mts|m2ts|m2v|rm|rmvb|asf|divx|f4v|3g2|h264|h265|hevc|mxf)"
)


@dataclass(frozen=True, slots=True)
class Medium:
    """An image, video or camera.

    `path` is a file, or the number of a camera. `name` is what it is called in the output: a file's path below the
    source (below the fixed part of a glob). `source` is what the records call it.
    """

    path: Path | int
    name: Path
    source: str
    is_video: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """An image, or the frame `number` (from 0) of a video of `rate` frames a second."""

    image: ImageArray
    medium: Medium
    number: int | None
    rate: float | None


def find_media(source: str, *, downloads: Path, output: str | Path | None = None) -> list[Medium]:
    """What `source` means: files (see `find_files`), a camera, or an address, fetched into the folder `downloads`.

    Raises:
        ConfigError: see `find_files`.
        DataError, MachineError: see `ssd.inference.sources.fetch`; or neither an image nor a video came.
    """
    if "://" in source:
        path = fetch(source, downloads)
        return [Medium(path, Path(path.name), source, _is_video_from_web(path, source))]
    if source.isdecimal() and not Path(source).exists():
        return [Medium(int(source), Path(f"camera_{source}"), source, True)]
    return find_files(source, output=output)


def find_files(source: str, *, output: str | Path | None = None) -> list[Medium]:
    """The images and videos of a file, a folder (searched to the bottom) or a glob, sorted.

    What lies in the folder `output`, below the source, is left out: an earlier run wrote it.

    Raises:
        ConfigError: nothing there, or a glob that climbs after its first wildcard.
    """
    if not source.strip():
        raise ConfigError("the source is empty: give a file, a folder, a glob in quotes, an address, ...")
    path = Path(source)
    if path.is_file():
        return [Medium(path, Path(path.name), str(path), _is_video(path))]
    if path.is_dir():
        files, fixed = sorted(file for file in path.rglob("*") if file.is_file()), path
    else:
        fixed = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        files = [file for name in sorted(glob.glob(source, recursive=True)) if (file := Path(name)).is_file()]
    files = _without_output(files, fixed, output)
    if path.is_dir():
        files = _readable(files, source)
    found = [Medium(file, file.relative_to(fixed), str(file), _is_video(file)) for file in files]
    if any(".." in medium.name.parts for medium in found):
        raise ConfigError(f"source={source}: put '..' before the first wildcard, or the output would leave its folder")
    if not found:
        raise ConfigError(f"source={source}: no image or video there; give a file, a folder, a glob in quotes, ...")
    return found


def _without_output(files: list[Path], fixed: Path, output: str | Path | None) -> list[Path]:
    if output is None:
        return files
    folder, below = Path(output).resolve(), fixed.resolve()
    if below not in folder.parents:
        return files
    kept = [file for file in files if folder not in (below / file.relative_to(fixed)).parents]
    if len(kept) < len(files):
        _log.info("%s: lies below the source; what is in it is left out", output)
    return kept


def _readable(files: list[Path], source: str) -> list[Path]:
    """The files of a folder whose suffixes are those of images and videos; says which others look like some."""
    kept = [file for file in files if file.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)]
    other = Counter(file.suffix.lower() for file in files if _UNREAD.fullmatch(file.suffix.lower()))
    if other:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(other.items()))
        _log.warning("source=%s: left out, for they are not read: %s; convert them to .jpg or .mp4", source, kinds)
    return kept


@dataclass(slots=True)
class Reading:
    """How far `read_frames` is: the media that it has begun, and what is wrong with those that are not whole."""

    begun: int = 0
    failed: list[str] = field(default_factory=list)


def read_frames(media: Sequence[Medium], reading: Reading) -> Iterator[Frame]:
    """The images and frames in order; what cannot be read (whole) is added to `reading`."""
    for medium in media:
        reading.begun += 1
        try:
            yield from _read(medium)
        except (DataError, PartialError) as error:
            reading.failed.append(str(error))


def count_frames(media: Sequence[Medium]) -> int | None:
    """How many frames to expect, where that is known."""
    total = 0
    for medium in media:
        if isinstance(medium.path, int):
            return None
        try:
            promised = VideoReader(medium.path, name=medium.source).promised if medium.is_video else 1
        except DataError:  # said when it is read
            continue
        if promised is None:
            return None
        total += promised
    return total


def _read(medium: Medium) -> Iterator[Frame]:
    if not medium.is_video:
        assert isinstance(medium.path, Path)
        yield from _read_image(medium.path, medium)
        return
    video = VideoReader(medium.path, name=medium.source)
    try:
        for number, image in enumerate(video):
            yield Frame(image, medium, number, video.rate)
    finally:
        video.close()


def _read_image(path: Path, medium: Medium) -> Iterator[Frame]:
    data = read_bytes(path)
    try:
        yield Frame(decode_image(data, name=medium.source), medium, None, None)
    except DamagedImageError as error:
        yield Frame(decode_image(data, name=medium.source, accept_damage=True), medium, None, None)
        raise PartialError(str(error)) from error


def _is_video(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in VIDEO_SUFFIXES or (suffix not in IMAGE_SUFFIXES and not _is_image(path) and is_video(path))


def _is_video_from_web(path: Path, url: str) -> bool:
    """By its content: the name in an address promises nothing."""
    if _is_image(path):
        return False
    if is_video(path):
        return True
    raise DataError(f"{url}: neither an image nor a video came; does the address lead to a web page?")


def _is_image(path: Path) -> bool:
    try:
        with Image.open(path):
            return True
    except UnidentifiedImageError:
        return False
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return True  # what is wrong with it is said when it is read
