"""The images with the costliest errors, and the drawing of an image's errors for the report and TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ssd.common.images import ImageArray
from ssd.evaluation.charts import OUTCOME_COLOURS
from ssd.evaluation.matching import ImageResult
from ssd.evaluation.tide import ErrorTypes, Outcome, classify_errors
from ssd.visualization.draw import draw_boxes

_GAP_PX, _LINE_PX, _FONT_PX = 8, 26, 19  # readable when TensorBoard shows the image at half its size
_MIN_WIDTH_PX = 720  # for the lines of text


@dataclass(frozen=True, slots=True)
class WorstImage:
    """An image with errors: its position in the results, what the errors cost, and what they are."""

    position: int
    cost: float
    errors: ErrorTypes


def worst_images(results: Sequence[ImageResult], *, count: int) -> list[WorstImage]:
    """The `count` images with the costliest errors, worst first: a missed box costs 1, a wrong detection its score.

    Pass results `above` a score: a box that is detected with a score of 0.02 is missed in practice.
    """
    images = []
    for position, result in enumerate(results):
        errors = classify_errors(result)
        wrong = errors.outcomes >= Outcome.CLS
        cost = float(errors.missed.sum() + result.pred_scores[wrong].sum())
        images.append(WorstImage(position, cost, errors))
    return sorted((image for image in images if image.cost > 0), key=lambda image: -image.cost)[:count]


def draw_errors(
    image: ImageArray,
    result: ImageResult,
    errors: ErrorTypes,
    class_names: Sequence[str],
    *,
    side_px: int,
    size: tuple[int, int] | None = None,
) -> tuple[ImageArray, ImageArray]:
    """The image with its ground truth, and with its detections; each box in the colour of its outcome.

    The longer side becomes `side_px`. `size` (H, W) is that of the original image where `image` is a scaled copy.
    """
    height, width = size or image.shape[:2]
    scale = np.array([width, height, width, height])
    scaled = resize_longer_side(image, side_px)
    truth = [class_names[label] for label in result.labels]
    detected = [
        f"{class_names[label]} {score:.0%}" for label, score in zip(result.pred_labels, result.pred_scores, strict=True)
    ]
    return (
        _draw_outcomes(scaled, result.boxes / scale, truth, errors.of_ground_truth()),
        _draw_outcomes(scaled, result.pred_boxes / scale, detected, errors.outcomes),
    )


def draw_error_panel(views: tuple[ImageArray, ImageArray], *, title: str) -> ImageArray:
    """Both images of `draw_errors` side by side, under a title and a legend, as one image."""
    height, width = views[0].shape[:2]
    canvas = Image.new("RGB", (max(_MIN_WIDTH_PX, 2 * width + _GAP_PX), height + 2 * _LINE_PX), "white")
    pen, x = ImageDraw.Draw(canvas), 4.0
    pen.text((x, 1), title, fill="black", font=_font())
    for outcome, colour in OUTCOME_COLOURS.items():
        pen.text((x, _LINE_PX), outcome.title, fill=colour, font=_font())
        x += pen.textlength(f"{outcome.title}   ", font=_font())
    for column, view in enumerate(views):
        canvas.paste(Image.fromarray(view), (column * (width + _GAP_PX), 2 * _LINE_PX))
    return np.array(canvas)


def resize_longer_side(image: ImageArray, side_px: int) -> ImageArray:
    """A copy whose longer side is `side_px`, or the image itself if it already is."""
    height, width = image.shape[:2]
    scale = side_px / max(height, width)
    if scale == 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=interpolation).astype(np.uint8, copy=False)


def _draw_outcomes(image: ImageArray, boxes: np.ndarray, texts: Sequence[str], outcomes: np.ndarray) -> ImageArray:
    order = np.argsort(outcomes == Outcome.CORRECT, kind="stable")  # errors first: the first boxes are on top
    colours = [ImageColor.getrgb(OUTCOME_COLOURS[Outcome(outcomes[row])])[:3] for row in order]
    return draw_boxes(image, boxes[order], [texts[row] for row in order], colours)


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_PX)
