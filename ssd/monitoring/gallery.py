"""A picture twice: the objects left, what was found right, each box in the colour of what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ssd.draw import Colour, draw_boxes
from ssd.evaluation.charts import KIND_COLOURS
from ssd.evaluation.matching import Scene
from ssd.evaluation.tide import Judgement, Kind
from ssd.images import Picture

_GAP, _LINE, _FONT = 8, 26, 19  # to be read when TensorBoard shows the picture at half its size
_LEAST_WIDTH = 720  # for the words above


def side_by_side(
    image: Picture,
    scene: Scene,
    judgement: Judgement,
    *,
    class_names: Sequence[str],
    title: str,
    side_px: int,
    size: tuple[int, int] | None = None,
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Both views, each with its longer side scaled to `side_px`, under the title and a legend.

    `size` (H, W) is that of the picture which the boxes lie in, where `image` is a copy of another size.
    """
    height, width = size or image.shape[:2]
    small = shrunk(image, side_px)
    shown = small.shape[1], small.shape[0]
    corners = np.array([width, height, width, height])
    names = [class_names[label] for label in scene.labels]
    found = [
        f"{class_names[label]} {score:.0%}" for label, score in zip(scene.found_labels, scene.found_scores, strict=True)
    ]
    views = [
        draw_boxes(small, scene.boxes / corners, names, _colours(judgement.of_objects(scene.ignore))),
        draw_boxes(small, scene.found_boxes / corners, found, _colours(judgement.kinds)),
    ]
    canvas = Image.new("RGB", (max(_LEAST_WIDTH, 2 * shown[0] + _GAP), shown[1] + 2 * _LINE), "white")
    for place, view in enumerate(views):
        canvas.paste(Image.fromarray(view), (place * (shown[0] + _GAP), 2 * _LINE))
    ImageDraw.Draw(canvas).text((4, 1), title, fill="black", font=_font())
    canvas.paste(_legend(canvas.width), (0, _LINE))
    return np.array(canvas)


def shrunk(image: Picture, side_px: int) -> Picture:
    """A copy with its longer side at `side_px`, or the picture itself where that is so."""
    height, width = image.shape[:2]
    scale = side_px / max(height, width)
    if scale == 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=interpolation).astype(np.uint8, copy=False)


def _colours(kinds: np.ndarray) -> list[Colour]:
    return [ImageColor.getrgb(KIND_COLOURS[Kind(kind)])[:3] for kind in kinds.tolist()]


@lru_cache(maxsize=16)
def _legend(width: int) -> Image.Image:
    strip = Image.new("RGB", (width, _LINE), "white")
    pen, x = ImageDraw.Draw(strip), 4.0
    for kind, colour in KIND_COLOURS.items():
        pen.text((x, 0), kind.title, fill=colour, font=_font())
        x += pen.textlength(f"{kind.title}   ", font=_font())
    return strip


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT)
