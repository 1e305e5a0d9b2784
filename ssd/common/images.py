"""Reading and resizing images, the same for training, validation and prediction.

An image is uint8 [H, W, 3], RGB, upright (its EXIF rotation applied). Gray, palette and CMYK become RGB; of 16 bits
the upper 8 are kept; 32 bits must hold values of 8 or 16 bits; transparency is blended over white.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Integer, UInt8
from PIL import Image, ImageOps

from ssd.common.errors import DamagedImageError, DataError
from ssd.common.image_header import EXIF_ORIENTATION, check_complete, check_mode, errors_named, open_image
from ssd.common.image_size import ImageSize, height_width
from ssd.common.untrusted_files import read_untrusted

ImageArray = UInt8[np.ndarray, "_ _ 3"]  # named H and W would have to be equal for all images of a list

_TO_UPRIGHT: dict[int | None, Callable[[ImageArray], ImageArray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}
_JPEG_WARNINGS = ("Corrupt", "Premature", "Invalid", "Unsupported marker")  # first words of libjpeg's warnings


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
    return read_untrusted(path, what="image")


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
        check_complete(data, name)
        pixels, warning = _decode_jpeg(data)
        if warning and not accept_damage:
            raise DamagedImageError(
                f"{name}: damaged inside, part of it is gray or wrong ({warning}); replace the file"
            )
        if pixels is not None and header.mode in ("RGB", "L"):
            with errors_named(name):  # Pillow finds EXIF and XMP; OpenCV reads fewer places
                to_upright = _TO_UPRIGHT.get(header.getexif().get(EXIF_ORIENTATION))
            return pixels if to_upright is None else np.ascontiguousarray(to_upright(pixels))
    return from_pillow(header, name=name)


def from_pillow(image: Image.Image, *, name: str) -> ImageArray:
    """The pixels of a Pillow image of any mode; `name` is for error messages.

    Raises:
        DataError: damaged, or with floating-point pixels.
    """
    check_mode(image, name)
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


def warp(
    image: ImageArray,
    *,
    window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
    size: ImageSize,
    flip: bool = False,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> ImageArray:
    """The part of an image inside `window`, resampled bilinearly to `size` (the side of a square, or H, W) in pixels.

    `window` is xyxy in fractions of the image; the area beyond the image has the colour `fill`. An image with at least
    twice the resolution of the result is averaged down first, so that small objects do not fall between samples.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = window
    rows, columns = height_width(size)
    shrink = int(min((x2 - x1) * width / columns, (y2 - y1) * height / rows))
    if shrink >= 2:
        smaller = (max(1, round(width / shrink)), max(1, round(height / shrink)))
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
        height, width = image.shape[:2]
    if flip:
        x1, x2 = x2, x1
    scale_x, scale_y = (x2 - x1) * width / columns, (y2 - y1) * height / rows
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
        (columns, rows),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE if inside else cv2.BORDER_CONSTANT,
        borderValue=fill,
    )


def _decode_jpeg(data: bytes) -> tuple[ImageArray | None, str]:
    """RGB pixels as stored, or None and libjpeg's warning about damaged data (empty if it cannot decode the format)."""
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True), ""
    except ValueError as error:
        return None, str(error) if str(error).startswith(_JPEG_WARNINGS) else ""
