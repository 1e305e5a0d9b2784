"""Damage inside a JPEG: decoders go on in gray, and only libjpeg's warnings tell."""

from __future__ import annotations

import simplejpeg

_START = b"\xff\xd8"
_WARNINGS = ("Corrupt", "Premature", "Invalid", "Unsupported marker")  # how libjpeg's begin


def damage(data: bytes) -> str | None:
    """What libjpeg warns of in the bytes of a picture file; None of whole ones, of cut ones and of other kinds."""
    if not data.startswith(_START):
        return None
    try:
        simplejpeg.decode_jpeg(data, colorspace="GRAY", fastdct=True, min_height=1, min_width=1, strict=True)
    except ValueError as error:
        return str(error) if is_damage(str(error)) else None
    return None


def is_damage(reason: str) -> bool:
    """Whether `reason` is such a warning."""
    return reason.startswith(_WARNINGS)
