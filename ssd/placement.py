"""Where the labels of boxes may lie on a picture, so that they stay inside and do not cover each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Rectangle = tuple[int, int, int, int]  # xyxy in pixels


def free_spot(
    box: Sequence[int], room: tuple[int, int], size: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle | None:
    """The best place for a label of `room` (W, H) at its box (xyxy) on a picture of `size` (W, H), if one is left."""
    return next((spot for spot in _spots(box, room, size) if not _covers(spot, taken)), None)


def _spots(box: Sequence[int], room: tuple[int, int], size: tuple[int, int]) -> Iterator[Rectangle]:
    """The best first: at the corners of the box, outside before inside, then down its side."""
    x1, y1, x2, y2 = box
    width, height = room
    rows = [y1 - height, y1, y2, y2 - height, *range(y1 + height, y2 - height, height)]
    for y in rows:
        for x in (x1, x2 - width):
            left = max(0, min(x, size[0] - width))
            above = max(0, min(y, size[1] - height))
            yield left, above, left + width, above + height


def _covers(spot: Rectangle, taken: Sequence[Rectangle]) -> bool:
    x1, y1, x2, y2 = spot
    return any(x1 < right and left < x2 and y1 < bottom and top < y2 for left, top, right, bottom in taken)
