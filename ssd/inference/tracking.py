"""Objects followed from frame to frame, by supervision's ByteTrack (pip install 'ssd-detector[track]')."""

from __future__ import annotations

import warnings

import numpy as np

from ssd.common.errors import ConfigError
from ssd.model.structures import Detections

_LOWEST_SCORE = 0.1  # of a box that may go on with a track (ByteTrack, arXiv 2110.06864)
_PATIENCE_S = 1.0  # how long an object may be hidden


class Tracker:
    """Gives the objects of one video numbers that stay.

    Args:
        rate: frames a second.
        start_score: a box over it begins a track; lower ones only go on with one.

    Raises:
        ConfigError: supervision is not installed.
    """

    def __init__(self, *, rate: float, start_score: float) -> None:
        try:
            import supervision
        except ImportError:
            raise ConfigError("track=true needs supervision: pip install 'ssd-detector[track]'") from None
        self._detections = supervision.Detections
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # its next release moves it elsewhere
            self._tracker = supervision.ByteTrack(
                track_activation_threshold=start_score,
                lost_track_buffer=30,
                frame_rate=max(1, round(rate * _PATIENCE_S)),
            )

    def __call__(self, detections: Detections, *, size: tuple[int, int]) -> tuple[int | None, ...]:
        """The number of each detection in the next frame, of (H, W) pixels; None where it belongs to no track."""
        ids: list[int | None] = [None] * len(detections)
        height, width = size
        likely = np.flatnonzero(detections.scores.numpy() > _LOWEST_SCORE)
        found = self._detections(
            xyxy=detections.boxes.numpy()[likely] * np.array([width, height, width, height], np.float32),
            confidence=detections.scores.numpy()[likely],
            class_id=detections.labels.numpy()[likely],
            data={"place": likely},
        )
        tracked = self._tracker.update_with_detections(found)
        for place, number in zip(tracked.data.get("place", ()), np.asarray(tracked.tracker_id), strict=True):
            ids[place] = int(number)
        return tuple(ids)
