"""Whether two predictors find the same on the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd.common.errors import ConfigError
from ssd.common.images import ImageArray, read_image
from ssd.data.formats.shapes import render
from ssd.data.index import DetectionIndex
from ssd.inference.sources import find_files
from ssd.model.structures import Detections

MAX_IMAGES = 32


def example_images(source: str | None) -> list[ImageArray]:
    """Up to MAX_IMAGES of a folder, spread over it; without one rendered shapes and noise.

    No empty image: where all cells look alike, scores are equal, and which ones are kept is arbitrary.
    """
    if source is None:
        noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
        return [*(render(f"test/{number:06d}", side_px=320, seed=0) for number in range(10)), noise]
    paths = [str(medium.path) for medium in find_files(source) if not medium.is_video]
    if not paths:
        raise ConfigError(f"images={source}: only videos there; give a folder of images")
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), MAX_IMAGES)).round().astype(int)
    return [read_image(paths[position]) for position in chosen]


def spread_over(index: DetectionIndex, count: int) -> Iterator[ImageArray]:
    """Up to `count` images of a dataset, read one by one."""
    for position in np.linspace(0, len(index) - 1, min(len(index), count)).round().astype(int):
        yield index.load(index.paths[position])


TOLERANCE = 1e-4  # of a score, and of a box edge as a fraction of the image
MAX_SHARE_WITHOUT_LIKE = 0.01  # equal scores may come in any order, and NMS then keeps the other one
_BATCH = 8

Predict = Callable[[Sequence[ImageArray]], list[Detections]]


@dataclass(frozen=True, slots=True)
class Parity:
    """How far two predictors agree; a detection's like has its label, and its score and edges within TOLERANCE."""

    images: int
    images_without_detections: int
    detections: int
    mismatch_rate: float
    largest_difference: float
    tolerance: float = TOLERANCE

    @property
    def agrees(self) -> bool:
        """Whether almost all have their like."""
        return self.mismatch_rate <= MAX_SHARE_WITHOUT_LIKE

    def as_dict(self) -> dict[str, Any]:
        """For a report."""
        return asdict(self) | {"agrees": self.agrees}


def compare(expected: Predict, candidate: Predict, images: Sequence[ImageArray]) -> Parity:
    """Runs both on each image alone, and the candidate on batches as well.

    Raises:
        ConfigError: nothing is detected, so that there is nothing to compare.
    """
    wanted = [expected([image])[0] for image in images]
    if not any(map(len, wanted)):
        raise ConfigError(
            f"nothing is detected in {len(images)} images, so nothing can be compared: give images=FOLDER with "
            "objects of the classes, or a lower postprocess.score_threshold"
        )
    starts = range(0, len(images), _BATCH)
    alone = [candidate([image])[0] for image in images]
    batched = [found for start in starts for found in candidate(images[start : start + _BATCH])]
    pairs = list(zip(wanted * 2, alone + batched, strict=True))
    distances = [_distances(*pair) for pair in pairs]
    nearest = torch.cat([side for table in distances for side in (_nearest(table), _nearest(table.T))])
    likes = nearest[nearest <= TOLERANCE]
    return Parity(
        images=len(images),
        images_without_detections=sum(not len(found) for found in wanted),
        detections=sum(map(len, wanted)),
        mismatch_rate=1 - len(likes) / len(nearest),
        largest_difference=float(likes.max()) if len(likes) else 0.0,
    )


def _distances(first: Detections, second: Detections) -> Tensor:
    """Largest difference in score and edges of each pair [D1, D2]; infinite between classes."""
    scores = (first.scores[:, None] - second.scores).abs()
    edges = (first.boxes[:, None] - second.boxes).abs().amax(dim=-1)
    return scores.maximum(edges).masked_fill(first.labels[:, None] != second.labels, float("inf"))


def _nearest(distances: Tensor) -> Tensor:
    """Each row's smallest; infinite where there is no column."""
    if not distances.shape[1]:
        return distances.new_full((len(distances),), float("inf"))
    return distances.amin(dim=1)
