"""A picture twice: the objects left, what was found right, each box in the colour of what became of it."""

from __future__ import annotations

from collections.abc import Sequence

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
    image: Picture, scene: Scene, judgement: Judgement, *, class_names: Sequence[str], title: str, side_px: int
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Both views, each with its longer side scaled to `side_px`, under the title and a legend."""
    height, width = image.shape[:2]
    scale = side_px / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    corners = np.array([width, height, width, height])
    names = [class_names[label] for label in scene.labels]
    found = [
        f"{class_names[label]} {score:.0%}" for label, score in zip(scene.found_labels, scene.found_scores, strict=True)
    ]
    views = [
        draw_boxes(small, scene.boxes / corners, names, _colours(judgement.of_objects(scene.ignore))),
        draw_boxes(small, scene.found_boxes / corners, found, _colours(judgement.kinds)),
    ]
    canvas = Image.new("RGB", (max(_LEAST_WIDTH, 2 * size[0] + _GAP), size[1] + 2 * _LINE), "white")
    for place, view in enumerate(views):
        canvas.paste(Image.fromarray(view), (place * (size[0] + _GAP), 2 * _LINE))
    _write_title(ImageDraw.Draw(canvas), title)
    return np.array(canvas)


def _colours(kinds: np.ndarray) -> list[Colour]:
    return [ImageColor.getrgb(KIND_COLOURS[Kind(kind)])[:3] for kind in kinds.tolist()]


def _write_title(pen: ImageDraw.ImageDraw, title: str) -> None:
    font = ImageFont.load_default(_FONT)
    pen.text((4, 1), title, fill="black", font=font)
    x = 4.0
    for kind, colour in KIND_COLOURS.items():
        pen.text((x, _LINE), kind.title, fill=colour, font=font)
        x += pen.textlength(f"{kind.title}   ", font=font)
