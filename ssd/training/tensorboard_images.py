"""Validation images for TensorBoard: ground truth beside predictions, coloured by the type of error."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssd.common.images import ImageArray
from ssd.data.index import DetectionIndex
from ssd.evaluation.matching import ImageResult
from ssd.evaluation.tide import ErrorTypes, classify_errors
from ssd.evaluation.worst_images import draw_error_panel, draw_errors, resize_longer_side, worst_images
from ssd.training.tensorboard_writer import add_image

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


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
        self,
        writer: SummaryWriter,
        results: Mapping[str, ImageResult],
        *,
        threshold: float,
        step: int,
        max_seconds: float,
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

    def _draw(self, id: str, result: ImageResult) -> ImageArray:
        if id not in self._copies:
            image = _load(self._index, id)
            self._copies[id] = resize_longer_side(image, self._side_px), (image.shape[0], image.shape[1])
        copy, size = self._copies[id]
        errors = classify_errors(result)
        views = draw_errors(copy, result, errors, self._index.class_names, side_px=self._side_px, size=size)
        return draw_error_panel(views, title=_title(id, errors))


def write_worst_images(
    writer: SummaryWriter,
    results: Mapping[str, ImageResult],
    index: DetectionIndex,
    *,
    count: int,
    side_px: int,
    step: int,
) -> None:
    """Writes the `count` images with the costliest errors."""
    ids = list(results)
    for number, worst in enumerate(worst_images(list(results.values()), count=count), start=1):
        id = ids[worst.position]
        views = draw_errors(_load(index, id), results[id], worst.errors, index.class_names, side_px=side_px)
        add_image(writer, f"worst/{number}", draw_error_panel(views, title=_title(id, worst.errors)), step)


def evenly_spaced(ids: Iterable[str], count: int) -> list[str]:
    """`count` of the ids (or all), the first and the last among them."""
    ordered = list(ids)
    positions = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[position] for position in positions.tolist()]


def _load(index: DetectionIndex, id: str) -> ImageArray:
    return index.load(index.paths[list(index.ids).index(id)])


def _title(id: str, errors: ErrorTypes) -> str:
    return f"{Path(id).name}: {errors.summary or 'no error'}"
