"""The same pictures of the validation set each time, with what was found in them, as many as their time allows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ssd.data.index import DetectionIndex
from ssd.evaluation.matching import Scene
from ssd.evaluation.tide import judge
from ssd.images import Picture
from ssd.monitoring.board import add_picture
from ssd.monitoring.gallery import shrunk, side_by_side
from ssd.monitoring.showing import evenly_spaced

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Album:
    """Up to `count` pictures with their longer side at `side_px`; small copies stay, as reading takes the most time."""

    def __init__(self, index: DetectionIndex, *, count: int, side_px: int) -> None:
        self._index = index
        self._count = count
        self._side_px = side_px
        self._copies: dict[str, Picture] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._seconds = self._dearest = 0.0

    def add(
        self, writer: SummaryWriter, scenes: Mapping[str, Scene], *, threshold: float, step: int, seconds: float
    ) -> None:
        """Writes what is over the threshold: the first picture, and more until all have taken `seconds` in the run."""
        self._dearest = 0.0  # of this time
        for number, name in enumerate(evenly_spaced(scenes, self._count), start=1):
            if number > 1 and self._seconds + self._dearest > seconds:
                break
            start = time.perf_counter()
            scene = scenes[name].above(threshold)
            add_picture(writer, f"pictures/{number}", self._draw(name, scene), step)
            taken = time.perf_counter() - start
            self._seconds += taken
            self._dearest = max(self._dearest, taken)

    def _draw(self, name: str, scene: Scene) -> Picture:
        if name not in self._copies:
            position = next(position for position, id in enumerate(self._index.ids) if id == name)
            image = self._index.load(self._index.paths[position])
            self._sizes[name] = image.shape[0], image.shape[1]
            self._copies[name] = shrunk(image, self._side_px)
        judgement = judge(scene)
        return side_by_side(
            self._copies[name],
            scene,
            judgement,
            class_names=self._index.class_names,
            title=f"{Path(name).name}: {judgement.reason or 'no error'}",
            side_px=self._side_px,
            size=self._sizes[name],
        )
