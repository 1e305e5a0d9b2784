"""Draws boxes and their labels on images."""

from __future__ import annotations

import logging
import unicodedata
import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import cv2
import numpy as np
from jaxtyping import Float

from ssd.common.images import ImageArray
from ssd.common.structures import Detections

Colour = tuple[int, int, int]  # RGB
_Rectangle = tuple[int, int, int, int]  # xyxy in pixels

_log = logging.getLogger("ssd")
_HASHED_COLOURS = 16
_BOLD = 600
_MIN_TEXT_PX = 7  # on the smallest images
_CROWD = 15  # boxes; with more of them the text shrinks a little
_FONT = "sans"  # OpenCV's own; what it lacks comes from "uni": Chinese, Japanese, Korean, Cyrillic, Greek ...


def draw(
    image: ImageArray,
    detections: Detections,
    class_names: Sequence[str],
    *,
    track_ids: Sequence[int | None] | None = None,
) -> ImageArray:
    """A copy of `image` with boxes, class names, scores and track numbers."""
    labels, scores = detections.labels.tolist(), detections.scores.tolist()
    tracks = ["" if track is None else f" #{track}" for track in track_ids or [None] * len(labels)]
    texts = [
        f"{printable(class_names[label], label)}{track} {score:.0%}"
        for label, track, score in zip(labels, tracks, scores, strict=True)
    ]
    colours = class_colours(tuple(class_names))
    return draw_boxes(image, detections.boxes.numpy(), texts, [colours[label] for label in labels])


def draw_boxes(
    image: ImageArray, boxes: Float[np.ndarray, "D 4"], texts: Sequence[str], colours: Sequence[Colour]
) -> ImageArray:
    """A copy of `image` with boxes (xyxy fractions of the image), each with its text and colour; the first are on top.

    Line width and text size follow the size of the image. Labels stay inside it and do not cover each other: a later
    one moves to a free place, and is omitted if there is none. An empty text has no label.
    """
    height, width = image.shape[:2]
    canvas = image.copy()
    line = max(2, round((height + width) / 700))
    text_px = max(11, round((height + width) / 75 * min(1, (_CROWD / max(1, len(texts))) ** 0.25)))
    text_px = min(text_px, max(_MIN_TEXT_PX, min(height, width) // 5))
    rectangles = np.rint(boxes * (width, height, width, height)).astype(int).tolist()
    for box, colour in zip(reversed(rectangles), reversed(colours), strict=True):
        _draw_outline(canvas, box, colour, line)
    occupied: list[_Rectangle] = []
    for box, text, colour in zip(rectangles, texts, colours, strict=True):
        if text:
            _draw_label(canvas, box, text, text_px=text_px, colour=colour, occupied=occupied)
    return canvas


@lru_cache(maxsize=8)
def class_colours(class_names: tuple[str, ...]) -> tuple[Colour, ...]:
    """A different colour for each class, derived from its name, so that it is the same in other models."""
    palette = _palette(max(_HASHED_COLOURS, len(class_names)))
    free = list(range(len(palette)))
    chosen = []
    for name in class_names:
        hashed = zlib.crc32(name.encode()) % _HASHED_COLOURS
        slot = next((slot for slot in free if slot >= hashed), free[0])
        free.remove(slot)
        chosen.append(palette[slot])
    return tuple(chosen)


@lru_cache(maxsize=4096)
def printable(name: str, label: int) -> str:
    """The name of a class where the fonts have all its letters, else its number."""
    missing = sorted({letter for letter in name if letter != "?" and not letter.isspace() and not _has_glyph(letter)})
    if not missing:
        return name
    _log.warning("no glyph for %s: class %r is drawn as class %d", " ".join(missing), name, label)
    return f"class {label}"


@lru_cache(maxsize=8)
def _palette(count: int) -> list[Colour]:
    """Vivid colours, each as different as possible (in CIELAB) from those before it."""
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


def _draw_outline(canvas: ImageArray, box: Sequence[int], colour: Colour, line: int) -> None:
    """Draws inside the box, so that a line at the edge of the image is visible at full width."""
    x1, y1, x2, y2 = box
    near, far = line // 2, (line + 1) // 2
    corner = max(x1 + near, x2 - far), max(y1 + near, y2 - far)
    cv2.rectangle(canvas, (x1 + near, y1 + near), corner, colour, line)


def _draw_label(
    canvas: ImageArray, box: Sequence[int], text: str, *, text_px: int, colour: Colour, occupied: list[_Rectangle]
) -> None:
    """Draws the label at a free place, if there is one, and adds the place to `occupied`."""
    height, width = canvas.shape[:2]
    font = _font()
    x, y, text_width, text_height = cv2.getTextSize((width, height), text, (0, 0), font, text_px, _BOLD)
    pad = max(2, text_px // 6)
    _, top, _, line_height = cv2.getTextSize((width, height), "Ag", (0, 0), font, text_px, _BOLD)
    y, text_height = min(y, top), max(text_height, line_height)
    place = _free_place(box, (text_width + 2 * pad, text_height + 2 * pad), (width, height), occupied)
    if place is None:
        return
    occupied.append(place)
    cv2.rectangle(canvas, place[:2], (place[2] - 1, place[3] - 1), colour, cv2.FILLED)
    origin = place[0] + pad - x, place[1] + pad - y
    cv2.putText(canvas, text, origin, _text_colour(colour), font, text_px, _BOLD)


def _free_place(
    box: Sequence[int], label_size: tuple[int, int], size: tuple[int, int], occupied: Sequence[_Rectangle]
) -> _Rectangle | None:
    """The best free place in an image of `size` (W, H): the box's corners outside, inside, then down its side."""
    x1, y1, x2, y2 = box
    width, height = label_size
    rows = (y1 - height, y1, y2, y2 - height, *range(y1 + height, y2 - height, height))
    for y, x in product(rows, (x1, x2 - width)):
        left, above = max(0, min(x, size[0] - width)), max(0, min(y, size[1] - height))
        right, below = left + width, above + height
        if not any(
            left < end and start < right and above < bottom and top < below for start, top, end, bottom in occupied
        ):
            return left, above, right, below
    return None


def _text_colour(background: Colour) -> Colour:
    """Black or white, whichever has more contrast to `background` (relative luminance, WCAG 2)."""
    values = np.divide(background, 255)
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return (0, 0, 0) if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else (255, 255, 255)


@lru_cache(maxsize=4096)
def _has_glyph(letter: str) -> bool:
    """OpenCV draws a question mark for a missing glyph, and Arabic and Hebrew in the wrong direction."""
    drawn = np.zeros((2, 40, 60, 3), np.uint8)
    for canvas, text in zip(drawn, (letter, "?"), strict=True):
        cv2.putText(canvas, text, (10, 30), (255, 255, 255), _font(), 24, _BOLD)
    return unicodedata.bidirectional(letter) not in ("R", "AL") and not np.array_equal(*drawn)


@lru_cache(maxsize=1)
def _font() -> cv2.FontFace:
    return cv2.FontFace(_FONT)
