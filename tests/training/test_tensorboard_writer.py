"""Curves with a known result, the size limit of images, and the tags of the overview."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scenes import scene
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from ssd.evaluation.matching import match_coco
from ssd.evaluation.score_curves import score_curve
from ssd.evaluation.tide import classify_errors
from ssd.evaluation.worst_images import draw_error_panel, draw_errors
from ssd.training.tensorboard_writer import MAX_IMAGE_BYTES, add_curve, add_image, overview

PLACE, FAR = (0, 0, 100, 100), (200, 200, 300, 300)


def written(writer: SummaryWriter) -> EventAccumulator:
    writer.close()
    return EventAccumulator(writer.log_dir).Reload()


def test_a_curve_with_a_known_result(tmp_path: Path) -> None:
    image = scene([(PLACE, 0), (FAR, 0)], [(PLACE, 0, 0.9), ((0, 200, 50, 250), 0, 0.6)])
    writer = SummaryWriter(str(tmp_path))
    add_curve(writer, "cat", score_curve(match_coco([image], 1)), step=7)
    event = written(writer).Tensors("cat")[0]
    table = np.array(event.tensor_proto.float_val).reshape(6, 127)
    assert event.step == 7
    for threshold, expected in {
        0.0: [1, 1, 0, 1, 0.5, 0.5],  # hits, false, -, missed, precision, recall
        0.7: [1, 0, 0, 1, 1.0, 0.5],
        1.0: [0, 0, 0, 2, 1.0, 0.0],
    }.items():
        assert table[:, round(threshold * 126)].tolist() == expected


@pytest.mark.parametrize("size", [(64, 48), (2000, 1000)])
def test_images_are_bounded(tmp_path: Path, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    writer = SummaryWriter(str(tmp_path))
    add_image(writer, "noise", noise, step=1)
    event = written(writer).Images("noise")[0]
    image = Image.open(io.BytesIO(event.encoded_image_string))
    assert len(event.encoded_image_string) <= MAX_IMAGE_BYTES
    assert image.size == (event.width, event.height)
    assert image.width / image.height == pytest.approx(size[0] / size[1], rel=0.02)


def test_both_halves_are_scaled_and_coloured_by_error() -> None:
    white = np.full((300, 600, 3), 255, dtype=np.uint8)
    seen = scene([(PLACE, 0), (FAR, 0)], [(PLACE, 0, 0.9)])
    views = draw_errors(white, seen, classify_errors(seen), ["cat"], side_px=400)
    image = draw_error_panel(views, title="1 Miss")
    assert image.shape == (252, 808, 3)
    left, right = image[52:, :400], image[52:, 408:]
    hit, missed = (26, 152, 80), (224, 47, 60)  # colours of the charts
    assert [bool((view == colour).all(axis=-1).any()) for view in (left, right) for colour in (hit, missed)] == [
        True,
        True,
        True,
        False,
    ]


def test_the_overview_matches_its_tags_exactly() -> None:
    names = ["traffic light", "C++ (a)"]
    charts = overview(names, levels=6)["Overview"]
    patterns = [pattern for kind, tags in charts.values() for pattern in tags if kind == "Multiline"]
    for name in names:
        assert sum(bool(re.match(pattern, f"val/map_class/{name}")) for pattern in patterns) == 1
    for tag in ("train/loss", "train/skipped_steps"):
        assert sum(bool(re.match(pattern, tag)) for pattern in patterns) == 1
    assert not any(re.match(pattern, "train/loss_classification") for pattern in patterns)
