"""The headers of image files: size and orientation without decoding, and checks before anything is decoded.

Pillow tries only the formats that people keep photographs in: others, such as EPS, start programs.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ssd.common.errors import DataError
from ssd.common.image_formats import PILLOW_FORMATS, describe_unidentified
from ssd.common.untrusted_files import MAX_BYTES, open_untrusted

MAX_PIXELS = 2 * 10**8
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow warns above it and fails above twice as much; we fail at once
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="Corrupt EXIF data")  # of a TIFF; our error names the file
PILLOW_ERRORS = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, Image.DecompressionBombError)
File = io.FileIO | io.BytesIO | io.BufferedReader

EXIF_ORIENTATION = 0x0112
ORIENTATIONS = range(1, 9)
_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_JPEG_FRAMES = {0xC0 + kind for kind in range(16)} - {0xC4, 0xC8, 0xCC}
_JPEG_APP1 = 0xE1  # EXIF or XMP
_HEADER_BYTES = 4096
_PNG_START = b"\x89PNG\r\n\x1a\n"
_TRANSPARENCY_COST = 4  # times the memory of an opaque image: the image is blended over white in RGBA


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in PILLOW_FORMATS if name in Image.OPEN)


def is_image(path: str | Path) -> bool:
    """Whether a file is an image by its content; one that is damaged or too large is, too.

    Raises:
        DataError: missing, unreadable, or not a regular file.
    """
    with open_untrusted(path, max_bytes=MAX_BYTES, what="image") as file:
        try:
            Image.open(file, formats=_formats())
        except UnidentifiedImageError:
            return False
        except PILLOW_ERRORS:
            return True
    return True


def read_size(path: str | Path) -> tuple[int, int]:
    """Upright (H, W) of an image file, from its header.

    Raises:
        DataError: as `read_image`, except for damage inside the compressed data, which only decoding finds.
    """
    with open_untrusted(path, max_bytes=MAX_BYTES, what="image") as file:
        size = _plain_jpeg_size(file)
        if size is not None and size[0] * size[1] <= MAX_PIXELS:
            return size
        return _size_by_pillow(file, str(path))


def read_orientation(path: str | Path) -> int:
    """EXIF orientation of an image file, 1..8; 1 if it has none. Images are read upright, so few need it.

    Raises:
        DataError: as `read_image`.
    """
    with open_untrusted(path, max_bytes=MAX_BYTES, what="image") as file:
        header = open_image(file, str(path))
        with errors_named(str(path)):
            value = header.getexif().get(EXIF_ORIENTATION)
    return value if isinstance(value, int) and value in ORIENTATIONS else 1


def _plain_jpeg_size(file: File) -> tuple[int, int] | None:
    """(H, W) of a complete JPEG without EXIF and XMP, in a fifth of Pillow's time; None for anything less common."""
    data = file.read(_HEADER_BYTES)
    size, segment = None, len(_JPEG_START)
    while data.startswith(_JPEG_START) and data[segment : segment + 1] == b"\xff" and segment + 10 <= len(data):
        marker, length, bits, height, width, channels = struct.unpack_from(">xBHBHHB", data, segment)
        if data.startswith(_JPEG_SCAN, segment):
            file.seek(-len(_JPEG_END), io.SEEK_END)
            return size if file.read() == _JPEG_END else None
        if marker == _JPEG_APP1:
            return None
        if marker in _JPEG_FRAMES and bits == 8 and channels in (1, 3, 4) and height and width:
            size = (height, width)
        segment += 2 + length
    return None


def _size_by_pillow(file: File, name: str) -> tuple[int, int]:
    plain_png = _is_plain_png(file)
    header = open_image(file, name)
    with errors_named(name):  # Pillow decodes a PNG to look for EXIF after the pixels
        exif = Image.Image.getexif(header) if plain_png else header.getexif()
    if header.format == "JPEG":
        file.seek(-len(_JPEG_END), io.SEEK_END)
        if file.read() != _JPEG_END:
            file.seek(0)
            check_complete(file.read(), name)
    width, height = header.size
    transposed = exif.get(EXIF_ORIENTATION) in _TRANSPOSED and header.format != "TIFF"  # done by Pillow
    return (width, height) if transposed else (height, width)


def _is_plain_png(file: File) -> bool:
    """True for a complete PNG without chunks after its pixels."""
    file.seek(0)
    plain, kind, pixels = file.read(len(_PNG_START)) == _PNG_START, b"", False
    while plain and kind != b"IEND":
        head = file.read(8)
        length, kind = struct.unpack(">I4s", head) if len(head) == 8 else (0, b"")
        file.seek(length, io.SEEK_CUR)
        plain = len(file.read(4)) == 4 and (not pixels or kind in (b"IDAT", b"IEND"))
        pixels = pixels or kind == b"IDAT"
    return plain


def open_image(file: File, name: str) -> Image.Image:
    """A Pillow image whose pixels are not decoded yet; raises a DataError as `read_size`."""
    file.seek(0)
    try:
        header = Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        file.seek(0)
        raise DataError(f"{name}: {describe_unidentified(file.read(_HEADER_BYTES))}") from None
    except PILLOW_ERRORS as error:
        raise DataError(f"{name}: {error}") from error
    check_size(header, name)
    check_mode(header, name)
    return header


def check_size(header: Image.Image, name: str) -> None:
    """Checks the size of an image, or of the current frame of an animation, before it is decoded.

    Raises:
        DataError: it has more than MAX_PIXELS, or decoding would need as much memory as if it had.
    """
    pixels = header.width * header.height
    if pixels > MAX_PIXELS:
        raise DataError(f"{name}: {header.width}x{header.height} is over the limit of {MAX_PIXELS} pixels; resize it")
    if pixels * _TRANSPARENCY_COST > MAX_PIXELS and header.has_transparency_data:
        limit = MAX_PIXELS // _TRANSPARENCY_COST
        raise DataError(
            f"{name}: {header.width}x{header.height} with transparency is over the limit of {limit} pixels; "
            "resize it, or save it without transparency"
        )


def check_mode(image: Image.Image, name: str) -> None:
    if image.mode == "F":
        raise DataError(f"{name}: floating-point pixels have no known range; convert to 8 bits")


def check_complete(data: bytes, name: str) -> None:
    """The end marker must follow the pixels: a thumbnail before them has its own, and phones append a trailer."""
    segment = 2
    while data[segment : segment + 1] == b"\xff" and data[segment : segment + 2] != _JPEG_SCAN:
        segment += 2 + int.from_bytes(data[segment + 2 : segment + 4], "big")
    if _JPEG_END not in data[segment:]:
        raise DataError(f"{name}: truncated JPEG; replace or delete the file")


@contextmanager
def errors_named(name: str) -> Iterator[None]:
    """Raises what Pillow raises for a damaged image as a DataError that begins with `name`."""
    try:
        yield
    except PILLOW_ERRORS as error:
        raise DataError(f"{name}: damaged image: {error}; replace or delete the file") from error
