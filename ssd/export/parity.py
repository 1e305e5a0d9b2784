"""Compares the detections of two predictors on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ssd.common.errors import ConfigError
from ssd.common.images import ImageArray
from ssd.common.structures import Detections, Predict

TOLERANCE = 1e-4  # of a score, and of a box edge as a fraction of the image
MAX_MISMATCH_RATE = 0.01  # equal scores may come in any order, and NMS then keeps the other one
_BATCH = 8


@dataclass(frozen=True, slots=True)
class Parity:
    """How well two predictors agree.

    Detections match if they have the same label, and scores and edges within `tolerance`. `mismatch_rate` is the
    fraction (0..1) of the detections of either side without a match; `largest_difference` is that of matches.
    """

    images: int
    images_without_detections: int
    detections: int
    mismatch_rate: float
    largest_difference: float
    tolerance: float = TOLERANCE

    @property
    def agrees(self) -> bool:
        """Whether almost all detections have a match."""
        return self.mismatch_rate <= MAX_MISMATCH_RATE


def compare(expected: Predict, candidate: Predict, images: Sequence[ImageArray]) -> Parity:
    """Runs both predictors on each image alone, and the candidate on batches as well.

    Raises:
        ConfigError: there are no detections to compare.
    """
    reference = [expected([image])[0] for image in images]
    if not any(map(len, reference)):
        raise ConfigError(
            f"nothing to compare: no detections in {len(images)} images; give images=FOLDER with objects of the "
            "classes, or a lower postprocess.score_threshold"
        )
    single = [candidate([image])[0] for image in images]
    starts = range(0, len(images), _BATCH)
    batched = [result for start in starts for result in candidate(images[start : start + _BATCH])]
    distances = [_distances(*pair) for pair in zip(reference * 2, single + batched, strict=True)]
    nearest = torch.cat([table.amin(dim=side)[:-1] for table in distances for side in (1, 0)])
    matches = nearest[nearest <= TOLERANCE]
    return Parity(
        images=len(images),
        images_without_detections=sum(not len(result) for result in reference),
        detections=sum(map(len, reference)),
        mismatch_rate=1 - len(matches) / len(nearest),
        largest_difference=float(matches.max()) if len(matches) else 0.0,
    )


def _distances(first: Detections, second: Detections) -> Tensor:
    """The largest difference in score and edges of each pair; infinite for different labels.

    Of shape [D1 + 1, D2 + 1]: the last row and column, of no detection, are infinite.
    """
    scores = (first.scores[:, None] - second.scores).abs()
    edges = (first.boxes[:, None] - second.boxes).abs().amax(dim=-1)
    distances = scores.maximum(edges).masked_fill(first.labels[:, None] != second.labels, math.inf)
    return pad(distances, (0, 1, 0, 1), value=math.inf)
