"""Prediction in overlapping tiles, for small objects in large images (`tile=N`).

The predictor runs on the whole image and on each tile, so that an object of a few pixels is not reduced to nothing.
Neighbouring tiles share at least OVERLAP of their side: an object up to that size lies whole in one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from ssd.common.errors import ConfigError
from ssd.common.images import ImageArray
from ssd.common.structures import Detections
from ssd.inference.predictor import Predictor
from ssd.model.boxes import area, intersection
from ssd.model.postprocess import PostProcess

MIN_TILE = 32  # px, the smallest network input; ssd/cli/keys.py has the same
MAX_TILES = 4096  # of an image
OVERLAP = 0.25  # of a tile's side

Window = tuple[int, int, int, int]  # xyxy in pixels

_BORDER_PX = 2  # a box this close to a border that is not the image's is cut by it,
_BORDER = 0.02  # or this close as a fraction of the side of the tile, as errors of boxes grow with it
_COVERED = 0.5  # a cut box is dropped if a larger box covers more than this fraction of it
_RELATIVE_SCORE = 0.5  # and has at least this fraction of its score, or noise would drop what only a tile shows
_ROWS = 256  # boxes compared with all others at a time


class TiledPredictor:
    """Runs a predictor on each image and on its tiles, and merges the detections.

    A box that an inner border of a tile cuts is dropped if another tile or the whole image has a larger box of its
    class that covers it; NMS and the limits of `postprocess` follow. An image that one tile covers is not tiled: its
    detections are those of `predictor`.

    Args:
        predictor: any other predictor; it prepares a tile like an image.
        postprocess: the settings that `predictor` has.
        tile: side of the square tiles in pixels of the image, at least MIN_TILE; a side of the image that is shorter
            limits it.
        batch_size: tiles at a time.

    Raises:
        ConfigError: `tile` is not a whole number, or below MIN_TILE.
    """

    def __init__(self, predictor: Predictor, postprocess: PostProcess, *, tile: int, batch_size: int) -> None:
        if isinstance(tile, bool) or not isinstance(tile, int) or tile < MIN_TILE:
            raise ConfigError(f"tile={tile}: must be a whole number of pixels, at least {MIN_TILE}")
        self.class_names = predictor.class_names
        self.thresholds = predictor.thresholds
        self._predictor = predictor
        self._postprocess = postprocess
        self._tile = tile
        self._batch_size = batch_size

    def __call__(self, images: Sequence[ImageArray]) -> list[Detections]:
        """Detections of each image (uint8 RGB HWC, upright), on the CPU; boxes are fractions of the image.

        Raises:
            ConfigError: an image would have more than MAX_TILES tiles.
        """
        windows = [tile_windows(image.shape[:2], self._tile) for image in images]  # fails before the work
        return list(map(self._add_tiles, images, self._predictor(images), windows))

    def _add_tiles(self, image: ImageArray, whole: Detections, windows: Sequence[Window]) -> Detections:
        if len(windows) == 1:
            return whole
        found: list[Detections] = []
        for start in range(0, len(windows), self._batch_size):
            batch = windows[start : start + self._batch_size]
            found += self._predictor([image[y1:y2, x1:x2] for x1, y1, x2, y2 in batch])
        return merge(whole, found, windows, size=image.shape[:2], postprocess=self._postprocess)


def tiled(predictor: Predictor, postprocess: PostProcess, *, tile: int | None, batch_size: int) -> Predictor:
    """A TiledPredictor, or `predictor` itself if `tile` is None."""
    return predictor if tile is None else TiledPredictor(predictor, postprocess, tile=tile, batch_size=batch_size)


def tile_starts(length: int, tile: int) -> list[int]:
    """Where the tiles along a side of `length` pixels start: evenly spaced, the first and last flush with the ends."""
    if length <= tile:
        return [0]
    stride = int(tile * (1 - OVERLAP))
    steps = -(-(length - tile) // stride)
    return [step * (length - tile) // steps for step in range(steps + 1)]


def tile_windows(size: tuple[int, int], tile: int) -> list[Window]:
    """The tiles of an image of (H, W) pixels, row by row; a single one is the image.

    Raises:
        ConfigError: more than MAX_TILES.
    """
    height, width = size
    rows, columns = tile_starts(height, tile), tile_starts(width, tile)
    if len(rows) * len(columns) > MAX_TILES:
        raise ConfigError(
            f"tile={tile}: an image of {width}x{height} pixels would have {len(rows) * len(columns)} tiles, more than "
            f"{MAX_TILES}; use tile={_smallest_tile(size)} or more"
        )
    return [(x, y, min(x + tile, width), min(y + tile, height)) for y in rows for x in columns]


def check_tiles(sizes: Int32[np.ndarray, "N 2"], tile: int) -> None:
    """Checks images of `sizes` (H, W) before any is read.

    Raises:
        ConfigError: see `tile_windows`.
    """
    for height, width in np.unique(sizes, axis=0).tolist():
        tile_windows((height, width), tile)


def _smallest_tile(size: tuple[int, int]) -> int:
    """The smallest power of two that gives at most MAX_TILES tiles."""
    tile = MIN_TILE
    while len(tile_starts(size[0], tile)) * len(tile_starts(size[1], tile)) > MAX_TILES:
        tile *= 2
    return tile


def merge(
    whole: Detections,
    tiles: Sequence[Detections],
    windows: Sequence[Window],
    *,
    size: tuple[int, int],
    postprocess: PostProcess,
) -> Detections:
    """The detections of an image of (H, W) pixels from those in the whole image and in its tiles."""
    height, width = size
    placed = [_place(found, window, size) for found, window in zip(tiles, windows, strict=True)]
    boxes_px = torch.cat([whole.boxes * torch.tensor([width, height, width, height]), *(boxes for boxes, _ in placed)])
    cut = torch.cat([torch.zeros(len(whole), dtype=torch.bool), *(cut for _, cut in placed)])
    views = [whole, *tiles]
    scores = torch.cat([view.scores for view in views])
    labels = torch.cat([view.labels for view in views])
    view = torch.repeat_interleave(torch.arange(len(views)), torch.tensor([len(view) for view in views]))
    top = scores.argsort(descending=True, stable=True)[: postprocess.topk_candidates]
    boxes_px, scores, labels = boxes_px[top], scores[top], labels[top]
    keep = ~_covered(boxes_px, scores, labels, view[top], cut[top])
    boxes = boxes_px[keep] / torch.tensor([width, height, width, height])
    return postprocess.nms(boxes, scores[keep], labels[keep])


def _place(found: Detections, window: Window, size: tuple[int, int]) -> tuple[Float[Tensor, "D 4"], Bool[Tensor, "D"]]:
    """The boxes of a tile in pixels of the image, and which of them an inner border cuts."""
    x1, y1, x2, y2 = window
    height, width = size
    boxes_px = found.boxes * torch.tensor([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
    boxes_px += torch.tensor([x1, y1, x1, y1])
    margin_px = max(_BORDER_PX, _BORDER * max(x2 - x1, y2 - y1))
    inner = torch.tensor([x1 > 0, y1 > 0, x2 < width, y2 < height])
    return boxes_px, (((boxes_px - torch.tensor(window)).abs() <= margin_px) & inner).any(dim=1)


def _covered(
    boxes: Float[Tensor, "N 4"],
    scores: Float[Tensor, "N"],
    labels: Int64[Tensor, "N"],
    view: Int64[Tensor, "N"],
    cut: Bool[Tensor, "N"],
) -> Bool[Tensor, "N"]:
    """Which of the `cut` boxes a larger box of their class covers in another view (a tile, or the whole image)."""
    covered = torch.zeros_like(cut)
    areas = area(boxes)
    for rows in cut.nonzero().flatten().split(_ROWS):
        covers = intersection(boxes[rows], boxes) > _COVERED * areas[rows, None]
        covers &= areas > areas[rows, None]
        covers &= scores >= _RELATIVE_SCORE * scores[rows, None]
        covers &= (labels == labels[rows, None]) & (view != view[rows, None])
        covered[rows] = covers.any(dim=1)
    return covered
