"""Reads, detects and writes at the same time: what predict.py does with its parts."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from itertools import chain, islice
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TypeVar

import torch
from torch import Tensor

from ssd.common.atomic_files import write_atomically
from ssd.common.class_names import class_index
from ssd.common.errors import ConfigError, DataError, MachineError, PartialError
from ssd.common.progress import FrameProgress
from ssd.inference.sources import Frame, Medium, Reading, count_frames, read_frames
from ssd.inference.torch_predictor import ImagePredictor
from ssd.inference.tracking import Tracker
from ssd.inference.writers import Outputs, Result, Window
from ssd.model.structures import Detections

T = TypeVar("T")

_WAKE_S = 0.1  # how soon a thread that waits notices that nobody wants more
_FAREWELL_S = 10.0


def prefetched(items: Generator[T, None, None], *, depth: int) -> Generator[T, None, None]:
    """Yields `items` in order, produced in a thread of its own, at most `depth` of them ahead.

    An error in `items` is raised here, after the items before it. Closing this generator closes `items`, too.
    """
    ready: Queue[tuple[T] | BaseException | None] = Queue(depth)
    enough = Event()

    def put(entry: tuple[T] | BaseException | None) -> None:
        while not enough.is_set():
            with suppress(Full):
                ready.put(entry, timeout=_WAKE_S)
                return

    def produce() -> None:
        try:
            for item in items:
                put((item,))
                if enough.is_set():
                    break
            items.close()
            put(None)
        except BaseException as error:  # a thread's error would only be printed
            put(error)

    thread = Thread(target=produce, daemon=True)
    thread.start()
    try:
        while (entry := _next(ready)) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
    finally:
        enough.set()
        thread.join(_FAREWELL_S)


def _next(queue: Queue[T]) -> T:
    while True:  # without a time-out, Ctrl-C would not reach a waiting thread on Windows
        with suppress(Empty):
            return queue.get(timeout=_WAKE_S)


_log = logging.getLogger("ssd")
_BATCH_PIXELS = 5 * 10**7  # whole images wait in as many as five batches
_MOST_LISTED = 5

FAILED_FILE = "failed.txt"  # in the output: a line for each file that could not be read whole


def predict_media(
    predictor: ImagePredictor,
    media: Sequence[Medium],
    *,
    output: str,
    save: Sequence[str] | None,
    classes: Sequence[str] | None,
    draw_threshold: float,
    batch_size: int,
    max_frames: int | None,
    track: bool,
    show: bool,
) -> None:
    """Writes into the folder `output` what `save` names (see `Outputs`).

    Args:
        classes: only these are kept; None: all.
        draw_threshold: detections over it are drawn and cut out; with `track`, those that are tracked.
        max_frames: read, of all media together.
        show: also in a window.

    Raises:
        ConfigError: an unknown class, or a source that would be overwritten.
        DataError: nothing could be read.
        PartialError: something could not be read (whole); the rest is written.
        MachineError: the output cannot be written.
    """
    choose = _Choice(predictor.class_names, classes=classes, draw_threshold=draw_threshold, track=track)
    if track and not any(medium.is_video for medium in media):
        _log.warning("track=true: the source has no video, so nothing is followed")
    window = Window() if show else None
    reading = Reading()
    batches = prefetched(_batches(islice(read_frames(media, reading), max_frames), batch_size), depth=1)
    found = prefetched(_detect(predictor, batches), depth=1)
    meter = FrameProgress(total=_expected(media, max_frames))
    try:
        with Outputs(Path(output), media, save=save) as outputs, closing(found), meter:
            for frame, detections in chain.from_iterable(found):
                result = choose(frame, detections)
                outputs.add(result)
                meter.step(str(frame.medium.name), objects=int(result.shown.sum()))
                if window and not window.show(result.drawn):
                    break
            listed = _listed(reading, Path(output))
            if listed and meter.frames == 0:
                raise DataError(listed)
    except OSError as error:
        raise MachineError(
            f"output={output}: cannot be written: {error.strerror or error}; name another folder"
        ) from error
    finally:
        if meter.frames:
            _log.info("%s -> %s", meter.summary(), output)
    if listed:
        raise PartialError(listed)


class _Choice:
    """From detections to results: the classes that are asked for, what is shown, and tracks within each video."""

    def __init__(
        self, class_names: tuple[str, ...], *, classes: Sequence[str] | None, draw_threshold: float, track: bool
    ) -> None:
        self._class_names = class_names
        self._labels = _labels(classes, class_names)
        self._threshold = draw_threshold
        self._track = track
        self._medium: Medium | None = None
        self._tracker: Tracker | None = None

    def __call__(self, frame: Frame, detections: Detections) -> Result:
        detections = detections.where(torch.isin(detections.labels, self._labels))
        ids = self._follow(frame, detections)
        if ids is None:
            shown = detections.scores > self._threshold
        else:
            shown = torch.tensor([number is not None for number in ids], dtype=torch.bool)
        return Result(frame, detections, shown, ids, self._class_names)

    def _follow(self, frame: Frame, detections: Detections) -> tuple[int | None, ...] | None:
        if not self._track or frame.rate is None:
            return None
        if self._tracker is None or self._medium is not frame.medium:
            self._medium, self._tracker = frame.medium, Tracker(rate=frame.rate, start_score=self._threshold)
        return self._tracker(detections, size=frame.image.shape[:2])


def _labels(classes: Sequence[str] | None, class_names: Sequence[str]) -> Tensor:
    places = []
    for name in class_names if classes is None else classes:
        place = class_index(name, class_names)
        if place is None:
            near = difflib.get_close_matches(name, class_names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(class_names[:20])}"
            raise ConfigError(f"classes: the checkpoint has no class {name}; {hint}")
        places.append(place)
    return torch.tensor(places, dtype=torch.int64)


def _batches(frames: Iterable[Frame], size: int) -> Generator[list[Frame], None, None]:
    batch: list[Frame] = []
    pixels = 0
    for frame in frames:
        batch.append(frame)
        pixels += frame.image.shape[0] * frame.image.shape[1]
        if len(batch) == size or pixels > _BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _detect(
    predictor: ImagePredictor, batches: Generator[list[Frame], None, None]
) -> Generator[list[tuple[Frame, Detections]], None, None]:
    with closing(batches):
        for batch in batches:
            yield list(zip(batch, predictor([frame.image for frame in batch]), strict=True))


def _expected(media: Sequence[Medium], max_frames: int | None) -> int | None:
    count = count_frames(media)
    return min((number for number in (count, max_frames) if number is not None), default=None)


def _listed(reading: Reading, output: Path) -> str:
    """What is wrong with the files, in one line; where there were several files, all of it is in FAILED_FILE."""
    failed, path = reading.failed, output / FAILED_FILE
    if not failed or reading.begun == 1:
        path.unlink(missing_ok=True)
        return "".join(failed)
    text = "".join(f"{' '.join(line.split())}\n" for line in failed)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    more = f"; and {len(failed) - _MOST_LISTED} more" if len(failed) > _MOST_LISTED else ""
    listed = "; ".join(failed[:_MOST_LISTED]) + more
    return f"{len(failed)} of {reading.begun} files could not be read whole (all are in {path}): {listed}"
