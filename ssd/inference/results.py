"""The result of one image or frame, as a record, as table rows and as a drawing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ssd.common.images import ImageArray
from ssd.common.structures import Detections
from ssd.common.text import printable
from ssd.inference.sources import Frame
from ssd.visualization.draw import draw

CSV_COLUMNS = ("source", "frame", "track_id", "label", "class_id", "score", "x1", "y1", "x2", "y2")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class FrameResult:
    """A frame with all its detections; `shown` marks those to draw, count and crop.

    `track_ids` is None without tracking; an entry is None for a detection without a track.
    """

    frame: Frame
    detections: Detections
    shown: Bool[Tensor, "D"]
    track_ids: tuple[int | None, ...] | None
    class_names: tuple[str, ...]

    @cached_property
    def record(self) -> dict[str, Any]:
        """The line of predictions.jsonl; with tracking, also the number of tracked objects per class."""
        record = to_record(
            self.detections,
            source=self.frame.medium.source,
            frame=self.frame.number,
            time_s=self.frame.time_s,
            size=self.frame.image.shape[:2],
            class_names=self.class_names,
        )
        if self.track_ids is not None:
            for item, track_id in zip(record["detections"], self.track_ids, strict=True):
                item["track_id"] = track_id
            tracked = Counter(item["label"] for item in record["detections"] if item["track_id"] is not None)
            record["counts"] = dict(sorted(tracked.items()))
        return record

    @cached_property
    def drawn(self) -> ImageArray:
        """The image with the shown boxes."""
        ids = None if self.track_ids is None else [self.track_ids[index] for index in self.shown.nonzero().flatten()]
        return draw(self.frame.image, self.detections.where(self.shown), self.class_names, track_ids=ids)


def to_record(
    detections: Detections,
    *,
    source: str,
    frame: int | None,
    size: tuple[int, int],
    class_names: Sequence[str],
    time_s: float | None = None,
) -> dict[str, Any]:
    """The content of a line of predictions.jsonl for an image of (H, W) pixels; without a time if it is None."""
    height, width = size
    boxes = detections.boxes.double() * torch.tensor([width, height, width, height])
    rows = zip(boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    items = [
        {
            "label": class_names[label],
            "class_id": label,
            "score": round(score, 4),
            "box": [round(edge, 2) for edge in box],
        }
        for box, score, label in rows
    ]
    time = {} if time_s is None else {"time_s": round(time_s, 3)}
    return {"source": printable(source), "frame": frame, **time, "width": width, "height": height, "detections": items}


def csv_rows(record: dict[str, Any]) -> list[list[Any]]:
    """A row of CSV_COLUMNS for each detection of a record."""
    return [
        [
            _escape_formula(record["source"]),
            record["frame"],
            item.get("track_id"),
            _escape_formula(item["label"]),
            item["class_id"],
            item["score"],
            *item["box"],
        ]
        for item in record["detections"]
    ]


def _escape_formula(text: str) -> str:
    """Prefixes text that a spreadsheet would execute as a formula."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
