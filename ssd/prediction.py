"""Runs a predictor over files and writes what it finds."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from ssd.draw import draw
from ssd.errors import ConfigError, DataError, MachineError, PartialError, SSDError
from ssd.images import IMAGE_SUFFIXES, Picture, read_image
from ssd.predictor import Predictor, as_record
from ssd.sources import PictureFile

_log = logging.getLogger("ssd")


def predict_pictures(
    predictor: Predictor, pictures: Sequence[PictureFile], *, output: str, batch_size: int, draw_threshold: float
) -> None:
    """Writes `output`/predictions.jsonl, a line a picture, and each picture with its boxes under its own name.

    Raises:
        ConfigError: a picture would be overwritten.
        PartialError: some pictures could not be read; the others are written.
        MachineError: the output cannot be written.
    """
    folder = Path(output)
    for picture in pictures:
        if (folder / picture.name).resolve() == picture.path.resolve():
            raise ConfigError(f"output={output} would overwrite {picture.path}; give another folder")
    failed: list[str] = []
    objects = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "predictions.jsonl").open("w", encoding="utf-8") as lines:
            for batch in _chunks(pictures, batch_size):
                readable = list(_read(batch, failed))
                found = predictor([image for _, image in readable])
                for (picture, image), detections in zip(readable, found, strict=True):
                    record = as_record(
                        detections,
                        source=str(picture.path),
                        frame=None,
                        size=image.shape[:2],
                        class_names=predictor.class_names,
                    )
                    lines.write(json.dumps(record, ensure_ascii=False) + "\n")
                    shown = detections.above(draw_threshold)
                    objects += len(shown)
                    _save(draw(image, shown, predictor.class_names), folder / picture.name)
    except OSError as error:
        raise MachineError(f"output={output}: cannot be written: {error.strerror or error}") from error
    _log.info("%d pictures, %d objects over %g -> %s", len(pictures) - len(failed), objects, draw_threshold, folder)
    if failed:
        kind = PartialError if len(failed) < len(pictures) else DataError
        raise kind(f"{len(failed)} of {len(pictures)} pictures could not be read: {'; '.join(failed[:5])}")


def _chunks(pictures: Sequence[PictureFile], size: int) -> Iterator[Sequence[PictureFile]]:
    for start in range(0, len(pictures), size):
        yield pictures[start : start + size]


def _read(batch: Sequence[PictureFile], failed: list[str]) -> Iterator[tuple[PictureFile, Picture]]:
    for picture in batch:
        try:
            yield picture, read_image(picture.path)
        except SSDError as error:
            failed.append(str(error))


def _save(image: Picture, path: Path) -> None:
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        path = path.with_name(f"{path.name}.jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=92)
