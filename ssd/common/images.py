"""Reading and resizing images, the same for training, validation and prediction.

An image is uint8 [H, W, 3], RGB, upright (its EXIF rotation applied). Gray, palette and CMYK become RGB; of 16 bits
the upper 8 are kept; 32 bits must hold values of 8 or 16 bits; transparency is blended over white.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Integer, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from ssd.common.errors import DamagedImageError, DataError
from ssd.common.image_formats import describe_unidentified

MAX_PIXELS = 2 * 10**8
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow warns above it and fails above twice as much; we fail at once
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="Corrupt EXIF data")  # of a TIFF; our error names the file
PILLOW_ERRORS = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, Image.DecompressionBombError)
File = io.FileIO | io.BytesIO | io.BufferedReader
ImageArray = UInt8[np.ndarray, "_ _ 3"]  # named H and W would have to be equal for all images of a list

_EXIF_ORIENTATION = 0x0112
_TO_UPRIGHT: dict[int | None, Callable[[ImageArray], ImageArray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}
_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_JPEG_FRAMES = {0xC0 + kind for kind in range(16)} - {0xC4, 0xC8, 0xCC}
_JPEG_APP1 = 0xE1  # EXIF or XMP
_JPEG_WARNINGS = ("Corrupt", "Premature", "Invalid", "Unsupported marker")  # first words of libjpeg's warnings
_HEADER_BYTES = 4096
_PNG_START = b"\x89PNG\r\n\x1a\n"


def read_image(path: str | Path, *, name: str | None = None) -> ImageArray:
    """The image in a file; error messages use `name`, or else its path.

    Raises:
        DataError: missing, empty, not an image, truncated, damaged, over MAX_PIXELS, or with floating-point pixels.
    """
    return decode_image(read_bytes(path), name=name or str(path))


def read_bytes(path: str | Path) -> bytes:
    """The content of an image file.

    Raises:
        DataError: missing or unreadable.
    """
    with open_file(path) as file:
        return file.read()


def read_below(root: str, path: str) -> ImageArray:
    """`read_image` of a path below `root`; an index loads its images with it, `root` bound by `partial`."""
    return read_image(Path(root, path))


def decode_image(data: bytes, *, name: str, accept_damage: bool = False) -> ImageArray:
    """The image in `data`, the bytes of an image file; `name` is for error messages.

    Raises:
        DamagedImageError: the compressed data of a JPEG is damaged; with `accept_damage`, part of the image is gray or
            wrong instead.
        DataError: as `read_image`.
    """
    header = open_image(io.BytesIO(data), name)
    if header.format == "JPEG":
        _check_complete(data, name)
        pixels, warning = _decode_jpeg(data)
        if warning and not accept_damage:
            raise DamagedImageError(
                f"{name}: damaged inside, part of it is gray or wrong ({warning}); replace the file"
            )
        if pixels is not None and header.mode in ("RGB", "L"):
            with errors_named(name):  # Pillow finds EXIF and XMP; OpenCV reads fewer places
                to_upright = _TO_UPRIGHT.get(header.getexif().get(_EXIF_ORIENTATION))
            return pixels if to_upright is None else np.ascontiguousarray(to_upright(pixels))
    return from_pillow(header, name=name)


def from_pillow(image: Image.Image, *, name: str) -> ImageArray:
    """The pixels of a Pillow image of any mode; `name` is for error messages.

    Raises:
        DataError: damaged, or with floating-point pixels.
    """
    _check_mode(image, name)
    with errors_named(name):
        kind, image = image.format, ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            sixteen_bits = image.mode != "I" or kind == "PPM"  # Pillow reads PPM of 16 bits as 32 bits
            return np.repeat(_eight_bits(np.asarray(image), sixteen_bits, name)[..., None], 3, axis=2)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))


def _eight_bits(values: Integer[np.ndarray, "H W"], sixteen_bits: bool, name: str) -> UInt8[np.ndarray, "H W"]:
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > 0xFFFF:
        raise DataError(f"{name}: 32-bit pixels from {least} to {most} have no known range; convert to 8 bits")
    return (values >> 8 if sixteen_bits or most > 0xFF else values).astype(np.uint8)


def read_size(path: str | Path) -> tuple[int, int]:
    """Upright (H, W) of an image file, from its header.

    Raises:
        DataError: as `read_image`, except for damage inside the compressed data, which only decoding finds.
    """
    with open_file(path) as file:
        size = _plain_jpeg_size(file)
        if size is not None and size[0] * size[1] <= MAX_PIXELS:
            return size
        return _size_by_pillow(file, str(path))


def read_orientation(path: str | Path) -> int:
    """EXIF orientation of an image file, 1..8; 1 if it has none. Images are read upright, so few need it.

    Raises:
        DataError: as `read_image`.
    """
    with open_file(path) as file:
        header = open_image(file, str(path))
        with errors_named(str(path)):
            value = header.getexif().get(_EXIF_ORIENTATION)
    return value if isinstance(value, int) and value in _TO_UPRIGHT else 1


def warp(
    image: ImageArray,
    *,
    window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
    size: int,
    flip: bool = False,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> UInt8[np.ndarray, "S S 3"]:
    """The part of an image inside `window`, resampled bilinearly to a square of `size` pixels.

    `window` is xyxy in fractions of the image; the area beyond the image has the colour `fill`. An image with at least
    twice the resolution of the result is averaged down first, so that small objects do not fall between samples.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = window
    shrink = int(min((x2 - x1) * width, (y2 - y1) * height) / size)
    if shrink >= 2:
        smaller = (max(1, round(width / shrink)), max(1, round(height / shrink)))
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
        height, width = image.shape[:2]
    if flip:
        x1, x2 = x2, x1
    scale_x, scale_y = (x2 - x1) * width / size, (y2 - y1) * height / size
    to_source = np.array(  # pixel centres are at half-integers
        [
            [scale_x, 0, x1 * width + scale_x / 2 - 0.5],
            [0, scale_y, y1 * height + scale_y / 2 - 0.5],
        ]
    )
    inside = min(x1, x2) >= 0 and y1 >= 0 and max(x1, x2) <= 1 and y2 <= 1
    return cv2.warpAffine(
        image,
        to_source,
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE if inside else cv2.BORDER_CONSTANT,
        borderValue=fill,
    )


@contextmanager
def open_file(path: str | Path) -> Iterator[io.FileIO]:
    """An image file, unbuffered; raises a DataError if it is missing or unreadable."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  half the time of Path.open
            yield file
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


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
            _check_complete(file.read(), name)
    width, height = header.size
    transposed = exif.get(_EXIF_ORIENTATION) in _TRANSPOSED and header.format != "TIFF"  # done by Pillow
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
        header = Image.open(file)
    except UnidentifiedImageError:
        file.seek(0)
        raise DataError(f"{name}: {describe_unidentified(file.read(_HEADER_BYTES))}") from None
    except PILLOW_ERRORS as error:
        raise DataError(f"{name}: {error}") from error
    check_size(header, name)
    _check_mode(header, name)
    return header


def check_size(header: Image.Image, name: str) -> None:
    """Raises a DataError if the image, or the current frame of an animation, is over MAX_PIXELS."""
    if header.width * header.height > MAX_PIXELS:
        raise DataError(f"{name}: {header.width}x{header.height} is over the limit of {MAX_PIXELS} pixels; resize it")


def _check_mode(image: Image.Image, name: str) -> None:
    if image.mode == "F":
        raise DataError(f"{name}: floating-point pixels have no known range; convert to 8 bits")


def _decode_jpeg(data: bytes) -> tuple[ImageArray | None, str]:
    """RGB pixels as stored, or None and libjpeg's warning about damaged data (empty if it cannot decode the format)."""
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True), ""
    except ValueError as error:
        return None, str(error) if str(error).startswith(_JPEG_WARNINGS) else ""


def _check_complete(data: bytes, name: str) -> None:
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
