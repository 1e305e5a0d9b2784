"""Which files are images, and what the others are."""

from __future__ import annotations

import re

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
IMAGE_SUFFIXES = (
    *(*JPEG_SUFFIXES, ".png", ".apng", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"),
    *(".avif", ".jp2", ".j2k", ".jpx", ".heic", ".heif"),  # where Pillow reads them
)
PILLOW_FORMATS = (  # those of the suffixes, and what their files turn out to be
    *("JPEG", "MPO", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000", "HEIF"),
)

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OPTIONAL_FORMATS = {  # first bytes of the formats that not every Pillow reads
    "AVIF": re.compile(rb".{4}ftypavi[fs]", re.DOTALL),
    "HEIC": re.compile(rb".{4}ftyp(hei[cfmsvx]|hev[cmsx]|mif1|msf1)", re.DOTALL),
    "JPEG 2000": re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    "JPEG XL": re.compile(rb"\0\0\0\x0cJXL |\xff\x0a"),
}


def describe_unidentified(start: bytes) -> str:
    """What is wrong with a file that Pillow does not identify, by its first bytes."""
    if not start:
        return "empty file; replace or delete it"
    if start.startswith(_TIFF_STARTS):
        return "damaged TIFF, or its pixels are neither 8 nor 16 bits; convert to 8 bits"
    for kind, pattern in _OPTIONAL_FORMATS.items():
        if pattern.match(start):
            return f"a {kind} image, which Pillow does not read here; convert it to JPEG or PNG"
    looks_like = " (it looks like a web page)" if start.lstrip().startswith(b"<") else ""
    return f"not an image{looks_like}; replace or delete the file"
