"""What predict writes: records, a table, images, crops, videos. A file gets its name when it is whole."""

from __future__ import annotations

import csv
import json
import logging
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from ssd.common.errors import ConfigError, MachineError
from ssd.common.images import IMAGE_SUFFIXES, ImageArray
from ssd.inference.sources import Frame, Medium
from ssd.inference.torch_predictor import as_record
from ssd.inference.video import VideoWriter
from ssd.model.structures import Detections
from ssd.visualization.draw import draw

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """A signal that comes within the block is acted upon after it; only the main thread gets any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda sign, _: came.append(sign)) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        for sign in came:
            signal.raise_signal(sign)


_TITLE = "ssd: q closes"
_QUIT = (ord("q"), 27)  # Esc


class Window:
    """A window; use it from the main thread only.

    Raises:
        MachineError: this OpenCV has none, or there is no screen.
    """

    def __init__(self) -> None:
        try:
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error:
            raise MachineError(
                "show=true: no screen, or an OpenCV without windows: "
                "pip uninstall opencv-python-headless && pip install opencv-python"
            ) from None

    def show(self, image: ImageArray) -> bool:
        """Whether the user wants to see more."""
        cv2.imshow(_TITLE, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(1) not in _QUIT


KINDS = ("images", "video", "json", "csv", "crops")
CSV_COLUMNS = ("source", "frame", "track_id", "label", "class_id", "score", "x1", "y1", "x2", "y2")

_OF_IMAGES, _OF_VIDEOS = ("images", "json"), ("video", "json")  # what is written where nothing is asked for
_MEDIA_KIND = {False: "images", True: "video"}  # what of an image, and of a video, bears the name of its source
_log = logging.getLogger("ssd")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class Result:
    """A frame with all its detections; `shown` marks those to draw, count and cut out.

    `track_ids` are None without tracking, and for a detection that belongs to no track.
    """

    frame: Frame
    detections: Detections
    shown: Bool[Tensor, "D"]
    track_ids: tuple[int | None, ...] | None
    class_names: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """The line of predictions.jsonl; with tracking also the number of tracked objects by class."""
        record = as_record(
            self.detections,
            source=self.frame.medium.source,
            frame=self.frame.number,
            size=self.frame.image.shape[:2],
            class_names=self.class_names,
            track_ids=self.track_ids,
        )
        if self.track_ids is not None:
            tracked = Counter(item["label"] for item in record["detections"] if item["track_id"] is not None)
            record["counts"] = dict(sorted(tracked.items()))
        return record

    @cached_property
    def drawn(self) -> ImageArray:
        """The image with its boxes."""
        ids = None if self.track_ids is None else [self.track_ids[index] for index in self.shown.nonzero().flatten()]
        shown = self.detections.where(self.shown)
        arrays = (shown.boxes.numpy(), shown.labels.numpy(), shown.scores.numpy())
        return draw(self.frame.image, *arrays, self.class_names, track_ids=ids)


class Outputs:
    """The files of one call of predict, below `folder`.

    As a context manager it finishes them at the end, also of an interrupted run; after an error they stay
    `NAME.partial.*`.

    Args:
        folder: made where it is missing.
        media: what will be written about.
        save: some of KINDS; None: images with boxes for images, a video for a video, and json.

    Raises:
        ConfigError: a source would be overwritten, two results would have one name, or nothing would be written.
    """

    def __init__(self, folder: Path, media: Sequence[Medium], *, save: Sequence[str] | None) -> None:
        unknown = sorted(set(save or ()) - set(KINDS))
        if unknown:
            raise ConfigError(f"save={unknown[0]}: no such kind; there are {', '.join(KINDS)}")
        _check_kinds(media, save)
        _check_names(folder, [medium for medium in media if _MEDIA_KIND[medium.is_video] in _kinds(medium, save)])
        self._folder = folder
        self._save = save
        self._video: tuple[Medium, VideoWriter] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        kinds = {kind for medium in media for kind in _kinds(medium, save)}
        self._records = _TextFile(folder / "predictions.jsonl") if "json" in kinds else None
        self._table = _TextFile(folder / "predictions.csv") if "csv" in kinds else None
        if self._table:
            csv.writer(self._table.file).writerow(CSV_COLUMNS)

    def __enter__(self) -> Outputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        whole = kind is None or not issubclass(kind, Exception)
        for file in (self._records, self._table):
            if file:
                file.close(whole=whole)
        if self._video and whole:
            self._video[1].finish()

    def add(self, result: Result) -> None:
        """Writes what was asked for about one frame, also when it is interrupted meanwhile; frames come in order."""
        with deferred_signals():  # or there would be a record without its frame in the video
            self._add(result)

    def _add(self, result: Result) -> None:
        kinds = _kinds(result.frame.medium, self._save)
        if "json" in kinds and self._records:
            self._records.file.write(json.dumps(result.record(), ensure_ascii=False) + "\n")
        if "csv" in kinds and self._table:
            csv.writer(self._table.file).writerows(_rows(result.record()))
        if "crops" in kinds:
            _save_crops(result, self._folder / "crops")
        if "images" in kinds:
            save_image(result.drawn, self._folder / _image_name(result.frame.medium, result.frame.number))
        if "video" in kinds and result.frame.medium.is_video:
            self._writer(result.frame).write(result.drawn)

    def _writer(self, frame: Frame) -> VideoWriter:
        if self._video is None or self._video[0] is not frame.medium:
            if self._video:
                self._video[1].finish()
            path = self._folder / _video_name(frame.medium.name)
            writer = VideoWriter(path, rate=frame.rate or 0.0, size=frame.image.shape[:2])
            self._video = frame.medium, writer
        return self._video[1]


class _TextFile:
    """Lines that can be read as soon as they are written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = _partial(path)
        self.file = self._partial.open("w", encoding="utf-8", newline="", buffering=1)

    def close(self, *, whole: bool) -> None:
        self.file.close()
        if whole:
            self._partial.replace(self._path)
        elif not self._partial.stat().st_size:
            self._partial.unlink()


def _kinds(medium: Medium, save: Sequence[str] | None) -> Sequence[str]:
    return (_OF_VIDEOS if medium.is_video else _OF_IMAGES) if save is None else save


def _check_kinds(media: Sequence[Medium], save: Sequence[str] | None) -> None:
    if save is None:
        return
    if not save:
        raise ConfigError(f"save=[]: nothing would be written; choose some of {', '.join(KINDS)}")
    if "video" in save and not any(medium.is_video for medium in media):
        if set(save) == {"video"}:
            raise ConfigError("save=video: the source has no video, so nothing would be written; use save=images")
        _log.warning("save=video: the source has no video, so none is written")


def _check_names(folder: Path, media: Sequence[Medium]) -> None:
    """Of what is drawn."""
    names: dict[Path, Medium] = {}
    for medium in media:
        name = _video_name(medium.name) if medium.is_video else _image_name(medium, None)
        path = (folder / name).resolve()
        if isinstance(medium.path, Path) and path == medium.path.resolve():
            raise ConfigError(f"output={folder} would overwrite {medium.path}; give another folder")
        if path in names:
            raise ConfigError(f"{names[path].source} and {medium.source} would both be {path}; predict one at a time")
        names[path] = medium


def _video_name(name: Path) -> Path:
    return name if name.suffix.lower() == ".mp4" else name.with_name(f"{name.name}.mp4")


def _image_name(medium: Medium, number: int | None) -> Path:
    name = medium.name
    if number is not None:
        return name.with_name(f"{name.name}_frames") / f"{number:06}.jpg"
    return name if name.suffix.lower() in IMAGE_SUFFIXES else name.with_name(f"{name.name}.jpg")


def save_image(image: ImageArray, path: Path) -> None:
    """Writes an image in the format that its suffix names; not flushed to the disk, for that may cost 10 ms each."""
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise ConfigError(f"{path}: give a name that ends in .jpg or .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    Image.fromarray(image).save(partial, quality=_JPEG_QUALITY)
    partial.replace(path)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def _save_crops(result: Result, folder: Path) -> None:
    """What each shown detection frames, as CLASS/NAME_NUMBER.jpg; numbers are places in the record."""
    image, name = result.frame.image, result.frame.medium.name
    height, width = image.shape[:2]
    frame = "" if result.frame.number is None else f"_{result.frame.number:06}"
    scale = torch.tensor([width, height, width, height])
    for number in result.shown.nonzero().flatten().tolist():
        x1, y1, x2, y2 = (result.detections.boxes[number] * scale).round().int().tolist()
        crop = image[min(y1, height - 1) : max(y1 + 1, y2), min(x1, width - 1) : max(x1 + 1, x2)]
        label = result.class_names[int(result.detections.labels[number])]
        path = folder / _folder_name(label) / name.with_name(f"{name.name}{frame}_{number:03}.jpg")
        save_image(crop, path)


def _folder_name(label: str) -> str:
    return re.sub(r"[^\w -]", "_", label).strip() or "_"


def _rows(record: dict[str, Any]) -> list[list[Any]]:
    return [
        [
            _harmless(record["source"]),
            record["frame"],
            item.get("track_id"),
            _harmless(item["label"]),
            item["class_id"],
            item["score"],
            *item["box"],
        ]
        for item in record["detections"]
    ]


def _harmless(text: str) -> str:
    """Spreadsheets take text that begins so for a formula, and run it."""
    return f"'{text}" if text.startswith(_FORMULA) else text
