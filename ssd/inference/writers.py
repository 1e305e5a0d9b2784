"""Writes what predict produces: records, a table, images, crops and videos.

Records, tables and videos grow as `NAME.partial.SUFFIX` until they are complete. Unlike the temporary files of
`ssd.common.atomic_files`, these can be read meanwhile, and remain after an error: they hold the results so far.
"""

from __future__ import annotations

import csv
import json
import logging
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType

import torch
from PIL import Image

from ssd.common.atomic_files import write_atomically
from ssd.common.errors import ConfigError
from ssd.common.image_formats import IMAGE_SUFFIXES
from ssd.common.images import ImageArray
from ssd.inference.results import CSV_COLUMNS, FrameResult, csv_rows
from ssd.inference.sources import Frame, Medium
from ssd.inference.video import VideoWriter

SAVE_KINDS = ("images", "video", "json", "csv", "crops")

_DEFAULT_KINDS = {False: ("images", "json"), True: ("video", "json")}  # by Medium.is_video
_DRAWN_KIND = {False: "images", True: "video"}  # the kind whose file has the name of the medium
_TEXT_FILES = {"json": "predictions.jsonl", "csv": "predictions.csv"}
_JPEG_QUALITY = 92
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_log = logging.getLogger("ssd")


@contextmanager
def _deferred_signals() -> Iterator[None]:
    """Handles SIGINT and SIGTERM after the block; does nothing outside the main thread, which alone gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: received.append(number)) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        for received_number in received:
            signal.raise_signal(received_number)


class PredictionWriter:
    """Writes the output files of one predict run below `folder`.

    As a context manager it completes the files at the end, and after an interrupt; after an error they remain
    `NAME.partial.*`.

    Args:
        folder: created if missing.
        media: all media of the run, to check their output names before it starts.
        save: some of SAVE_KINDS; None: images with boxes for images and pages, a video for an animation or video, and
            json.

    Raises:
        ConfigError: an unknown kind, a source would be overwritten, two results would have the same name, or nothing
            would be written.
    """

    def __init__(self, folder: Path, media: Sequence[Medium], *, save: Sequence[str] | None) -> None:
        _check_kinds(media, save)
        self._folder = folder
        self._kinds = _DEFAULT_KINDS if save is None else {False: save, True: save}
        self._video: tuple[Medium, VideoWriter] | None = None
        _check_names(
            folder, [medium for medium in media if _DRAWN_KIND[medium.is_video] in self._kinds[medium.is_video]]
        )
        folder.mkdir(parents=True, exist_ok=True)
        kinds = {kind for medium in media for kind in self._kinds[medium.is_video]}
        self._files = {kind: _TextFile(folder / name) for kind, name in _TEXT_FILES.items() if kind in kinds}
        if "csv" in kinds:
            csv.writer(self._files["csv"].file).writerow(CSV_COLUMNS)

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        complete = kind is None or not issubclass(kind, Exception)  # an interrupt is not an Exception
        for file in self._files.values():
            file.close(complete=complete)
        if self._video and complete:
            self._video[1].finish()

    @_deferred_signals()  # otherwise a record could exist without its frame in the video
    def write(self, result: FrameResult) -> None:
        """Writes one result; frames come in order. A signal takes effect after it."""
        frame, medium = result.frame, result.frame.medium
        kinds = self._kinds[medium.is_video]
        if "json" in kinds:
            self._files["json"].file.write(json.dumps(result.record, ensure_ascii=False) + "\n")
        if "csv" in kinds:
            csv.writer(self._files["csv"].file).writerows(csv_rows(result.record))
        if "crops" in kinds:
            _save_crops(result, self._folder / "crops")
        if "images" in kinds:
            save_image(result.drawn, self._folder / _image_name(medium, frame.number))
        if "video" in kinds and medium.is_video:
            self._video_writer(frame).write(result.drawn)

    def _video_writer(self, frame: Frame) -> VideoWriter:
        if self._video is None or self._video[0] is not frame.medium:
            if self._video:
                self._video[1].finish()
            path = self._folder / _video_name(frame.medium.name)
            self._video = frame.medium, VideoWriter(path, rate=frame.rate or 0.0, size=frame.image.shape[:2])
        return self._video[1]


class _TextFile:
    """A text file whose lines can be read as soon as they are written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.stem}.partial{path.suffix}")
        self.file = self._partial.open("w", encoding="utf-8", newline="", buffering=1)

    def close(self, *, complete: bool) -> None:
        self.file.close()
        if complete:
            self._partial.replace(self._path)
        elif not self._partial.stat().st_size:
            self._partial.unlink()


def _check_kinds(media: Sequence[Medium], save: Sequence[str] | None) -> None:
    if save is None:
        return
    unknown = sorted(set(save) - set(SAVE_KINDS))
    if unknown:
        raise ConfigError(f"save={unknown[0]}: unknown; use some of {', '.join(SAVE_KINDS)}")
    if not save:
        raise ConfigError(f"save=[]: nothing would be written; use some of {', '.join(SAVE_KINDS)}")
    if "video" in save and not any(medium.is_video for medium in media):
        if set(save) == {"video"}:
            raise ConfigError("save=video: the source has no video, so nothing would be written; use save=images")
        _log.warning("save=video: the source has no video, so none is written")


def _check_names(folder: Path, media: Sequence[Medium]) -> None:
    """Checks the output paths of the media that are drawn."""
    drawn: dict[Path, Medium] = {}
    for medium in media:
        first = 0 if medium.kind == "pages" else None
        name = _video_name(medium.name) if medium.is_video else _image_name(medium, first)
        path = (folder / name).resolve()
        if isinstance(medium.path, Path) and path == medium.path.resolve():
            raise ConfigError(f"output={folder} would overwrite {medium.path}; give another folder")
        if path in drawn:
            raise ConfigError(
                f"{drawn[path].source} and {medium.source} would both be written to {path}; predict one at a time"
            )
        drawn[path] = medium


def _video_name(name: Path) -> Path:
    return name if name.suffix.lower() == ".mp4" else name.with_name(f"{name.name}.mp4")


def _image_name(medium: Medium, number: int | None) -> Path:
    name = medium.name
    if number is not None:
        return name.with_name(f"{name.name}_frames") / f"{number:06}.jpg"
    return name if name.suffix.lower() in IMAGE_SUFFIXES else name.with_name(f"{name.name}.jpg")


def save_image(image: ImageArray, path: Path) -> None:
    """Saves an image in the format of its suffix, atomically.

    Raises:
        ConfigError: the suffix is not that of an image.
    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    if path.suffix.lower() not in IMAGE_SUFFIXES or kind not in Image.SAVE:
        raise ConfigError(f"{path}: give a name that ends in .jpg or .png")
    save = partial(Image.fromarray(image).save, format=kind, quality=_JPEG_QUALITY)
    write_atomically(path, save, durable=False)


def _save_crops(result: FrameResult, folder: Path) -> None:
    """Saves each shown detection as CLASS/NAME_INDEX.jpg, with its index in the record."""
    image, name = result.frame.image, result.frame.medium.name
    height, width = image.shape[:2]
    frame = "" if result.frame.number is None else f"_{result.frame.number:06}"
    scale = torch.tensor([width, height, width, height])
    for index in result.shown.nonzero().flatten().tolist():
        x1, y1, x2, y2 = (result.detections.boxes[index] * scale).round().int().tolist()
        crop = image[min(y1, height - 1) : max(y1 + 1, y2), min(x1, width - 1) : max(x1 + 1, x2)]
        label = result.class_names[int(result.detections.labels[index])]
        safe_label = re.sub(r"[^\w -]", "_", label).strip() or "_"
        save_image(crop, folder / safe_label / name.with_name(f"{name.name}{frame}_{index:03}.jpg"))
