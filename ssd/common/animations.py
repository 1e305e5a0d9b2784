"""Frames of animations (GIF, APNG, WebP, AVIF) and pages of TIFF files: how many there are, and stepping through them.

Pillow decodes the frames. Their headers are counted here: Pillow does not report where a GIF is truncated, and refuses
a truncated WebP altogether. Of a TIFF, reduced copies of another page and masks are no pages.
"""

from __future__ import annotations

import io
import itertools
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from ssd.common.errors import DataError
from ssd.common.image_header import PILLOW_ERRORS, File, errors_named, open_image
from ssd.common.untrusted_files import open_untrusted

FrameKind = Literal["image", "animation", "pages"]
_START_BYTES = 16
_PNG_SIGNATURE_BYTES, _RIFF_HEADER_BYTES = 8, 12
_SUBFILE_TYPE, _NO_PAGE = 254, 0b101  # TIFF tag; its bits for a reduced copy and for a mask
_SHORTEST_MS, _DEFAULT_MS = 10, 100  # browsers show frames of at most 10 ms for 100 ms
_MIN_RATE = 0.1
_SEEK_ERRORS = (*PILLOW_ERRORS, IndexError, KeyError, TypeError, OverflowError, struct.error)


@dataclass(frozen=True, slots=True)
class FrameHeaders:
    """What the headers of the frames declare: their number (so far, if the file is truncated) and their total time."""

    count: int
    total_s: float
    truncated: bool

    @property
    def rate(self) -> float:
        """The mean number of frames per second, as a video can have it: with two decimals, and not close to 0."""
        return round(max(_MIN_RATE, self.count / self.total_s), 2) if self.count else _MIN_RATE


def frame_kind(path: Path) -> FrameKind:
    """Whether a file is a single image, an animation, or several pages; `image` as well for what cannot be read."""
    with suppress(DataError, EOFError), _open(path) as file:
        read_durations = _reader_of(file)
        if read_durations and sum(1 for _ in itertools.islice(read_durations(file), 2)) == 2:
            return "pages" if read_durations is _tiff else "animation"
    return "image"


def read_headers(path: Path) -> FrameHeaders:
    """Counts the frames of an image file without decoding them.

    Raises:
        DataError: missing or unreadable.
    """
    count, total_s, truncated = 0, 0.0, False
    with _open(path) as file:
        read_durations = _reader_of(file)
        try:
            for duration_ms in read_durations(file) if read_durations else ():
                count, total_s = count + 1, total_s + seconds(duration_ms)
        except (EOFError, DataError):
            truncated = True
    return FrameHeaders(count, total_s, truncated)


def extra_frames(path: Path) -> int:
    """How many frames or pages follow the first one, which alone is used where an image is expected."""
    with suppress(DataError):
        return max(0, read_headers(path).count - 1)
    return 0


def seconds(duration_ms: float) -> float:
    """How long a frame is shown."""
    return (duration_ms if duration_ms > _SHORTEST_MS else _DEFAULT_MS) / 1000


@contextmanager
def open_frames(path: Path, *, name: str) -> Iterator[Image.Image]:
    """The Pillow image of a file, which `each_frame` steps through; of a truncated WebP with the complete frames.

    Raises:
        DataError: not an image, or it cannot be read.
    """
    with _open(path) as file:
        yield open_image(_complete_chunks(file) if _reader_of(file) is _webp else file, name)


def each_frame(image: Image.Image, *, name: str) -> Iterator[None]:
    """Sets a Pillow image to each of its frames or pages in turn, without decoding it.

    Raises:
        DataError: there is another frame, but its header is damaged.
    """
    for position in itertools.count(int(getattr(image, "default_image", False))):  # that image is not in the animation
        try:
            image.seek(position)
            is_page = position == 0 or _is_page(image)
        except EOFError:
            return
        except _SEEK_ERRORS as error:
            raise DataError(f"{name}: damaged image: {error}; replace or delete the file") from error
        if is_page:
            yield


def _is_page(image: Image.Image) -> bool:
    kind = image.tag_v2.get(_SUBFILE_TYPE) if isinstance(image, TiffImageFile) else None
    return not (isinstance(kind, int) and kind & _NO_PAGE)


@contextmanager
def _open(path: Path) -> Iterator[File]:
    with open_untrusted(path, what="image") as file:
        yield io.BufferedReader(file)


def _read(file: File, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


# Each yields the duration of every frame that begins, in ms. Where the file is truncated, it raises an EOFError or a
# DataError.


def _gif(file: File) -> Iterator[float]:
    _skip_palette(file, _read(file, 13)[10])
    duration_ms = 0
    while (block := _read(file, 1)) != b";":
        if block == b",":  # a frame
            _skip_palette(file, _read(file, 9)[8])
            yield duration_ms
            duration_ms = 0
            _read(file, 1)
            _skip_blocks(file)
        elif block == b"!":  # an extension; 0xf9 belongs to the next frame
            label, size = _read(file, 2)
            content = _read(file, size)
            if label == 0xF9 and size >= 3:
                duration_ms = 10 * int.from_bytes(content[1:3], "little")
            if size:
                _skip_blocks(file)


def _skip_palette(file: File, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 << (flags & 7) + 1, io.SEEK_CUR)


def _skip_blocks(file: File) -> None:
    while size := _read(file, 1)[0]:
        file.seek(size, io.SEEK_CUR)


def _png(file: File) -> Iterator[float]:
    file.seek(_PNG_SIGNATURE_BYTES)
    animated = False
    while True:
        length, kind = struct.unpack(">I4s", _read(file, 8))
        end = file.tell() + length + 4
        animated = animated or kind == b"acTL"
        if kind == b"IEND" or (kind == b"IDAT" and not animated):
            return
        if kind == b"fcTL":
            numerator, denominator = struct.unpack(">20x2H", _read(file, 24))
            yield 1000 * numerator / (denominator or 100)
        file.seek(end)


def _webp(file: File) -> Iterator[float]:
    end = int.from_bytes(_read(file, _RIFF_HEADER_BYTES)[4:8], "little") + 8
    while file.tell() < end:
        kind, length = struct.unpack("<4sI", _read(file, 8))
        after = file.tell() + length + length % 2
        if kind == b"ANMF":
            yield int.from_bytes(_read(file, 15)[12:], "little")
        file.seek(after - 1)
        _read(file, 1)


def _complete_chunks(file: File) -> File:
    """A truncated WebP with the chunks that are complete; another one as it is."""
    data, end = file.read(), _RIFF_HEADER_BYTES
    if int.from_bytes(data[4:8], "little") + 8 <= len(data):
        return file
    while True:
        length = int.from_bytes(data[end + 4 : end + 8], "little")
        after = end + 8 + length + length % 2
        if after > len(data):
            return io.BytesIO(data[:4] + (end - 8).to_bytes(4, "little") + data[8:end])
        end = after


def _avif(file: File) -> Iterator[float]:
    """All frames count as long as the first: the durations of the others are known once they are decoded."""
    image = open_image(file, "")
    with errors_named(""):
        image.load()
    yield from itertools.repeat(image.info["duration"], getattr(image, "n_frames", 1))


def _tiff(file: File) -> Iterator[float]:
    for _ in each_frame(open_image(file, ""), name=""):
        yield 0.0


_READERS: dict[re.Pattern[bytes], Callable[[File], Iterator[float]]] = {  # by the first bytes of a file
    re.compile(rb"GIF8[79]a"): _gif,
    re.compile(rb"\x89PNG\r\n\x1a\n"): _png,
    re.compile(rb"RIFF.{4}WEBPVP8X", re.DOTALL): _webp,
    re.compile(rb".{4}ftypavis", re.DOTALL): _avif,
    re.compile(rb"II[*+]\0|MM\0[*+]"): _tiff,
}


def _reader_of(file: File) -> Callable[[File], Iterator[float]] | None:
    start = file.read(_START_BYTES)
    file.seek(0)
    return next((reader for pattern, reader in _READERS.items() if pattern.match(start)), None)
