"""Images and videos to predict on, and a predictor that detects white squares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from ssd.common.images import ImageArray
from ssd.common.structures import Detections
from ssd.inference.predict_media import PredictOptions, predict_media
from ssd.inference.predictor import Predictor
from ssd.inference.sources import find_media
from ssd.inference.video import VideoWriter

HEIGHT, WIDTH = 45, 70
SQUARE = 12
OPTIONS: dict[str, Any] = {"draw_threshold": 0.0, "batch_size": 2}


class WhiteSquarePredictor:
    """Detects the white square of `square_at`."""

    class_names = ("square", "dot")
    thresholds = None

    def __call__(self, images: Sequence[ImageArray]) -> list[Detections]:
        return [self._detect(image) for image in images]

    def _detect(self, image: ImageArray) -> Detections:
        height, width = image.shape[:2]
        rows, columns = np.nonzero(image.min(axis=2) > 200)
        if not len(rows):
            return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
        box = [columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height]
        return Detections(torch.tensor([box], dtype=torch.float32), torch.tensor([0.9]), torch.tensor([0]))


def write_image(path: Path, *, seed: int = 0) -> Path:
    """Writes an image of noise, HEIGHT x WIDTH."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def square_at(x: int, *, size: tuple[int, int]) -> ImageArray:
    """A white square on dark red, its left edge at `x`."""
    image = np.full((*size, 3), (90, 10, 10), np.uint8)
    image[10 : 10 + SQUARE, x : x + SQUARE] = 255
    return image


def square_x(frame: int) -> int:
    """The left edge of the square in a frame; different in twenty successive frames."""
    return 8 + 7 * (frame % 20)


def write_video(path: Path, *, frames: int, rate: float = 12.5, size: tuple[int, int] = (64, 180)) -> Path:
    """Writes a video in which the square moves to the right."""
    writer = VideoWriter(path, rate=rate, size=size)
    for frame in range(frames):
        writer.write(square_at(square_x(frame), size=size))
    writer.finish()
    return path


def write_animation(
    path: Path, *, frames: int, durations_ms: Sequence[int] | None = None, size: tuple[int, int] = (64, 180)
) -> Path:
    """Writes an animation or a multi-page TIFF in the format of the suffix, in which the square moves to the right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = (Image.fromarray(square_at(square_x(frame), size=size)) for frame in range(frames))
    tiff = path.suffix in (".tif", ".tiff")
    durations = list(durations_ms or [80] * frames)
    first.save(path, save_all=True, append_images=others, **({} if tiff else {"duration": durations}))
    return path


def read_video(path: Path) -> tuple[list[ImageArray], float]:
    """(RGB frames, frames per second), read with OpenCV alone."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        read, frame = capture.read()
        if not read:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame[..., ::-1].copy())


def predict(predictor: Predictor, source: Path | str, output: Path, **options: Any) -> list[dict[str, Any]]:
    """Runs predict; returns the records."""
    media = find_media(str(source), downloads=output.parent, output=output)
    predict_media(predictor, media, output=str(output), options=PredictOptions(**(OPTIONS | options)))
    return read_records(output)


def read_records(output: Path) -> list[dict[str, Any]]:
    """The lines of predictions.jsonl, each of which must end with a newline."""
    text = (output / "predictions.jsonl").read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]
