"""Objects keep their track ids from frame to frame."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from media import WhiteSquarePredictor, predict, write_image, write_video

from ssd.common.errors import ConfigError
from ssd.common.structures import Detections
from ssd.inference.tracking import Tracker

SIZE = (200, 400)


def at(*objects: tuple[float, float, float]) -> Detections:
    """Boxes of 0.1 x 0.2 at (left edge, top edge, score), in fractions of the image."""
    boxes = torch.tensor([[x, y, x + 0.1, y + 0.2] for x, y, _ in objects]).reshape(-1, 4)
    return Detections(boxes, torch.tensor([score for *_, score in objects]), torch.zeros(len(objects)).long())


@pytest.fixture
def tracker() -> Tracker:
    pytest.importorskip("supervision")
    return Tracker(rate=25, start_score=0.5)


def test_crossing_objects_keep_their_track_ids(tracker: Tracker) -> None:
    seen = {tracker(at((0.02 * step, 0.1, 0.9), (0.8 - 0.02 * step, 0.6, 0.8)), size=SIZE) for step in range(30)}
    assert seen == {(1, 2)}


def test_the_order_of_detections_does_not_matter(tracker: Tracker) -> None:
    left, right = (0.1, 0.1, 0.9), (0.7, 0.6, 0.8)
    one, two = tracker(at(left, right), size=SIZE)
    assert tracker(at(right, left), size=SIZE) == (two, one)


def test_briefly_hidden_object_keeps_its_track_id(tracker: Tracker) -> None:
    for _ in range(5):
        before = tracker(at((0.3, 0.3, 0.9)), size=SIZE)
    for _ in range(5):
        assert tracker(at(), size=SIZE) == ()
    assert tracker(at((0.3, 0.3, 0.9)), size=SIZE) == before


def test_low_score_continues_a_track_but_starts_none(tracker: Tracker) -> None:
    assert tracker(at((0.3, 0.3, 0.3)), size=SIZE) == (None,)
    number = tracker(at((0.3, 0.3, 0.9)), size=SIZE)
    assert tracker(at((0.3, 0.3, 0.3), (0.7, 0.6, 0.3)), size=SIZE) == (*number, None)


def test_records_have_track_ids_and_counts_per_video(tmp_path: Path) -> None:
    pytest.importorskip("supervision")
    for name in "ab":
        write_video(tmp_path / "in" / f"{name}.mp4", frames=6)
    write_image(tmp_path / "in" / "c.png")
    records = predict(WhiteSquarePredictor(), tmp_path / "in", tmp_path / "out", track=True, draw_threshold=0.5)
    for record in records[:12]:
        assert [item["track_id"] for item in record["detections"]] == [1]
        assert record["counts"] == {"square": 1}
    assert "counts" not in records[12]


def test_missing_library_is_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *arguments: Any, **settings: Any) -> Any:
        if name == "supervision":
            raise ImportError(name)
        return original(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"supervision.*ssd-detector\[track\]"):
        predict(WhiteSquarePredictor(), write_video(tmp_path / "a.mp4", frames=2), tmp_path / "out", track=True)


def test_tracking_without_a_video_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predict(WhiteSquarePredictor(), write_image(tmp_path / "a.png"), tmp_path / "out", track=True)
    assert "track=true: the source has no video" in caplog.text
