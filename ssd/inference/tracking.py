"""Tracks objects from frame to frame with supervision's ByteTrack (pip install 'ssd-detector[track]')."""

from __future__ import annotations

import warnings

import numpy as np

from ssd.common.errors import ConfigError
from ssd.common.structures import Detections

_MIN_SCORE = 0.1  # of a box that may continue a track (ByteTrack, arXiv 2110.06864)
_MAX_HIDDEN_S = 1.0  # a track ends when its object has been out of sight for longer


class Tracker:
    """Assigns track ids to the objects of one video with `rate` frames per second.

    A box with a score above `start_score` can start a track; a lower one can only continue a track.

    Raises:
        ConfigError: supervision is not installed.
    """

    def __init__(self, *, rate: float, start_score: float) -> None:
        try:
            import supervision
        except ImportError:
            raise ConfigError("track=true needs supervision: pip install 'ssd-detector[track]'") from None
        self._detections = supervision.Detections
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # ByteTrack moves in the next release
            self._tracker = supervision.ByteTrack(
                track_activation_threshold=start_score,
                lost_track_buffer=30,  # frames at 30 frames per second; scaled by frame_rate
                frame_rate=max(1, round(rate * _MAX_HIDDEN_S)),
            )

    def __call__(self, detections: Detections, *, size: tuple[int, int]) -> tuple[int | None, ...]:
        """Track ids of the detections in the next frame, of (H, W) pixels; None for a detection without a track."""
        height, width = size
        track_ids: list[int | None] = [None] * len(detections)
        candidates = np.flatnonzero(detections.scores.numpy() > _MIN_SCORE)
        tracked = self._tracker.update_with_detections(
            self._detections(
                xyxy=detections.boxes.numpy()[candidates] * np.array([width, height, width, height], np.float32),
                confidence=detections.scores.numpy()[candidates],
                class_id=detections.labels.numpy()[candidates],
                data={"index": candidates},
            )
        )
        for index, track_id in zip(tracked.data.get("index", ()), np.asarray(tracked.tracker_id), strict=True):
            track_ids[index] = int(track_id)
        return tuple(track_ids)
