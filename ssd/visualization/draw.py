"""Draws detections on an image, for people to look at."""

from __future__ import annotations

import logging
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float

from ssd.common.images import ImageArray
from ssd.model.structures import Detections

Rectangle = tuple[int, int, int, int]  # xyxy in pixels


def free_spot(
    box: Sequence[int], room: tuple[int, int], size: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle | None:
    """The best place for a label of `room` (W, H) at its box (xyxy) on an image of `size` (W, H), if one is left."""
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


_log = logging.getLogger("ssd")
_HASHED_COLOURS = 16
_BOLD = 600
_LEAST_LETTERS = 7  # pixels, on the smallest images
_CROWD = 15  # detections; with more of them the text shrinks a little
_FONT = "sans"  # OpenCV's own; what it lacks comes from "uni": Chinese, Japanese, Korean, Cyrillic, Greek ...
Colour = tuple[int, int, int]


def draw(
    image: ImageArray,
    detections: Detections,
    class_names: Sequence[str],
    *,
    track_ids: Sequence[int | None] | None = None,
) -> ImageArray:
    """A copy of `image` with boxes (fractions of the image), class names, scores and the numbers of tracks."""
    labels, scores = detections.labels.tolist(), detections.scores.tolist()
    numbers = ["" if track is None else f" #{track}" for track in track_ids or [None] * len(labels)]
    texts = [
        f"{printable(class_names[label], label)}{number} {score:.0%}"
        for label, number, score in zip(labels, numbers, scores, strict=True)
    ]
    colours = class_colours(tuple(class_names))
    return draw_boxes(image, detections.boxes.cpu().numpy(), texts, [colours[label] for label in labels])


def draw_boxes(
    image: ImageArray, boxes: Float[np.ndarray, "D 4"], texts: Sequence[str], colours: Sequence[Colour]
) -> ImageArray:
    """A copy of `image` with boxes (fractions of the image), each with its text and colour; the first lie on top.

    Line and text follow the size of the image. Labels stay inside it and do not cover each other: a later one moves
    aside, and is left out where there is no room.
    """
    height, width = image.shape[:2]
    canvas = image.copy()
    line = max(2, round((height + width) / 700))
    size = max(11, round((height + width) / 75 * min(1, (_CROWD / max(1, len(texts))) ** 0.25)))
    size = min(size, max(_LEAST_LETTERS, min(height, width) // 5))
    rectangles = np.rint(boxes * (width, height, width, height)).astype(int).tolist()
    for box, colour in zip(reversed(rectangles), reversed(colours), strict=True):
        _outline(canvas, box, colour, line)
    taken: list[Rectangle] = []
    for box, text, colour in zip(rectangles, texts, colours, strict=True):
        _write(canvas, box, text, size=size, colour=colour, taken=taken)
    return canvas


@lru_cache(maxsize=8)
def class_colours(class_names: tuple[str, ...]) -> tuple[Colour, ...]:
    """A colour for each class: by its name, so that it keeps it in other models, and no two share one."""
    palette = _palette(max(_HASHED_COLOURS, len(class_names)))
    free = list(range(len(palette)))
    chosen = []
    for name in class_names:
        wanted = zlib.crc32(name.encode()) % _HASHED_COLOURS
        slot = next((slot for slot in free if slot >= wanted), free[0])
        free.remove(slot)
        chosen.append(palette[slot])
    return tuple(chosen)


@lru_cache(maxsize=4096)
def printable(name: str, label: int) -> str:
    """The name of a class as the fonts at hand can write it, else its number."""
    missing = sorted({letter for letter in name if letter != "?" and not letter.isspace() and not _has_glyph(letter)})
    if not missing:
        return name
    _log.warning("cannot write %s: class %r is drawn as class %d", " ".join(missing), name, label)
    return f"class {label}"


@lru_cache(maxsize=8)
def _palette(count: int) -> list[Colour]:
    """Vivid colours, each as far as can be, to the eye, from those before it."""
    steps = np.linspace(0, 255, 12, dtype=np.uint8)
    rgb = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 1, 3)
    lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[:, 0]
    vivid = (np.hypot(lab[:, 1], lab[:, 2]) > 45) & (lab[:, 0] > 38) & (lab[:, 0] < 90)
    rgb, lab = rgb[vivid, 0], lab[vivid]
    chosen = [int(np.argmax(lab[:, 1]))]
    distance = np.full(len(lab), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    return [(int(red), int(green), int(blue)) for red, green, blue in rgb[chosen]]


def _outline(canvas: ImageArray, box: Sequence[int], colour: Colour, line: int) -> None:
    """Inside the box, so that a line on the edge of the image is seen whole."""
    x1, y1, x2, y2 = box
    near, far = line // 2, (line + 1) // 2
    corner = max(x1 + near, x2 - far), max(y1 + near, y2 - far)
    cv2.rectangle(canvas, (x1 + near, y1 + near), corner, colour, line)


def _write(
    canvas: ImageArray, box: Sequence[int], text: str, *, size: int, colour: Colour, taken: list[Rectangle]
) -> None:
    height, width = canvas.shape[:2]
    font = _font()
    x, y, text_width, text_height = cv2.getTextSize((width, height), text, (0, 0), font, size, _BOLD)
    pad = max(2, size // 6)
    _, top, _, line_height = cv2.getTextSize((width, height), "Ag", (0, 0), font, size, _BOLD)
    y, text_height = min(y, top), max(text_height, line_height)
    room = text_width + 2 * pad, text_height + 2 * pad
    spot = free_spot(box, room, (width, height), taken)
    if spot is None:
        return
    taken.append(spot)
    cv2.rectangle(canvas, spot[:2], (spot[2] - 1, spot[3] - 1), colour, cv2.FILLED)
    origin = spot[0] + pad - x, spot[1] + pad - y
    cv2.putText(canvas, text, origin, _ink(colour), font, size, _BOLD)


def _ink(colour: Colour) -> Colour:
    """Black or white, whichever stands out more from `colour` (relative luminance, WCAG 2)."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in np.divide(colour, 255)
    ]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


@lru_cache(maxsize=4096)
def _has_glyph(letter: str) -> bool:
    """OpenCV writes a question mark for what it has no glyph of, and Arabic and Hebrew from the wrong side."""
    return unicodedata.bidirectional(letter) not in ("R", "AL") and not np.array_equal(
        _rendered(letter), _rendered("?")
    )


def _rendered(letter: str) -> ImageArray:
    paper = np.zeros((40, 60, 3), np.uint8)
    cv2.putText(paper, letter, (10, 30), (255, 255, 255), _font(), 24, _BOLD)
    return paper


@lru_cache(maxsize=1)
def _font() -> cv2.FontFace:
    return cv2.FontFace(_FONT)
