"""Draws detections on a picture, for people to look at."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from ssd.images import Picture
from ssd.structures import Detections

_GOLDEN_RATIO = 0.6180339887
Colour = tuple[int, int, int]
_Rectangle = tuple[float, float, float, float]


def draw(image: Picture, detections: Detections, class_names: Sequence[str]) -> Picture:
    """A copy of `image` with boxes (fractions of the image), class names and scores.

    Line and text follow the size of the picture; labels stay inside it and move aside for one another.
    """
    labels, scores = detections.labels.tolist(), detections.scores.tolist()
    texts = [f"{class_names[label]} {score:.0%}" for label, score in zip(labels, scores, strict=True)]
    return draw_boxes(image, detections.boxes.cpu().numpy(), texts, [class_colour(label) for label in labels])


def draw_boxes(
    image: Picture, boxes: Float[np.ndarray, "D 4"], texts: Sequence[str], colours: Sequence[Colour]
) -> Picture:
    """A copy of `image` with boxes (fractions of the image), each with its text and colour; the first lie on top."""
    height, width = image.shape[:2]
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    line = max(2, round((height + width) / 600))
    font = label_font(max(11, round((height + width) / 70)))
    rectangles = (boxes * (width, height, width, height)).tolist()
    for box, colour in zip(reversed(rectangles), reversed(colours), strict=True):
        pen.rectangle(_valid(box), outline=colour, width=line)
    taken: list[_Rectangle] = []
    for box, text, colour in zip(rectangles, texts, colours, strict=True):
        _write_label(pen, box, text, colour, font, (width, height), taken)
    return np.array(canvas)


def class_colour(label: int) -> Colour:
    """The colour of a class: the same in every picture, far from those of its neighbours."""
    hue = (0.02 + label * _GOLDEN_RATIO) % 1.0
    value = 1.0 if zlib.crc32(bytes([label % 256])) % 2 else 0.85
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _write_label(
    pen: ImageDraw.ImageDraw,
    box: Sequence[float],
    text: str,
    colour: Colour,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
    taken: list[_Rectangle],
) -> None:
    _, _, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right + 6, bottom + 4
    x = min(max(0.0, box[0]), max(0.0, size[0] - width))
    places = [box[1] - height, box[1], box[3] - height, box[3], *(box[1] + step * height for step in range(1, 8))]
    inside = [y for y in places if 0 <= y <= size[1] - height] or [max(0.0, min(box[1], size[1] - height))]
    spots = [(x, y, x + width, y + height) for y in inside]
    spot = next((spot for spot in spots if not any(_overlap(spot, other) for other in taken)), spots[0])
    taken.append(spot)
    pen.rectangle(spot, fill=colour)
    dark = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 130
    pen.text((spot[0] + 3, spot[1] + 1), text, fill="black" if dark else "white", font=font)


def _overlap(first: _Rectangle, second: _Rectangle) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _valid(box: Sequence[float]) -> _Rectangle:
    """At least a point: Pillow refuses inverted rectangles."""
    return box[0], box[1], max(box[0], box[2]), max(box[1], box[3])


@lru_cache(maxsize=16)
def label_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)
