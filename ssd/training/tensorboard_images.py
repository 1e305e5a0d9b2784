"""Validation images for TensorBoard: ground truth beside predictions, coloured by what each box counts as."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ssd.common.images import ImageArray
from ssd.data.index import DetectionIndex
from ssd.evaluation.charts import KIND_COLOURS
from ssd.evaluation.matching import Scene
from ssd.evaluation.tide import Judgement, Kind, judge, worst_images
from ssd.training.tensorboard_writer import add_image
from ssd.visualization.draw import Colour, draw_boxes

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_GAP_PX, _LINE_PX, _FONT_PX = 8, 26, 19  # readable when TensorBoard shows the image at half its size
_MIN_WIDTH_PX = 720  # room for the title and the legend


class SamplePredictions:
    """The same validation images after each validation, with their predictions.

    Keeps small copies of the images, because reading them takes the most time.

    Args:
        count: number of images, evenly spaced in the validation set.
        side_px: longer side of an image.
    """

    def __init__(self, index: DetectionIndex, *, count: int, side_px: int) -> None:
        self._index = index
        self._count = count
        self._side_px = side_px
        self._copies: dict[str, tuple[ImageArray, tuple[int, int]]] = {}  # with (H, W) of the original
        self._seconds = 0.0

    def write(
        self, writer: SummaryWriter, results: Mapping[str, Scene], *, threshold: float, step: int, max_seconds: float
    ) -> None:
        """Writes the images with the predictions above `threshold`.

        The first image is always written, the next ones while all images of the run together take less than
        `max_seconds`.
        """
        slowest = 0.0
        for number, id in enumerate(evenly_spaced(results, self._count), start=1):
            if number > 1 and self._seconds + slowest > max_seconds:
                break
            start = time.perf_counter()
            add_image(writer, f"images/{number}", self._draw(id, results[id].above(threshold)), step)
            seconds = time.perf_counter() - start
            self._seconds += seconds
            slowest = max(slowest, seconds)

    def _draw(self, id: str, result: Scene) -> ImageArray:
        if id not in self._copies:
            image = _load(self._index, id)
            self._copies[id] = resize(image, self._side_px), (image.shape[0], image.shape[1])
        copy, size = self._copies[id]
        return draw_result(
            copy, result, judge(result), id=id, class_names=self._index.class_names, side_px=self._side_px, size=size
        )


def write_worst_images(
    writer: SummaryWriter, results: Mapping[str, Scene], index: DetectionIndex, *, count: int, side_px: int, step: int
) -> None:
    """Writes the `count` images with the largest errors."""
    ids, names = list(results), index.class_names
    for number, worst in enumerate(worst_images(list(results.values()), count=count), start=1):
        id = ids[worst.image]
        image = _load(index, id)
        drawn = draw_result(image, results[id], worst.judgement, id=id, class_names=names, side_px=side_px)
        add_image(writer, f"worst/{number}", drawn, step)


def _load(index: DetectionIndex, id: str) -> ImageArray:
    return index.load(index.paths[list(index.ids).index(id)])


def evenly_spaced(ids: Iterable[str], count: int) -> list[str]:
    """`count` of the ids (or all), the first and the last among them."""
    ordered = list(ids)
    positions = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[position] for position in positions.tolist()]


def draw_result(
    image: ImageArray,
    result: Scene,
    judgement: Judgement,
    *,
    id: str,
    class_names: Sequence[str],
    side_px: int,
    size: tuple[int, int] | None = None,
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Ground truth (left) and predictions (right), under a title with the errors and a legend of the colours.

    Args:
        side_px: longer side of each half.
        size: (H, W) of the image that the boxes refer to, if `image` is a copy of another size.
    """
    height, width = size or image.shape[:2]
    small = resize(image, side_px)
    corners = np.array([width, height, width, height])
    true_labels = [class_names[label] for label in result.labels]
    scores = zip(result.found_labels, result.found_scores, strict=True)
    labels = [f"{class_names[label]} {score:.0%}" for label, score in scores]
    halves = [
        draw_boxes(small, result.boxes / corners, true_labels, _colours(judgement.of_objects(result.ignore))),
        draw_boxes(small, result.found_boxes / corners, labels, _colours(judgement.kinds)),
    ]
    half_height, half_width = small.shape[:2]
    canvas = Image.new("RGB", (max(_MIN_WIDTH_PX, 2 * half_width + _GAP_PX), half_height + 2 * _LINE_PX), "white")
    for number, half in enumerate(halves):
        canvas.paste(Image.fromarray(half), (number * (half_width + _GAP_PX), 2 * _LINE_PX))
    title = f"{Path(id).name}: {judgement.reason or 'no error'}"
    ImageDraw.Draw(canvas).text((4, 1), title, fill="black", font=_font())
    canvas.paste(_legend(canvas.width), (0, _LINE_PX))
    return np.array(canvas)


def resize(image: ImageArray, side_px: int) -> ImageArray:
    """A copy with its longer side at `side_px`; the image itself if it has that size."""
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
    strip = Image.new("RGB", (width, _LINE_PX), "white")
    pen, x = ImageDraw.Draw(strip), 4.0
    for kind, colour in KIND_COLOURS.items():
        pen.text((x, 0), kind.title, fill=colour, font=_font())
        x += pen.textlength(f"{kind.title}   ", font=_font())
    return strip


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_PX)
