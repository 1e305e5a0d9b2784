"""JPEG files: decoders go on in gray where one is damaged, and only libjpeg's warnings tell."""

from __future__ import annotations

import simplejpeg
from jaxtyping import UInt8
from numpy import ndarray

_WARNINGS = ("Corrupt", "Premature", "Invalid", "Unsupported marker")  # how libjpeg's begin


def decode(data: bytes) -> UInt8[ndarray, "H W 3"] | str | None:
    """RGB pixels as stored; or what libjpeg warns of where they are damaged; None where it cannot decode them."""
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except ValueError as error:
        return str(error) if str(error).startswith(_WARNINGS) else None
