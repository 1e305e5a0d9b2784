"""Built-in data: images of shapes, rendered from a seed; nothing on disk, nothing to download.

Varied enough for a meaningful mAP: five classes, some similar in outline and some in colour, sides from a seventh to
two thirds of the image, textured backgrounds, overlap, clutter, empty images.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float
from PIL import Image

from ssd.common.errors import DataError
from ssd.common.images import ImageArray
from ssd.data.index import ImageRecord, build_index
from ssd.data.splits import Splits
from ssd.data.validation import Report

_SPLITS = {"train": 0, "val": 1, "test": 2}
_SIDES = (0.15, 0.65)  # of the image's shorter side
_MAX_OBJECTS = 5
_EMPTY_SHARE = 0.06
_MAX_OVERLAP = 0.35
_ANTI_ALIAS_BITS = 4
_HUE_SPREAD = 0.06

Outline = Float[np.ndarray, "K 2"]  # in pixels
Colour = tuple[int, int, int]


def _polar(angles: Float[np.ndarray, "K"], radius: Float[np.ndarray, "K 1"] | float = 1.0) -> Outline:
    return np.column_stack((np.cos(angles), np.sin(angles))) * radius


_CIRCLE = _polar(np.linspace(0, 2 * np.pi, 40, endpoint=False))
_OUTLINES: dict[str, Outline] = {  # in -1..1
    "circle": _CIRCLE,
    "square": np.array([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]]),
    "triangle": np.array([[0, -1], [1, 0.9], [-1, 0.9]]),
    "star": _polar(np.arange(10) * np.pi / 5 - np.pi / 2, np.where(np.arange(10) % 2, 0.42, 1.0)[:, None]),
    "ring": _CIRCLE,
}
CLASS_NAMES = tuple(_OUTLINES)


@dataclass(frozen=True, slots=True)
class _Shape:
    label: int
    centre: tuple[float, float]
    side: float
    outline: Outline

    @property
    def box(self) -> tuple[float, float, float, float]:
        low, high = self.outline.min(axis=0), self.outline.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def read_shapes(
    *,
    train: int = 4000,
    val: int = 150,
    test: int = 300,
    side_px: int = 160,
    seed: int = 0,
    report: Report | None = None,
) -> Splits:
    """Indexes of rendered images: the given number in each split, with sides of about `side_px` pixels.

    Raises:
        DataError: no image to train on.
    """
    if not train:
        raise DataError("dataset.train=0: no image to train on; give at least 1")
    load = partial(render, side_px=side_px, seed=seed)
    indexes = {}
    for split, count in (("train", train), ("val", val), ("test", test)):
        if count:
            records = [_record(f"{split}/{position:06d}", side_px=side_px, seed=seed) for position in range(count)]
            indexes[split] = build_index(records, class_names=CLASS_NAMES, load=load)
    return Splits(**indexes, report=report or Report())


def render(path: str, *, side_px: int, seed: int) -> ImageArray:
    """The image `<split>/<number>`."""
    rng = _generator(path, seed)
    height, width, shapes = _scene(rng, side_px)
    image = _background(rng, height, width)
    _draw_clutter(image, rng)
    for shape in shapes:
        _draw(image, shape, rng)
    return _add_grain(image, rng)


def _generator(path: str, seed: int) -> np.random.Generator:
    split, number = path.split("/")
    return np.random.default_rng((seed, _SPLITS[split], int(number)))


def _record(path: str, *, side_px: int, seed: int) -> ImageRecord:
    height, width, shapes = _scene(_generator(path, seed), side_px)
    boxes = [tuple(np.array(shape.box) / (width, height, width, height)) for shape in shapes]
    labels = [shape.label for shape in shapes]
    return ImageRecord(path, path, (height, width), boxes, labels, [False] * len(shapes), [0] * len(shapes))


def _scene(rng: np.random.Generator, side_px: int) -> tuple[int, int, list[_Shape]]:
    """Size and shapes of an image, from back to front; they overlap, but none hides another."""
    height, width = (int(side_px * rng.uniform(0.8, 1.2)) for _ in range(2))
    count = 0 if rng.random() < _EMPTY_SHARE else rng.integers(1, _MAX_OBJECTS + 1)
    shapes: list[_Shape] = []
    for _ in range(count):
        for _ in range(20):
            shape = _random_shape(rng, height, width)
            if all(_overlap(shape.box, other.box) < _MAX_OVERLAP for other in shapes):
                shapes.append(shape)
                break
    return height, width, shapes


def _random_shape(rng: np.random.Generator, height: int, width: int) -> _Shape:
    label = int(rng.integers(len(CLASS_NAMES)))
    side = min(height, width) * float(np.exp(rng.uniform(*np.log(_SIDES))))
    stretch = float(np.exp(rng.uniform(-0.25, 0.25)))
    outline = _OUTLINES[CLASS_NAMES[label]] * (side / 2 * stretch, side / 2 / stretch)
    angle = rng.uniform(-0.4, 0.4)
    outline = outline @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    reach = np.abs(outline).max(axis=0)
    low, high = np.minimum(reach, (width / 2, height / 2)), np.maximum((width, height) - reach, (width / 2, height / 2))
    centre = rng.uniform(low, high)
    return _Shape(label, (float(centre[0]), float(centre[1])), side, outline + centre)


def _overlap(front: tuple[float, ...], back: tuple[float, ...]) -> float:
    """Overlap of two boxes as a share of the smaller one."""
    width = min(front[2], back[2]) - max(front[0], back[0])
    height = min(front[3], back[3]) - max(front[1], back[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (front, back))
    return max(width, 0) * max(height, 0) / smaller


# --- pixels ------------------------------------------------------------------------------------------------------


def _background(rng: np.random.Generator, height: int, width: int) -> ImageArray:
    """Smooth noise between two colours, with a random grain size."""
    cells = int(rng.integers(2, 24))
    grain = cv2.resize(rng.random((cells, cells), dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    first, second = (np.array(_any_colour(rng), dtype=np.float32) for _ in range(2))
    return (first + grain.clip(0, 1)[..., None] * (second - first)).astype(np.uint8)


def _add_grain(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    grain = rng.standard_normal(image.shape[:2], dtype=np.float32) * np.float32(rng.uniform(1, 7))
    return cv2.add(image, cv2.cvtColor(grain, cv2.COLOR_GRAY2BGR), dtype=cv2.CV_8U)


def _draw_clutter(image: ImageArray, rng: np.random.Generator) -> None:
    """Draws lines, which are not objects of any class."""
    height, width = image.shape[:2]
    for _ in range(rng.integers(0, 7)):
        ends = rng.uniform(0, 1, size=(2, 2)) * (width, height)
        start, end = (tuple(int(value) for value in point) for point in ends)
        cv2.line(image, start, end, _any_colour(rng), int(rng.integers(1, 4)), cv2.LINE_AA)


def _draw(image: ImageArray, shape: _Shape, rng: np.random.Generator) -> None:
    _fill(image, shape.outline, _typical_colour(shape.label, rng))
    if CLASS_NAMES[shape.label] == "ring":
        _fill(image, (shape.outline - shape.centre) * 0.55 + shape.centre, _any_colour(rng))
    if rng.random() < 0.3:
        cv2.polylines(image, [_fixed_point(shape.outline)], True, _any_colour(rng), 1, cv2.LINE_AA, _ANTI_ALIAS_BITS)


def _fill(image: ImageArray, outline: Outline, colour: Colour) -> None:
    cv2.fillPoly(image, [_fixed_point(outline)], colour, cv2.LINE_AA, _ANTI_ALIAS_BITS)


def _fixed_point(outline: Outline) -> np.ndarray:
    return np.round((outline - 0.5) * 2**_ANTI_ALIAS_BITS).astype(np.int32)


def _typical_colour(label: int, rng: np.random.Generator) -> Colour:
    """Each class has a typical hue, but neighbours on the colour wheel overlap."""
    hue = (label / len(CLASS_NAMES) + rng.normal(0, _HUE_SPREAD)) % 1.0
    return _to_rgb(hue, saturation=rng.uniform(0.6, 1.0), value=rng.uniform(0.55, 1.0))


def _any_colour(rng: np.random.Generator) -> Colour:
    return _to_rgb(rng.random(), saturation=rng.uniform(0, 0.5), value=rng.uniform(0.1, 1.0))


def _to_rgb(hue: float, *, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return int(red * 255), int(green * 255), int(blue * 255)


def save_images(folder: str, count: int, *, side_px: int = 160, seed: int = 0) -> None:
    """Writes `count` images of the test split as PNG, as input for a trained detector."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for position in range(count):
        image = render(f"test/{position:06d}", side_px=side_px, seed=seed)
        Image.fromarray(image).save(Path(folder, f"shapes_{position:03d}.png"))
