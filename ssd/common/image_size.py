"""The input size of a network: the side of a square, or (height, width)."""

from __future__ import annotations

from collections.abc import Sequence

ImageSize = int | Sequence[int]


def height_width(size: ImageSize) -> tuple[int, int]:
    """Both sides in pixels."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def simplest(size: ImageSize) -> int | tuple[int, int]:
    """The side of a square, or (height, width)."""
    height, width = height_width(size)
    return height if height == width else (height, width)


def is_image_size(value: object, *, low: int, high: int) -> bool:
    """Whether a value of a file is a size with sides of `low` to `high` pixels."""
    sides = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    return all(type(side) is int and low <= side <= high for side in sides)
