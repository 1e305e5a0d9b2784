"""Augmentation with Albumentations: geometry as one warp to the input size, then colour changes of the small image."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import albumentations
import numpy as np
from albumentations.core.type_definitions import Targets
from jaxtyping import Bool, Float, Float32, Int32, Shaped, UInt8

from ssd.common.image_size import ImageSize, simplest
from ssd.common.images import ImageArray, warp

Window = tuple[float, float, float, float]  # xyxy in fractions of the image; may reach beyond it
WHOLE: Window = (0.0, 0.0, 1.0, 1.0)

_MAX_TRIALS = 50  # crops tried for one IoU, as in the Caffe code


@dataclass(frozen=True, slots=True)
class Sample:
    """An image at the input size and its boxes; `size` is the original (H, W)."""

    image: UInt8[np.ndarray, "H W 3"]
    boxes: Float32[np.ndarray, "G 4"]
    labels: Int32[np.ndarray, "G"]
    ignore: Bool[np.ndarray, "G"]
    size: tuple[int, int]
    id: str


class SSDWindow(albumentations.DualTransform):  # type: ignore[misc]  # it has no types
    """Zoom-out, IoU-constrained crop, flip and resize, applied as one warp of the decoded image.

    Source: SSD paper, section 2.2 "Data augmentation" and 3.6 (zoom-out).

    Args:
        image_size: side of the result in pixels, or (height, width).
        zoom_out_probability: probability of placing the image on a larger canvas, 0..1.
        max_zoom_out: largest side of the canvas, in sides of the image; at least 1.
        crop_min_ious: one is drawn for each image: None is no crop, 0 any crop that contains the centre of an object;
            otherwise some object must overlap the crop by this IoU.
        crop_scale: smallest and largest side of a crop, in sides of the canvas.
        crop_aspect: smallest and largest width/height of a crop.
        flip_probability: probability of a horizontal flip, 0..1.
        fill: RGB colour of the canvas, 0..255.
    """

    _targets = (Targets.IMAGE, Targets.BBOXES)

    def __init__(
        self,
        *,
        image_size: ImageSize,
        zoom_out_probability: float = 0.5,
        max_zoom_out: float = 4.0,
        crop_min_ious: Sequence[float | None] = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0),
        crop_scale: Sequence[float] = (0.3, 1.0),
        crop_aspect: Sequence[float] = (0.5, 2.0),
        flip_probability: float = 0.5,
        fill: Sequence[int] = (123, 117, 104),
    ) -> None:
        super().__init__(p=1.0)
        self.image_size = simplest(image_size)
        self.zoom_out_probability = zoom_out_probability
        self.max_zoom_out = max_zoom_out
        self.crop_min_ious = tuple(crop_min_ious)
        self.crop_scale = tuple(crop_scale)
        self.crop_aspect = tuple(crop_aspect)
        self.flip_probability = flip_probability
        self.fill = (int(fill[0]), int(fill[1]), int(fill[2]))

    @classmethod
    def resize(cls, image_size: ImageSize) -> SSDWindow:
        """The whole image without randomness, for validation."""
        return cls(image_size=image_size, zoom_out_probability=0.0, crop_min_ious=[None], flip_probability=0.0)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        boxes = np.asarray(data["bboxes"])[:, :4]
        canvas = self._zoom_out()
        crop = self._crop(_to_window(boxes, canvas))
        return {"window": _compose(canvas, crop), "flip": self.py_random.random() < self.flip_probability}

    def apply(self, img: ImageArray, *, window: Window, flip: bool, **_: Any) -> ImageArray:
        return warp(img, window=window, size=self.image_size, flip=flip, fill=self.fill)

    def apply_to_bboxes(
        self, bboxes: Shaped[np.ndarray, "G K"], *, window: Window, flip: bool, **_: Any
    ) -> Shaped[np.ndarray, "N K"]:
        """Boxes whose centre is inside the window, clipped to it; further columns stay unchanged."""
        boxes = _to_window(bboxes[:, :4], window)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        keep = ((centres > 0) & (centres < 1)).all(axis=1)
        boxes = boxes[keep].clip(0, 1)
        if flip:
            boxes = np.column_stack((1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]))
        return np.column_stack((boxes, bboxes[keep, 4:]))

    def _zoom_out(self) -> Window:
        if self.py_random.random() >= self.zoom_out_probability:
            return WHOLE
        side = self.py_random.uniform(1, self.max_zoom_out)
        left, top = (self.py_random.uniform(0, side - 1) for _ in range(2))
        return (-left, -top, side - left, side - top)

    def _crop(self, boxes: Float[np.ndarray, "G 4"]) -> Window:
        min_iou = self.py_random.choice(self.crop_min_ious)
        if min_iou is None:
            return WHOLE
        crops = self._candidate_crops()
        accepted = crops[accepts_crop(crops, boxes, min_iou=min_iou)]
        return tuple(accepted[0].tolist()) if len(accepted) else WHOLE

    def _candidate_crops(self) -> Float[np.ndarray, "N 4"]:
        sides = self.random_generator.uniform(*self.crop_scale, size=(_MAX_TRIALS, 2))
        aspect = sides[:, 0] / sides[:, 1]
        sides = sides[(aspect >= self.crop_aspect[0]) & (aspect <= self.crop_aspect[1])]
        corners = self.random_generator.uniform(0, 1, size=sides.shape) * (1 - sides)
        return np.column_stack((corners, corners + sides))


def accepts_crop(
    crops: Float[np.ndarray, "N 4"], boxes: Float[np.ndarray, "G 4"], *, min_iou: float
) -> Bool[np.ndarray, "N"]:
    """True for crops that contain the centre of some object and overlap some object by an IoU of at least `min_iou`.

    Other implementations test `overlaps.min() < min_iou and max_iou < overlaps.max()`, which never rejects a crop.
    Without objects every crop is accepted.
    """
    if not len(boxes):
        return np.ones(len(crops), dtype=bool)
    low = np.maximum(crops[:, None, :2], boxes[None, :, :2])
    high = np.minimum(crops[:, None, 2:], boxes[None, :, 2:])
    overlap = (high - low).clip(0).prod(axis=2)
    union = _area(crops)[:, None] + _area(boxes) - overlap
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    contains_centre = ((centres > crops[:, None, :2]) & (centres < crops[:, None, 2:])).all(axis=2)
    return ((overlap >= min_iou * union).any(axis=1)) & contains_centre.any(axis=1)


class Augmentation:
    """A list of Albumentations transforms with its own random seed for each sample.

    The first must resize the image to the input size. A sample is a function of (seed, epoch, position) alone: the
    same with any number of workers and after a resume. (Without this, Albumentations replays the same random stream
    in each forked worker.)
    """

    def __init__(self, transforms: Sequence[albumentations.BasicTransform]) -> None:
        self._compose = albumentations.Compose(
            list(transforms),
            bbox_params=albumentations.BboxParams(format="albumentations", label_fields=["rows"]),
        )

    def __call__(
        self,
        image: ImageArray,
        *,
        boxes: Float32[np.ndarray, "G 4"],
        labels: Int32[np.ndarray, "G"],
        ignore: Bool[np.ndarray, "G"],
        id: str,
        seed: tuple[int, ...],
    ) -> Sample:
        """The augmented sample.

        Args:
            image: RGB, at its original size.
            boxes: xyxy fractions of the image; those of the sample are fractions of the result.
            labels, ignore: of the boxes; removed together with their box.
            id: of the image.
            seed: of all randomness; the same seed gives the same sample.
        """
        generator = np.random.default_rng(seed)
        self._compose.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        result = self._compose(image=image, bboxes=boxes, rows=np.arange(len(boxes)))
        rows = np.asarray(result["rows"], dtype=np.int64)
        return Sample(
            image=result["image"],
            boxes=np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4),
            labels=labels[rows],
            ignore=ignore[rows],
            size=(image.shape[0], image.shape[1]),
            id=id,
        )


def _to_window(boxes: np.ndarray, window: Window) -> np.ndarray:
    """From fractions of the image to fractions of the window."""
    corners = np.array(window)
    return (boxes - np.tile(corners[:2], 2)) / np.tile(corners[2:] - corners[:2], 2)


def _compose(outer: Window, inner: Window) -> Window:
    """`inner`, in fractions of `outer`, converted to the coordinates of `outer`."""
    x1, y1, x2, y2 = outer
    width, height = x2 - x1, y2 - y1
    return (x1 + inner[0] * width, y1 + inner[1] * height, x1 + inner[2] * width, y1 + inner[3] * height)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
