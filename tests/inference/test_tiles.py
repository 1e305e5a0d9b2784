"""What is found in tiles is merged into what the image holds, each object once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from media import SQUARE, WhiteSquarePredictor, predict, square_at, square_x, write_video
from PIL import Image

from ssd.common.images import ImageArray
from ssd.common.structures import Detections
from ssd.inference.predictor import Predictor
from ssd.inference.tiles import (
    TiledPredictor,
    Window,
    merge,
    tile_starts,
    tile_windows,
    tiled,
)
from ssd.model.postprocess import PostProcess

Box = tuple[int, int, int, int]


class Squares:
    """Finds red and green squares whose side is at least `smallest` of the longer side of the image it is given.

    The score falls with the size of a square, so that a part of one has a higher score than all of it.
    """

    class_names = ("red", "green")
    thresholds = None

    def __init__(self, *, smallest: float = 0.0) -> None:
        self.smallest = smallest
        self.batches: list[list[tuple[int, int]]] = []

    def __call__(self, images: Sequence[ImageArray]) -> list[Detections]:
        self.batches.append([image.shape[:2] for image in images])
        return [self._detect(image) for image in images]

    def _detect(self, image: ImageArray) -> Detections:
        height, width = image.shape[:2]
        rows = []
        for label in range(2):
            mask = (image[..., label] > 200).astype(np.uint8)
            for x, y, w, h, _ in cv2.connectedComponentsWithStats(mask)[2][1:].tolist():
                if max(w, h) >= self.smallest * max(height, width):
                    rows.append(([x, y, x + w, y + h], 0.9 - 0.3 * w * h / (w * h + 10_000), label))
        rows.sort(key=lambda row: -row[1])
        scale = torch.tensor([width, height, width, height])
        return detections([(*box, score, label) for box, score, label in rows], scale)


def detections(rows: Sequence[tuple[float, ...]], scale: torch.Tensor) -> Detections:
    """Rows of x1, y1, x2, y2, score, label, by descending score."""
    table = torch.tensor(sorted(rows, key=lambda row: -row[4]), dtype=torch.float32).reshape(-1, 6)
    return Detections(table[:, :4] / scale, table[:, 4], table[:, 5].long())


def paint(size: tuple[int, int], squares: Sequence[tuple[Box, int]]) -> ImageArray:
    image = np.full((*size, 3), 40, np.uint8)
    for (x1, y1, x2, y2), label in squares:
        image[y1:y2, x1:x2, label] = 255
    return image


def found_in(predictor: Predictor, image: ImageArray) -> list[tuple[Box, int]]:
    (found,) = predictor([image])
    height, width = image.shape[:2]
    boxes = found.boxes.double() * torch.tensor([width, height, width, height])
    assert torch.allclose(boxes, boxes.round(), atol=1e-2)
    assert (found.scores.diff() <= 0).all()
    return sorted(
        (tuple(box), label) for box, label in zip(boxes.round().int().tolist(), found.labels.tolist(), strict=True)
    )


def in_tiles(predictor: Predictor, tile: int, **settings: Any) -> TiledPredictor:
    return TiledPredictor(predictor, PostProcess(**settings), tile=tile, batch_size=4)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[ImageArray, list[tuple[Box, int]]]:
    """Squares of 4 to 240 pixels that do not touch."""
    size = draw(st.integers(260, 420)), draw(st.integers(260, 420))
    squares: list[tuple[Box, int]] = []
    for _ in range(draw(st.integers(0, 14))):
        side = draw(st.sampled_from([4, 7, 12, 20, 32, 33, 50, 90, 140, 240]))
        x, y = draw(st.integers(0, size[1] - side)), draw(st.integers(0, size[0] - side))
        box = (x, y, x + side, y + side)
        if all(x > c + 1 or x + side + 1 < a or y > d + 1 or y + side + 1 < b for (a, b, c, d), _ in squares):
            squares.append((box, draw(st.integers(0, 1))))
    return paint(size, squares), sorted(squares)


@given(scenes(), st.sampled_from([64, 100, 128, 255, 1000]))
def test_every_square_is_found_once(scene: tuple[ImageArray, list[tuple[Box, int]]], tile: int) -> None:
    """Of any size: small ones are whole in a tile, large ones in the image, and parts of them are dropped."""
    image, squares = scene
    assert found_in(in_tiles(Squares(), tile), image) == squares


def test_small_squares_are_found_in_tiles_alone_and_large_ones_in_the_image() -> None:
    small = [((x, y, x + 12, y + 12), (x + y) % 2) for x in range(3, 1180, 37) for y in range(5, 780, 41)]
    large = [((1190, 100, 1590, 500), 0), ((1190, 505, 1480, 795), 1)]
    image = paint((800, 1600), small + large)
    squares = Squares(smallest=0.05)
    assert found_in(squares, image) == large
    assert found_in(in_tiles(squares, 160, max_detections=1000), image) == sorted(small + large)


def test_a_part_that_nothing_else_holds_is_kept_and_the_largest_part_is() -> None:
    """In tiles of 160, which share 40 pixels, no tile holds this square; the image is too large to show it."""
    image = paint((160, 1500), [((90, 30, 210, 150), 0)])
    assert tile_starts(1500, 160)[:3] == [0, 111, 223]
    squares = Squares(smallest=0.1)
    assert found_in(squares, image) == []
    assert found_in(in_tiles(squares, 160), image) == [((111, 30, 210, 150), 0)]


def test_noise_does_not_drop_what_only_a_tile_shows() -> None:
    size, windows = (100, 200), [(0, 0, 120, 100), (80, 0, 200, 100)]
    scale, tile_scale = torch.tensor([200, 100, 200, 100]), torch.tensor([120, 100, 120, 100])
    cut = detections([(100, 20, 120, 60, 0.8, 0)], tile_scale)
    nothing = detections([], tile_scale)
    kept = {}
    for score, label in ((0.3, 0), (0.5, 0), (0.5, 1)):
        whole = detections([(95, 10, 190, 90, score, label)], scale)
        found = merge(whole, [cut, nothing], windows, size=size, postprocess=PostProcess())
        kept[score, label] = [round(value, 1) for value in found.scores.tolist()]
    assert kept == {(0.3, 0): [0.8, 0.3], (0.5, 0): [0.5], (0.5, 1): [0.8, 0.5]}


# --- the merge against loops


def merged_by_loops(
    whole: Sequence[tuple[float, ...]], tiles: Sequence[Sequence[tuple[float, ...]]], windows: Sequence[Window]
) -> list[tuple[float, ...]]:
    """Rows of pixels of the image in, for an image of 200x100 pixels; the rows that stay, by descending score."""
    rows = [(row, 0, False) for row in whole]
    for view, (tile, window) in enumerate(zip(tiles, windows, strict=True), 1):
        inner = [edge not in (0, limit) for edge, limit in zip(window, (0, 0, 200, 100), strict=True)]
        for row in tile:
            near = [abs(edge - border) <= 2 for edge, border in zip(row, window, strict=False)]
            rows.append((row, view, any(one and other for one, other in zip(near, inner, strict=True))))

    def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
        return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))

    def covers(other: tuple[float, ...], row: tuple[float, ...]) -> bool:
        larger = overlap(other, other) > overlap(row, row)
        return larger and overlap(other, row) > 0.5 * overlap(row, row) and other[5] == row[5]

    left = [
        row
        for row, view, cut in rows
        if not (cut and any(view != v and covers(o, row) and o[4] >= 0.5 * row[4] for o, v, _ in rows))
    ]
    kept: list[tuple[float, ...]] = []
    for row in sorted(left, key=lambda row: -row[4]):
        union = [overlap(row, row) + overlap(other, other) - overlap(row, other) for other in kept]
        if all(o[5] != row[5] or overlap(row, o) <= 0.45 * u for o, u in zip(kept, union, strict=True)):
            kept.append(row)
    return kept


@pytest.mark.parametrize("seed", range(8))
def test_the_merge_equals_that_of_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, windows = (100, 200), [(0, 0, 80, 80), (60, 0, 140, 80), (120, 0, 200, 80), (60, 20, 140, 100)]

    def random_rows(window: Window, count: int) -> list[tuple[float, ...]]:
        low, high = np.array(window[:2]), np.array(window[2:])
        corners = np.sort(rng.uniform(low - 9, high + 9, (count, 2, 2)).clip(low, high), axis=1)
        scores = rng.permutation(10_000)[:count] / 10_000
        columns = [corners.reshape(-1, 4), scores[:, None], rng.integers(0, 2, (count, 1))]
        return [tuple(row) for row in np.concatenate(columns, axis=1).tolist()]

    whole, tiles = random_rows((0, 0, 200, 100), 40), [random_rows(window, 160) for window in windows]
    placed = []
    for rows, (x1, y1, x2, y2) in zip(tiles, windows, strict=True):
        shifted = [(a - x1, b - y1, c - x1, d - y1, *rest) for a, b, c, d, *rest in rows]
        placed.append(detections(shifted, torch.tensor([x2 - x1, y2 - y1, x2 - x1, y2 - y1])))
    everything = PostProcess(score_threshold=0.0, max_detections=10_000)
    scale = torch.tensor([200, 100, 200, 100])
    found = merge(detections(whole, scale), placed, windows, size=size, postprocess=everything)
    rows = torch.cat([found.boxes * scale, found.scores[:, None], found.labels[:, None]], dim=1)
    expected = merged_by_loops(whole, tiles, windows)
    assert len(expected) > 40
    assert rows.sort(dim=0)[0].numpy() == pytest.approx(np.sort(np.array(expected), axis=0), abs=1e-3)


# --- limits


def test_tiles_go_through_in_batches_and_the_limit_holds_after_the_merge() -> None:
    image = paint((300, 300), [((x, y, x + 10, y + 10), 0) for x in range(5, 280, 20) for y in range(5, 280, 20)])
    squares = Squares()
    found = in_tiles(squares, 100, max_detections=7)([image, image[:80, :90], image])
    assert [len(one) for one in found] == [7, 20, 7]  # the limit of what is not tiled is the predictor's own
    count = len(tile_windows((300, 300), 100))
    assert count == 16
    assert squares.batches == [[(300, 300), (80, 90), (300, 300)], *[[(100, 100)] * 4] * 8]


def test_the_best_candidates_enter_the_merge() -> None:
    image = paint((300, 300), [((x, 20, x + side, 20 + side), 0) for x, side in ((20, 30), (80, 20), (140, 10))])
    everything, best = (in_tiles(Squares(), 200, topk_candidates=count)([image])[0] for count in (2000, 3))
    assert (len(everything), len(best)) == (
        3,
        1,
    )  # the smallest square has the highest score, and is in the image and two tiles
    assert best.scores.tolist() == everything.scores[:1].tolist()


def test_no_images_and_no_detections() -> None:
    predictor = in_tiles(Squares(), 64)
    assert predictor([]) == []
    (found,) = predictor([np.zeros((100, 200, 3), np.uint8)])
    assert (found.boxes.shape, len(found)) == ((0, 4), 0)


def test_without_a_tile_the_predictor_is_returned() -> None:
    squares = Squares()
    assert tiled(squares, PostProcess(), tile=None, batch_size=8) is squares


def test_predict_writes_merged_boxes_of_images_and_videos(tmp_path: Path) -> None:
    predictor = in_tiles(WhiteSquarePredictor(), 48)
    (tmp_path / "in").mkdir()
    Image.fromarray(square_at(41, size=(64, 180))).save(tmp_path / "in" / "a.png")
    (record,) = predict(predictor, tmp_path / "in", tmp_path / "out")
    assert [item["box"] for item in record["detections"]] == [[41, 10, 41 + SQUARE, 10 + SQUARE]]
    write_video(tmp_path / "b.mp4", frames=6)
    records = predict(predictor, tmp_path / "b.mp4", tmp_path / "out", save=["json"])
    assert len(records) == 6
    for frame, record in enumerate(records):
        (item,) = record["detections"]
        x = square_x(frame)
        assert item["box"] == pytest.approx([x, 10, x + SQUARE, 10 + SQUARE], abs=2)  # of a compressed video
