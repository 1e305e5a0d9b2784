"""Whether two predictors find the same on the same pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ssd.errors import ConfigError
from ssd.images import Picture
from ssd.structures import Detections

TOLERANCE = 1e-4  # of a score, and of a box edge as a fraction of the picture
MAX_SHARE_WITHOUT_LIKE = 0.01  # equal scores may come in any order, and NMS then keeps the other one
_BATCH = 8

Predict = Callable[[Sequence[Picture]], list[Detections]]


@dataclass(frozen=True, slots=True)
class Parity:
    """How far two predictors agree; a detection's like has its label, and its score and edges within TOLERANCE."""

    pictures: int
    pictures_without_detections: int
    detections: int
    share_without_like: float
    largest_difference: float
    tolerance: float = TOLERANCE

    @property
    def agrees(self) -> bool:
        """Whether almost all have their like."""
        return self.share_without_like <= MAX_SHARE_WITHOUT_LIKE

    def as_dict(self) -> dict[str, Any]:
        """For a report."""
        return asdict(self) | {"agrees": self.agrees}


def compare(expected: Predict, candidate: Predict, pictures: Sequence[Picture]) -> Parity:
    """Runs both on each picture alone, and the candidate on batches as well.

    Raises:
        ConfigError: nothing is detected, so that there is nothing to compare.
    """
    wanted = [expected([picture])[0] for picture in pictures]
    if not any(map(len, wanted)):
        raise ConfigError(
            f"nothing is detected in {len(pictures)} pictures, so nothing can be compared: give pictures=FOLDER with "
            "objects of the classes, or a lower postprocess.score_threshold"
        )
    starts = range(0, len(pictures), _BATCH)
    alone = [candidate([picture])[0] for picture in pictures]
    batched = [found for start in starts for found in candidate(pictures[start : start + _BATCH])]
    pairs = list(zip(wanted * 2, alone + batched, strict=True))
    distances = [_distances(*pair) for pair in pairs]
    nearest = torch.cat([side for table in distances for side in (_nearest(table), _nearest(table.T))])
    likes = nearest[nearest <= TOLERANCE]
    return Parity(
        pictures=len(pictures),
        pictures_without_detections=sum(not len(found) for found in wanted),
        detections=sum(map(len, wanted)),
        share_without_like=1 - len(likes) / len(nearest),
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
