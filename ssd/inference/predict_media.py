"""Reads, detects and writes in parallel: the work of `ssd predict`."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ssd.common.atomic_files import write_atomically
from ssd.common.class_names import class_index
from ssd.common.errors import ConfigError, DataError, MachineError, PartialError
from ssd.common.progress import FrameProgress
from ssd.common.structures import Detections
from ssd.common.text import one_line
from ssd.inference.predictor import Predictor, describe_thresholds, thresholds_of
from ssd.inference.prefetch import prefetched
from ssd.inference.results import FrameResult
from ssd.inference.sources import Frame, Medium, ReadStatus, count_frames, read_frames
from ssd.inference.tracking import Tracker
from ssd.inference.video import Window
from ssd.inference.writers import PredictionWriter

FAILED_FILE = "failed.txt"  # in the output folder: a line for each unreadable or incomplete file
_MAX_BATCH_PIXELS = 5 * 10**7  # up to five batches of whole images are in memory
_MAX_LISTED = 5
_log = logging.getLogger("ssd")


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions:
    """What to keep, draw and save."""

    save: Sequence[str] | None = None  # see `PredictionWriter`
    classes: Sequence[str] | None = None  # keep only these; None: all
    draw_threshold: float | None = None  # draw and crop boxes above it; they start tracks. None: see `thresholds_of`
    batch_size: int = 8  # images or frames
    max_frames: int | None = None  # of all media together
    track: bool = False  # assign track ids to the objects of videos
    show: bool = False  # in a window as well


def predict_media(predictor: Predictor, media: Sequence[Medium], *, output: str, options: PredictOptions) -> None:
    """Writes the results for `media` into the folder `output`.

    Raises:
        ConfigError: an unknown class, or a source would be overwritten.
        DataError: no file could be read.
        PartialError: some files could not be read, or only in part; the rest is written.
        MachineError: the output cannot be written.
    """
    labels = _labels(options.classes, predictor.class_names)
    if options.track and not any(medium.is_video for medium in media):
        _log.warning("track=true: the source has no video, so nothing is tracked")
    thresholds = thresholds_of(predictor, options.draw_threshold)
    if options.draw_threshold is None and predictor.thresholds is not None:
        shown = describe_thresholds(predictor.class_names, predictor.thresholds)
        _log.info("boxes above the score thresholds of the file are drawn: %s", shown)
    window = Window() if options.show else None
    status = ReadStatus()
    frames = islice(read_frames(media, status), options.max_frames)
    batches = prefetched(_batches(frames, options.batch_size), depth=1)
    detected = prefetched(_detect(predictor, batches), depth=1)
    limits = (limit for limit in (count_frames(media), options.max_frames) if limit is not None)
    progress = FrameProgress(total=min(limits, default=None))
    try:
        with PredictionWriter(Path(output), media, save=options.save) as writer, closing(detected), progress:
            for result in _results(chain.from_iterable(detected), labels, predictor.class_names, options, thresholds):
                writer.write(result)
                progress.step(str(result.frame.medium.name), objects=int(result.shown.sum()))
                if window and not window.show(result.drawn):
                    break
            failure = _report_errors(status, Path(output))
            if failure and progress.frames == 0:
                raise DataError(failure)
    except OSError as error:
        raise MachineError(
            f"output={output}: cannot be written: {error.strerror or error}; give another folder"
        ) from error
    finally:
        if progress.frames:
            _log.info("%s -> %s", progress.summary(), output)
    if failure:
        raise PartialError(failure)


def _labels(classes: Sequence[str] | None, class_names: Sequence[str]) -> Int64[Tensor, "_"]:
    labels = []
    for name in class_names if classes is None else classes:
        label = class_index(name, class_names)
        if label is None:
            similar = difflib.get_close_matches(name, class_names, n=1)
            hint = f"did you mean {similar[0]}?" if similar else f"it has {', '.join(class_names[:20])}"
            raise ConfigError(f"classes={name}: the checkpoint has no such class; {hint}")
        labels.append(label)
    return torch.tensor(labels, dtype=torch.int64)


def _batches(frames: Iterable[Frame], size: int) -> Generator[list[Frame], None, None]:
    batch: list[Frame] = []
    pixels = 0
    for frame in frames:
        batch.append(frame)
        pixels += frame.image.shape[0] * frame.image.shape[1]
        if len(batch) == size or pixels > _MAX_BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _detect(
    predictor: Predictor, batches: Generator[list[Frame], None, None]
) -> Generator[list[tuple[Frame, Detections]], None, None]:
    with closing(batches):
        for batch in batches:
            yield list(zip(batch, predictor([frame.image for frame in batch]), strict=True))


def _results(
    detected: Iterable[tuple[Frame, Detections]],
    labels: Int64[Tensor, "_"],
    class_names: tuple[str, ...],
    options: PredictOptions,
    thresholds: Float[Tensor, "C"],
) -> Iterator[FrameResult]:
    """Keeps the detections of the classes `labels`, tracks them within each video, and marks those to show."""
    medium: Medium | None = None
    tracker: Tracker | None = None
    started: set[int] = set()  # tracks with a box above the threshold of its class
    for frame, detections in detected:
        detections = detections.where(torch.isin(detections.labels, labels))
        track_ids = None
        shown = detections.is_above(thresholds)
        if options.track and frame.rate is not None:
            if tracker is None or frame.medium is not medium:
                medium, started = frame.medium, set()
                tracker = Tracker(rate=frame.rate, start_score=float(thresholds.min()))
            ids = tracker(detections, size=frame.image.shape[:2])
            started |= {id for id, above in zip(ids, shown.tolist(), strict=True) if id is not None and above}
            track_ids = tuple(id if id in started else None for id in ids)
            shown = torch.tensor([track_id is not None for track_id in track_ids], dtype=torch.bool)
        yield FrameResult(frame, detections, shown, track_ids, class_names)


def _report_errors(status: ReadStatus, output: Path) -> str:
    """The read errors in one line, empty without any; if there were several files, FAILED_FILE lists all errors."""
    errors, path = status.errors, output / FAILED_FILE
    if not errors or status.opened == 1:
        path.unlink(missing_ok=True)
        return "".join(errors)
    text = "".join(f"{one_line(error)}\n" for error in errors)
    write_atomically(path, text)
    more = f"; and {len(errors) - _MAX_LISTED} more" if len(errors) > _MAX_LISTED else ""
    listed = "; ".join(errors[:_MAX_LISTED]) + more
    return f"{len(errors)} of {status.opened} files could not be read completely (see {path}): {listed}"
