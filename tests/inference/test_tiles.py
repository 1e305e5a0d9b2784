"""Tiles cover an image, and what is found in them is merged into what the image holds, each object once."""

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
from shapes_detector import IMAGES, SETTINGS, shapes_detector, unchecked

import ssd
from ssd.common.errors import ConfigError
from ssd.common.images import ImageArray
from ssd.common.structures import Detections
from ssd.data.formats.shapes import render
from ssd.export import parity
from ssd.export.onnx_graph import to_onnx
from ssd.inference.detector import open_predictor
from ssd.inference.onnx_predictor import OnnxPredictor
from ssd.inference.predictor import Predictor
from ssd.inference.tiles import (
    MAX_TILES,
    MIN_TILE,
    OVERLAP,
    TiledPredictor,
    Window,
    check_tiles,
    merge,
    tile_starts,
    tile_windows,
    tiled,
)
from ssd.inference.torch_predictor import TorchPredictor
from ssd.model.postprocess import PostProcess
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD
from ssd.weights import checkpoint

Box = tuple[int, int, int, int]

lengths = st.integers(1, 6000)
tile_sides = st.integers(MIN_TILE, 2000)


# --- the grid


@given(lengths, tile_sides)
def test_tiles_cover_a_side_evenly_and_end_with_it(length: int, tile: int) -> None:
    starts = tile_starts(length, tile)
    assert starts[0] == 0
    assert starts[-1] + min(tile, length) == length
    steps = np.diff(starts)
    assert len(steps) == 0 or (steps.max() - steps.min() <= 1 and steps.min() > 0)
    assert all(tile - step >= OVERLAP * tile for step in steps)
    if len(starts) > 1:  # one tile fewer would share too little
        assert (length - tile) / max(len(starts) - 2, 1e-9) > int(tile * (1 - OVERLAP))


@given(lengths, tile_sides, st.data())
def test_an_object_up_to_the_overlap_lies_whole_in_a_tile(length: int, tile: int, data: st.DataObject) -> None:
    side = data.draw(st.integers(1, min(int(OVERLAP * tile), length)))
    low = data.draw(st.integers(0, length - side))
    assert any(start <= low and low + side <= start + tile for start in tile_starts(length, tile))


@given(st.integers(1, 900), st.integers(1, 900), st.integers(MIN_TILE, 1000))
def test_windows_lie_in_the_image_and_cover_it(height: int, width: int, tile: int) -> None:
    covered = np.zeros((height, width), bool)
    for x1, y1, x2, y2 in tile_windows((height, width), tile):
        assert (x1 >= 0, y1 >= 0, x2 <= width, y2 <= height) == (True,) * 4
        assert (x2 - x1, y2 - y1) == (min(tile, width), min(tile, height))
        covered[y1:y2, x1:x2] = True
    assert covered.all()


def test_a_tile_as_large_as_the_image_is_the_image() -> None:
    assert tile_windows((300, 400), 400) == [(0, 0, 400, 300)]
    assert tile_windows((300, 401), 400) == [(0, 0, 400, 300), (1, 0, 401, 300)]


def test_too_many_tiles_are_refused_and_the_suggestion_is_not() -> None:
    sizes = np.array([[100, 100], [10_000, 20_000]], np.int32)
    with pytest.raises(ConfigError, match=rf"^tile=64: .*20000x10000 .*{MAX_TILES}; use tile=512 or more$"):
        check_tiles(sizes, 64)
    check_tiles(sizes, 512)
    with pytest.raises(ConfigError, match=r"^tile=64: "):
        TiledPredictor(Squares(), PostProcess(), tile=64, batch_size=8)([np.zeros((6000, 6000, 3), np.uint8)])


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("tile", [31, 0, -640, 640.5, True, "640"])
def test_a_tile_that_is_no_useful_number_is_refused(tile: Any) -> None:
    with pytest.raises(ConfigError, match=f"^tile={tile}: .* at least 32$"):
        TiledPredictor(Squares(), PostProcess(), tile=tile, batch_size=8)


# --- a predictor that finds bright squares exactly


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


# --- images, videos and the runtimes


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


@pytest.fixture(scope="module")
def model(mobilenet_v1: PriorSpec) -> SSD:
    return shapes_detector(mobilenet_v1)


@pytest.fixture(scope="module")
def files(model: SSD, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and its export."""
    folder = tmp_path_factory.mktemp("files")
    checkpoint.save_release(model, folder / "model.safetensors")
    with unchecked():
        graph = to_onnx(model, PostProcess(score_threshold=0.05, **SETTINGS))
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    return folder / "model.safetensors", folder / "model.onnx"


def test_a_tile_as_large_as_the_images_gives_their_plain_detections(model: SSD) -> None:
    assert max(max(image.shape) for image in IMAGES) <= 140
    plain = TorchPredictor(model, PostProcess(score_threshold=0.05, **SETTINGS), device="cpu")
    for one, other in zip(plain(IMAGES), in_tiles(plain, 140, **SETTINGS)(IMAGES), strict=True):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.labels, other.labels)


def test_both_runtimes_give_the_same_in_tiles(files: tuple[Path, Path]) -> None:
    postprocess = PostProcess(score_threshold=0.05, **SETTINGS)
    network, exported = (open_predictor(path, postprocess, device="cpu", tile=80, batch_size=4) for path in files)
    images = [render(f"test/{number:06d}", side_px=200, seed=1) for number in range(6)]
    result = parity.compare(network, exported, images)
    assert result.agrees, result
    assert result.detections > 10


def test_an_exported_file_merges_with_its_own_settings(files: tuple[Path, Path]) -> None:
    narrowed = OnnxPredictor(files[1]).narrow(PostProcess(nms_threshold=0.9, max_detections=200))
    assert (narrowed.nms_threshold, narrowed.max_detections) == (0.45, SETTINGS["max_detections"])
    assert OnnxPredictor(files[1]).narrow(PostProcess(max_detections=3)).max_detections == 3


def test_the_python_api_has_tiles(files: tuple[Path, Path]) -> None:
    image = render("test/000001", side_px=240, seed=2)
    for path in files:
        settings: dict[str, Any] = {"score_threshold": 0.06, "max_detections": 30, "device": "cpu"}
        postprocess = PostProcess(score_threshold=0.06, max_detections=30)
        found = ssd.load(path, tile=100, **settings)(image)
        (expected,) = open_predictor(path, postprocess, device="cpu", tile=100)([image])
        assert torch.equal(found.detections.boxes, expected.boxes)
        assert len(found) != len(ssd.load(path, **settings)(image)) or not np.array_equal(
            found.boxes, ssd.load(path, **settings)(image).boxes
        )
    with pytest.raises(ConfigError, match="tile=20: "):
        ssd.load(files[0], tile=20)
