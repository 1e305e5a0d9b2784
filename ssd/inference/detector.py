"""The Python API: `ssd.load("model.safetensors")("street.jpg").draw("out.jpg")`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Float32, Int64
from PIL import Image

from ssd.common.animations import frame_kind
from ssd.common.errors import ConfigError, DataError, MachineError
from ssd.common.images import ImageArray, from_pillow, read_image
from ssd.common.structures import Detections
from ssd.inference.onnx_predictor import OnnxPredictor
from ssd.inference.predictor import Predictor, thresholds_of
from ssd.inference.results import to_record
from ssd.inference.tiles import tiled
from ssd.inference.torch_predictor import TorchPredictor
from ssd.inference.video import VIDEO_SUFFIXES
from ssd.inference.writers import save_image
from ssd.model.postprocess import PostProcess
from ssd.visualization.draw import draw
from ssd.weights import checkpoint

ImageLike = str | Path | np.ndarray | Image.Image


def load(
    path: str | Path,
    *,
    score_threshold: float | None = None,
    max_detections: int | None = None,
    device: str = "auto",
    precision: str = "float32",
    tile: int | None = None,
) -> Detector:
    """Loads a detector from a checkpoint: `model.safetensors`, a `.ckpt`, or an exported `.onnx`.

    Args:
        path: the checkpoint file; no other file is needed.
        score_threshold: detections have a score above it, 0..1; None: those of the file for each class, or 0.3.
        max_detections: limit per image, at least 1; None: the default of `PostProcess`.
        device: `cpu`, `cuda`, ..., or `auto`.
        precision: one of `ssd.inference.torch_predictor.PRECISIONS`.
        tile: also detect in overlapping tiles of this side in pixels, see `ssd.inference.tiles`; None: do not.

    Raises:
        CheckpointError: not a supported checkpoint, or damaged.
        ConfigError: unknown device or precision; a threshold, limit or tile out of range.
        MachineError: the device is not available.
    """
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise ConfigError(f"score_threshold={score_threshold}: must be between 0 and 1")
    if max_detections is not None and max_detections < 1:
        raise ConfigError(f"max_detections={max_detections}: must be at least 1")
    postprocess = PostProcess() if score_threshold is None else PostProcess(score_threshold=score_threshold)
    postprocess.max_detections = max(postprocess.max_detections, max_detections or 0)
    predictor = open_predictor(path, postprocess, device=device, precision=precision, tile=tile)
    detector = Detector(predictor, score_threshold=score_threshold, max_detections=max_detections)
    postprocess.score_threshold = min(detector.thresholds.values())  # lower scores need no NMS
    return detector


def open_predictor(
    path: str | Path,
    postprocess: PostProcess,
    *,
    device: str = "auto",
    precision: str = "float32",
    explicit_overrides: Collection[str] = (),
    tile: int | None = None,
    batch_size: int = 8,
) -> Predictor:
    """A predictor for the checkpoint at `path`: PyTorch, or ONNX Runtime for an `.onnx`.

    An exported file contains its own post-processing; a threshold or limit given here can only drop more detections.

    Args:
        path, postprocess, device, precision, tile: see `load`.
        explicit_overrides: settings of `postprocess` that the user gave, so they must not be ignored.
        batch_size: tiles at a time.

    Raises:
        CheckpointError, MachineError: see `load`.
        ConfigError: see `load`; or an exported file has another value for one of `explicit_overrides`.
    """
    if Path(path).suffix != ".onnx":
        network = TorchPredictor(checkpoint.load(path), postprocess, device=device, precision=precision)
        return tiled(network, postprocess, tile=tile, batch_size=batch_size)
    if device not in ("auto", "cpu") or precision != "float32":
        raise ConfigError(f"{path}: runs on the CPU in float32; remove device={device} precision={precision}")
    predictor = OnnxPredictor(
        path, score_threshold=postprocess.score_threshold, max_detections=postprocess.max_detections
    )
    for name in ("nms_threshold", "topk_candidates"):  # fixed in the graph
        exported, requested = predictor.postprocess.get(name), getattr(postprocess, name)
        if name in explicit_overrides and exported not in (None, requested):
            raise ConfigError(
                f"{path}: was exported with {name}={exported:g}, which cannot change to {requested:g}: "
                f"remove postprocess.{name}, or export it again with that value"
            )
    return tiled(predictor, predictor.narrow(postprocess), tile=tile, batch_size=batch_size)


class Detector:
    """Detects objects in images.

    An image is a file path, a uint8 RGB array [H, W, 3], or a Pillow image; a list of images gives a list of results.
    `class_names` are the C classes, in the order of the labels; `thresholds` the scores above which they are detected.
    """

    def __init__(
        self, predictor: Predictor, *, score_threshold: float | None = None, max_detections: int | None = None
    ) -> None:
        self._predictor = predictor
        self._max_detections = max_detections
        self._thresholds = thresholds_of(predictor, score_threshold)
        self.class_names = predictor.class_names

    @property
    def thresholds(self) -> dict[str, float]:
        """By class."""
        return dict(zip(self.class_names, self._thresholds.tolist(), strict=True))

    @overload
    def __call__(self, images: ImageLike) -> ImageDetections: ...

    @overload
    def __call__(self, images: list[Any]) -> list[ImageDetections]: ...

    def __call__(self, images: ImageLike | list[Any]) -> ImageDetections | list[ImageDetections]:
        """The detections of one image, or of each image of a list, which is one batch.

        Raises:
            DataError: not an image, or it cannot be read.
        """
        if not isinstance(images, list | tuple):
            return self([images])[0]
        arrays = [_to_array(image) for image in images]
        sources = [str(image) if isinstance(image, str | Path) else "" for image in images]
        # the limit last, or boxes below the threshold of their class would take the places of others
        found = [item.above(self._thresholds).first(self._max_detections) for item in self._predictor(arrays)]
        results = zip(arrays, found, sources, strict=True)
        return [ImageDetections(*result, self.class_names) for result in results]


@dataclass(frozen=True, slots=True)
class ImageDetections:
    """An image and its detections, scores descending."""

    image: ImageArray
    detections: Detections
    source: str
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.detections)

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        listed = ", ".join(f"{item['label']} {item['score']:.2f}" for item in self.records()[:8])
        return f"<{len(self)} detections in {self.source or 'an image'} of {width}x{height}{listed and f': {listed}'}>"

    @property
    def boxes(self) -> Float32[np.ndarray, "D 4"]:
        """xyxy in pixels."""
        height, width = self.image.shape[:2]
        return self.detections.boxes.numpy() * np.array([width, height, width, height], np.float32)

    @property
    def scores(self) -> Float32[np.ndarray, "D"]:
        """0..1, descending."""
        return self.detections.scores.numpy()

    @property
    def class_ids(self) -> Int64[np.ndarray, "D"]:
        """Indices into `class_names`."""
        return self.detections.labels.numpy()

    @property
    def labels(self) -> list[str]:
        """Class names."""
        return [self.class_names[label] for label in self.class_ids]

    def records(self) -> list[dict[str, Any]]:
        """`label`, `class_id`, `score` and `box` (xyxy in pixels) of each detection, for example for a data frame."""
        return list(self.to_dict()["detections"])

    def to_dict(self) -> dict[str, Any]:
        """The content of a line of predictions.jsonl."""
        size = self.image.shape[:2]
        return to_record(self.detections, source=self.source, frame=None, size=size, class_names=self.class_names)

    def draw(self, path: str | Path | None = None) -> ImageArray:
        """The image with its boxes; also saved to `path` (.jpg or .png), whose folder is created if missing.

        Raises:
            ConfigError: the suffix is not that of an image.
            MachineError: the file cannot be written.
        """
        drawn = draw(self.image, self.detections, self.class_names)
        try:
            if path is not None:
                save_image(drawn, Path(path))
        except OSError as error:
            raise MachineError(f"{path}: cannot be written: {error.strerror or error}; give another path") from error
        return drawn

    def _repr_png_(self) -> bytes | None:  # how a notebook displays it
        return Image.fromarray(self.draw())._repr_png_()


def _to_array(image: ImageLike) -> ImageArray:
    if isinstance(image, str | Path):
        return _read_file(image)
    if isinstance(image, Image.Image):
        return from_pillow(image, name="the image")
    if not isinstance(image, np.ndarray):
        raise DataError(f"{type(image).__name__}: give a path, a uint8 RGB array, a Pillow image, or a list of them")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise DataError(f"array of {image.dtype} {list(image.shape)}: give uint8 RGB [H, W, 3]")
    return image


def _read_file(path: str | Path) -> ImageArray:
    if "://" in str(path):
        raise DataError(
            f"{path}: URLs are not read here; give a file, a uint8 RGB array or a Pillow image, "
            "or use python predict.py checkpoint=FILE source=URL"
        )
    if Path(path).is_dir() or Path(path).suffix.lower() in VIDEO_SUFFIXES:
        raise DataError(f"{path}: not a single image; use python predict.py checkpoint=FILE source=...")
    if frame_kind(Path(path)) != "image":
        raise DataError(
            f"{path}: several frames or pages, not a single image; give [frame.copy() for frame in "
            "PIL.ImageSequence.Iterator(PIL.Image.open(path))], or use python predict.py checkpoint=FILE source=..."
        )
    return read_image(path)
