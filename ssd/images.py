"""Reading and resizing pictures: the one way for training, validation and prediction.

A picture is uint8 [H, W, 3], RGB, upright (its EXIF rotation applied). Gray, palette and CMYK become RGB, 16 bits are
cut to the upper 8, transparency is laid over white.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from ssd.errors import DataError

MAX_PIXELS = 2 * 10**8
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")

Picture = UInt8[np.ndarray, "H W 3"]

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = (None, 1)
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"


def read_image(path: str | Path) -> Picture:
    """The picture in a file.

    Raises:
        DataError: missing, empty, no picture, cut short, over MAX_PIXELS, or of floating-point pixels.
    """
    return decode_image(_read_bytes(path), name=str(path))


def read_below(root: str, path: str) -> Picture:
    """`read_image` of a path below `root`; with `root` bound it is what an index calls to load its pictures."""
    return read_image(Path(root, path))


def decode_image(data: bytes, *, name: str) -> Picture:
    """The picture in `data`, the bytes of an image file; `name` is for the message of an error."""
    header = _open(data, name)
    if header.format == "JPEG" and header.mode in ("RGB", "L") and _orientation(header, name) in _UPRIGHT:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            raise DataError(f"{name}: damaged JPEG; replace or delete the file")
        return image
    return _decode_unusual(header, name)


def read_size(path: str | Path) -> tuple[int, int]:
    """Upright (H, W) of a picture file, from its header; finds what can be found without decoding.

    Raises:
        DataError: as `read_image`, but for damage inside the compressed data.
    """
    header = _open(_read_bytes(path), str(path))
    orientation = _orientation(header, str(path))
    width, height = header.size
    turned = orientation in _TURNED and header.format != "TIFF"  # Pillow turns the size of a TIFF by itself
    return (width, height) if turned else (height, width)


def warp(
    image: Picture,
    *,
    window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
    size: int,
    flip: bool = False,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> UInt8[np.ndarray, "S S 3"]:
    """The part of a picture under `window`, stretched to a square of `size` pixels, in one bilinear sampling.

    `window` is xyxy in fractions of the picture and may reach beyond it; `fill` shows there. Where the picture is
    twice as fine as the result or more, it is averaged down first, so that small things do not fall between samples.
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
    to_source = np.array(  # pixel centres lie at halves
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


def _read_bytes(path: str | Path) -> bytes:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such picture") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not data:
        raise DataError(f"{path}: empty file; replace or delete it")
    return data


def _open(data: bytes, name: str) -> Image.Image:
    try:
        header = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        looks_like = " (it looks like a web page)" if data.lstrip()[:1] == b"<" else ""
        raise DataError(f"{name}: not a picture{looks_like}; replace or delete the file") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: {error}") from error
    if header.width * header.height > MAX_PIXELS:
        raise DataError(f"{name}: {header.width}x{header.height} is over the limit of {MAX_PIXELS} pixels; shrink it")
    if header.mode == "F":
        raise DataError(f"{name}: floating-point pixels have no known range; convert to 8 bits")
    if header.format == "JPEG":
        _check_complete(data, name)
    return header


def _check_complete(data: bytes, name: str) -> None:
    """A JPEG has its end mark after its pixels: a thumbnail before them has its own, and phones append a trailer."""
    segment = 2
    while data[segment : segment + 1] == b"\xff" and data[segment : segment + 2] != _JPEG_SCAN:
        segment += 2 + int.from_bytes(data[segment + 2 : segment + 4], "big")
    if _JPEG_END not in data[segment:]:
        raise DataError(f"{name}: JPEG is cut short; fetch the file again or delete it")


def _orientation(header: Image.Image, name: str) -> int | None:
    """From EXIF or XMP, wherever Pillow finds it: OpenCV looks in fewer places."""
    with _naming_damage(name):
        return header.getexif().get(_EXIF_ORIENTATION)


def _decode_unusual(header: Image.Image, name: str) -> Picture:
    with _naming_damage(name):
        image = ImageOps.exif_transpose(header)
        if image.mode.startswith("I"):  # 16 bits, also as 32-bit integers
            return np.repeat((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)[..., None], 3, axis=2)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))


@contextmanager
def _naming_damage(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise DataError(f"{name}: damaged picture: {error}; replace or delete the file") from error


Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow warns over it and refuses twice as much; ours refuses at once
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
