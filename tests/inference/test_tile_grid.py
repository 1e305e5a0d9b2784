"""Tiles cover an image evenly, and a tile that is no useful number is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media import WhiteSquarePredictor

from ssd.common.errors import ConfigError
from ssd.inference.tiles import (
    MAX_TILES,
    MIN_TILE,
    OVERLAP,
    TiledPredictor,
    check_tiles,
    tile_starts,
    tile_windows,
)
from ssd.model.postprocess import PostProcess

lengths = st.integers(1, 6000)
tile_sides = st.integers(MIN_TILE, 2000)


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
        TiledPredictor(WhiteSquarePredictor(), PostProcess(), tile=64, batch_size=8)(
            [np.zeros((6000, 6000, 3), np.uint8)]
        )


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("tile", [31, 0, -640, 640.5, True, "640"])
def test_a_tile_that_is_no_useful_number_is_refused(tile: Any) -> None:
    with pytest.raises(ConfigError, match=f"^tile={tile}: .* at least 32$"):
        TiledPredictor(WhiteSquarePredictor(), PostProcess(), tile=tile, batch_size=8)
