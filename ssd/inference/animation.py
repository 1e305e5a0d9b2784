"""Reads animations frame by frame, and multi-page TIFF files page by page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from ssd.common.animations import each_frame, open_frames, read_headers, seconds
from ssd.common.errors import DataError, PartialError
from ssd.common.image_header import check_size
from ssd.common.images import ImageArray, from_pillow


@dataclass(frozen=True, slots=True)
class AnimationFrame:
    """A frame or page: its number from 0, and the seconds since the start of the animation (None for a page)."""

    image: ImageArray
    number: int
    time_s: float | None


class AnimationReader:
    """Iterates over the frames of an animation, or the pages of a TIFF.

    `frame_count` is the number of frames by their headers, and `rate` their mean number per second; both are None for
    pages. Error messages use `name`.

    Raises:
        DataError: missing or unreadable.
    """

    def __init__(self, path: Path, *, pages: bool, name: str) -> None:
        self._path, self._name = path, name
        self._headers = None if pages else read_headers(path)  # to count pages takes as long as to step through them
        self.frame_count = self._headers.count if self._headers else None
        self.rate = self._headers.rate if self._headers else None

    def __iter__(self) -> Iterator[AnimationFrame]:
        """Yields the frames, one in memory at a time; skips damaged pages, and ends at a damaged frame.

        Raises:
            DataError: at the end, if there was no frame.
            PartialError: at the end, if the file is truncated or damaged.
        """
        count, time_s, error = 0, 0.0, None
        with open_frames(self._path, name=self._name) as image:
            for number, frame in enumerate(self._decoded(image)):
                if isinstance(frame, DataError):
                    error = error or frame
                    continue
                count += 1
                yield AnimationFrame(frame, number, time_s if self._headers else None)
                time_s += seconds(image.info.get("duration", 0))
            declared = image.n_frames - image.default_image if isinstance(image, PngImageFile) else 0
        if count == 0:
            raise error or DataError(f"{self._name}: no frame can be decoded; replace the file")
        headers = self._headers or (read_headers(self._path) if error else None)
        if headers and (error or headers.truncated or count < max(headers.count, declared)):
            at_least = "at least " if headers.truncated and not declared else ""
            reason = str(error).removeprefix(f"{self._name}: ") if error else "the file is truncated or damaged"
            total = max(count, headers.count, declared)
            raise PartialError(f"{self._name}: {count} of {at_least}{total} frames; {reason}")

    def _decoded(self, image: Image.Image) -> Iterator[ImageArray | DataError]:
        try:
            for _ in each_frame(image, name=self._name):
                try:
                    check_size(image, self._name)
                    yield from_pillow(image, name=self._name)
                except DataError as error:
                    yield error
                    if self._headers:  # the next frame is drawn over it
                        return
        except DataError as error:
            yield error
