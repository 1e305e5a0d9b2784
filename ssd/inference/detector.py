"""For notebooks and other programs: `ssd.load("model.safetensors")("street.jpg").draw("out.jpg")`."""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Float32, Int64
from omegaconf import OmegaConf
from PIL import Image

from ssd.cli.config import CONF
from ssd.common.errors import ConfigError, DataError, MachineError
from ssd.common.images import ImageArray, from_pillow, read_image
from ssd.inference.onnx_predictor import OnnxPredictor
from ssd.inference.torch_predictor import ImagePredictor, Predictor, as_record
from ssd.inference.video import VIDEO_SUFFIXES
from ssd.inference.writers import save_image
from ssd.model.postprocess import PostProcess
from ssd.model.structures import Detections
from ssd.visualization.draw import draw
from ssd.weights import checkpoint

_BAKED_IN = ("iou_threshold", "candidates")  # of an exported file

ImageLike = str | Path | np.ndarray | Image.Image


def load(
    path: str | Path,
    *,
    score_threshold: float | None = None,
    max_detections: int | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> Detector:
    """A detector from a checkpoint: `model.safetensors`, a `.ckpt`, or an exported `.onnx`.

    Args:
        path: the file; nothing else is needed.
        score_threshold: detections have a score over it; None: `draw_threshold` of conf/predict.yaml.
        max_detections: kept for an image; None: that of conf/postprocess/default.yaml.
        device: `cpu`, `cuda`, ..., or `auto`.
        precision: see `ssd.inference.torch_predictor.PRECISIONS`.

    Raises:
        CheckpointError: no checkpoint of ours, or damaged.
        ConfigError, MachineError: no such device or precision; a threshold or limit out of its range.
    """
    settings = OmegaConf.load(CONF / "postprocess" / "default.yaml")
    if score_threshold is None:
        score_threshold = float(OmegaConf.load(CONF / "predict.yaml").draw_threshold)
    limit = settings.max_detections if max_detections is None else max_detections
    if not 0 <= score_threshold <= 1:
        raise ConfigError(f"score_threshold={score_threshold}: must be from 0 up to 1")
    if limit < 1:
        raise ConfigError(f"max_detections={limit}: must be from 1")
    postprocess = PostProcess(
        score_threshold=score_threshold,
        iou_threshold=settings.iou_threshold,
        candidates=settings.candidates,
        max_detections=limit,
    )
    predictor = open_predictor(path, postprocess, device=device, precision=precision)
    return Detector(predictor, score_threshold=score_threshold)


def open_predictor(
    path: str | Path,
    postprocess: PostProcess,
    *,
    device: str = "auto",
    precision: str = "float32",
    explicit_overrides: Collection[str] = (),
) -> ImagePredictor:
    """What runs the checkpoint at `path`: PyTorch, or ONNX Runtime for an `.onnx`.

    An exported file has its own post-processing inside, and a threshold or limit given here can only leave out more.

    Args:
        path, postprocess, device, precision: see `load`.
        explicit_overrides: names of settings of `postprocess` that may not be passed over.

    Raises:
        CheckpointError, ConfigError, MachineError: see `load`; or an exported file has another value of one of
            `explicit_overrides`.
    """
    if Path(path).suffix == ".onnx":
        if device not in ("auto", "cpu") or precision != "float32":
            raise ConfigError(f"{path}: runs on the CPU in float32; leave out device={device} precision={precision}")
        predictor = OnnxPredictor(
            path, score_threshold=postprocess.score_threshold, max_detections=postprocess.max_detections
        )
        for name in _BAKED_IN:
            inside, wanted = predictor.postprocess.get(name), getattr(postprocess, name)
            if name in explicit_overrides and inside not in (None, wanted):
                raise ConfigError(
                    f"{path}: was exported with {name}={inside:g}, which cannot become {wanted:g}: "
                    f"leave out postprocess.{name}, or export it again with it"
                )
        return predictor
    return Predictor(checkpoint.load(path), postprocess, device=device, precision=precision)


class Detector:
    """Finds objects in images.

    An image is the path of a file, a uint8 RGB array [H, W, 3], or a Pillow image; a list of them gives a list.

    Args:
        predictor: see `open_predictor`.
        score_threshold: detections have a score over it, also where the predictor has a lower one of its own.
    """

    def __init__(self, predictor: ImagePredictor, *, score_threshold: float) -> None:
        self._predictor = predictor
        self._score_threshold = score_threshold

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that it knows."""
        return self._predictor.class_names

    @overload
    def __call__(self, images: ImageLike) -> ImageDetections: ...

    @overload
    def __call__(self, images: list[Any]) -> list[ImageDetections]: ...

    def __call__(self, images: ImageLike | list[Any]) -> ImageDetections | list[ImageDetections]:
        """The detections of one image, or of each of a list, which is one batch.

        Raises:
            DataError: no image, or one that cannot be read.
        """
        if not isinstance(images, list | tuple):
            return self([images])[0]
        arrays = [_as_image(image) for image in images]
        sources = [str(image) if isinstance(image, str | Path) else "" for image in images]
        found = [detections.above(self._score_threshold) for detections in self._predictor(arrays)]
        return [ImageDetections(*result, self.class_names) for result in zip(arrays, found, sources, strict=True)]


@dataclass(frozen=True, slots=True)
class ImageDetections:
    """An image and what was found in it, the best first."""

    image: ImageArray
    detections: Detections
    source: str
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.detections)

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        found = ", ".join(f"{item['label']} {item['score']:.2f}" for item in self.records()[:8])
        return f"<{len(self)} detections in {self.source or 'an image'} of {width}x{height}: {found}>"

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
        """Places in `class_names`."""
        return self.detections.labels.numpy()

    @property
    def labels(self) -> list[str]:
        """Names of the classes."""
        return [self.class_names[label] for label in self.class_ids]

    def records(self) -> list[dict[str, Any]]:
        """`label`, `class_id`, `score` and `box` (xyxy in pixels) of each; goes into a data frame."""
        return list(self.to_dict()["detections"])

    def to_dict(self) -> dict[str, Any]:
        """As a line of predictions.jsonl."""
        return as_record(
            self.detections,
            source=self.source,
            frame=None,
            size=self.image.shape[:2],
            class_names=self.class_names,
        )

    def draw(self, path: str | Path | None = None) -> ImageArray:
        """The image with its boxes, also written to `path`, whose folder is made where it is missing.

        Raises:
            ConfigError: a name that is not that of an image.
            MachineError: it cannot be written.
        """
        arrays = (self.detections.boxes.numpy(), self.detections.labels.numpy(), self.detections.scores.numpy())
        drawn = draw(self.image, *arrays, self.class_names)
        try:
            if path is not None:
                save_image(drawn, Path(path))
        except OSError as error:
            raise MachineError(f"{path}: cannot be written: {error.strerror or error}; name another place") from error
        return drawn

    def _repr_png_(self) -> bytes:  # what a notebook shows
        data = io.BytesIO()
        Image.fromarray(self.draw()).save(data, "png")
        return data.getvalue()


def _as_image(image: ImageLike) -> ImageArray:
    if isinstance(image, str | Path):
        if "://" in str(image):
            raise DataError(
                f"{image}: an address; give a file, a uint8 RGB array or a Pillow image, "
                "or fetch it by python predict.py checkpoint=FILE source=..."
            )
        if Path(image).is_dir() or Path(image).suffix.lower() in VIDEO_SUFFIXES:
            raise DataError(f"{image}: not one image; python predict.py checkpoint=FILE source=... takes it")
        return read_image(image)
    if isinstance(image, Image.Image):
        return from_pillow(image, name="the image")
    if not isinstance(image, np.ndarray):
        raise DataError(f"{type(image).__name__}: give a path, a uint8 RGB array, a Pillow image, or a list of them")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise DataError(f"an array of {image.dtype} {list(image.shape)}: give uint8 RGB [H, W, 3]")
    return image
