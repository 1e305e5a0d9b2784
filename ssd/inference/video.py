"""Video files and cameras: images out of them, and images into an MP4."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2

from ssd.common.errors import DataError, MachineError, PartialError
from ssd.common.images import ImageArray

_FIRST = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_LARGEST_INDEX = 2**28  # bytes: an hour of video takes a few MB


def is_cut(path: Path) -> bool | None:
    """Whether the last box reaches beyond the end of the file; None for other containers."""
    boxes = list(_top_boxes(path))
    if not boxes or boxes[0][0] not in _FIRST:
        return None
    return boxes[-1][2] > path.stat().st_size


def hides_frames(path: Path) -> bool:
    """Whether an edit list leaves out more than a hundredth of the video: a trimmed clip counts what it hides."""
    kind, begin, end = next((box for box in _top_boxes(path) if box[0] == b"moov"), (b"", 0, 0))
    if not kind or end - begin > _LARGEST_INDEX:
        return True  # nobody knows
    with path.open("rb") as file:
        file.seek(begin)
        moov = file.read(end - begin)
    second = _duration(_inside(moov, b"mvhd"))[0]
    for track in _all_inside(moov, b"trak"):
        media = _inside(track, b"mdia")
        if _inside(media, b"hdlr")[8:12] == b"vide":
            edits = _edits(_inside(_inside(track, b"edts"), b"elst"))
            units, length = _duration(_inside(media, b"mdhd"))
            return bool(edits) and sum(edits) / max(1, second) < 0.99 * length / max(1, units)
    return False


def _top_boxes(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """(kind, first byte inside, end) of each; the last may end behind the file."""
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        while position < size:
            file.seek(position)
            kind, begin, end = _head(file.read(16), position, size)
            yield kind, begin, end
            position = end


def _head(header: bytes, position: int, size: int) -> tuple[bytes, int, int]:
    length, inside = int.from_bytes(header[:4], "big"), 8
    if length == 1:
        length, inside = int.from_bytes(header[8:16], "big"), 16
    end = size if length == 0 else position + max(inside, length)
    return header[4:8], position + inside, end


def _all_inside(data: bytes, kind: bytes) -> Iterator[bytes]:
    """The contents of the boxes of a kind."""
    position = 0
    while position < len(data):
        found, begin, end = _head(data[position : position + 16], position, len(data))
        if found == kind:
            yield data[begin:end]
        position = end


def _inside(data: bytes, kind: bytes) -> bytes:
    return next(_all_inside(data, kind), b"")


def _duration(header: bytes) -> tuple[int, int]:
    """(units a second, length) of an mvhd or mdhd box."""
    at, wide = (20, 8) if header[:1] == b"\1" else (12, 4)
    return int.from_bytes(header[at : at + 4], "big"), int.from_bytes(header[at + 4 : at + 4 + wide], "big")


def _edits(table: bytes) -> list[int]:
    """The lengths of the parts that are shown."""
    wide = 8 if table[:1] == b"\1" else 4
    count, row = int.from_bytes(table[4:8], "big"), 2 * wide + 4
    rows = [table[8 + row * number : 8 + row * (number + 1)] for number in range(min(count, len(table) // row))]
    gap = b"\xff" * wide  # an empty edit shows nothing
    return [int.from_bytes(entry[:wide], "big") for entry in rows if entry[wide : 2 * wide] != gap]


VIDEO_SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".avi",
    ".mkv",
    ".webm",
    ".mpg",
    ".mpeg",
    ".ts",
    ".wmv",
    ".flv",
    ".ogv",
    ".3gp",
)

_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg"
_CODECS = ("avc1", "mp4v")  # H.264 plays everywhere, but the OpenCV of PyPI cannot write it on Linux
_USUAL_RATE = 25.0
_SLACK = 0.02  # of the frames: most containers only estimate how many they hold
_MOST_LOST = 1000  # damaged packets in a row; a damaged header may promise billions of frames

# Playlists would let a file from a stranger open other files and addresses. FFmpeg's own messages help nobody.
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", f"protocol_whitelist;file|format_whitelist;{_FORMATS}")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class VideoReader:
    """The frames of a video, upright, each exactly once; iterate over it once. What is damaged in between is left out.

    Args:
        source: a file, or the number of a camera, which has no end.
        name: for messages.

    Raises:
        DataError: no video, no index, or a codec that OpenCV lacks.
        MachineError: no such camera.
    """

    def __init__(self, source: Path | int, *, name: str) -> None:
        self._name = name
        self._path = source if isinstance(source, Path) else None
        if isinstance(source, Path):
            if not source.is_file():
                raise DataError(f"{name}: no such video")
            self._capture = cv2.VideoCapture(str(source.resolve()), cv2.CAP_FFMPEG)
        else:
            self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            if self._path is None:
                raise MachineError(f"source={source}: no camera answers under this number")
            raise DataError(f"{name}: not a video, or cut short before its index, or its codec is not known here")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0.1 < rate < 1000 else _USUAL_RATE
        promised = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.promised = int(promised) if self._path is not None and promised > 0 else None

    def __iter__(self) -> Iterator[ImageArray]:
        """RGB frames.

        Raises:
            DataError: after the last frame, if there was none.
            PartialError: after the last frame, if the file is cut short or damaged.
        """
        count = lost = 0
        while (frame := self._next(count, lost)) is not None:
            image, skipped = frame
            count, lost = count + 1, lost + skipped
            yield image
        self.close()
        if count == 0:
            raise DataError(f"{self._name}: no frame can be decoded: damaged, or its codec is not known here")
        if self._path is not None and (expected := self._short_of(self._path, count, lost)):
            raise PartialError(f"{self._name}: {count} of {expected} frames; the file is cut short or damaged")

    def _next(self, count: int, lost: int) -> tuple[ImageArray, int] | None:
        """The next frame, and how many reads failed before it: OpenCV fails once for each damaged packet."""
        missing = _MOST_LOST if self.promised is None else self.promised - count - lost
        tries = 1 if self._path is None else 1 + min(max(0, missing), _MOST_LOST)
        for skipped in range(tries):
            read, frame = self._capture.read()
            if read:
                return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), skipped
        return None

    def close(self) -> None:
        """Lets go of the file or camera."""
        self._capture.release()

    def _short_of(self, path: Path, count: int, lost: int) -> int | None:
        """How many frames there should be, where these are too few."""
        if lost:
            expected = self.promised or count + lost
            return expected if count < expected else None
        if self.promised is None or not self._is_short(path, count, self.promised):
            return None
        return self.promised

    @staticmethod
    def _is_short(path: Path, count: int, promised: int) -> bool:
        cut = is_cut(path)
        if cut:
            return count < promised
        trimmed = cut is False and hides_frames(path)
        return not trimmed and count < promised - max(1, _SLACK * promised)


def is_video(path: Path) -> bool:
    """Whether OpenCV can open it as a video, whatever its name."""
    return bool(cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG).isOpened())


class VideoWriter:
    """An MP4 in the making: `NAME.partial.mp4` until `finish` has checked it.

    H.264 where OpenCV can write it, else MPEG-4. Both need even sides: an odd one gets its last line of pixels twice.

    Args:
        path: the final name.
        rate: frames a second.
        size: (H, W) of the frames.

    Raises:
        MachineError: no file can be written there.
    """

    def __init__(self, path: Path, *, rate: float, size: tuple[int, int]) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.stem}.partial.mp4")  # stays after an error; OpenCV needs the suffix
        self._size = size
        self._count = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._partial.touch()  # OpenCV does not say why it cannot write
        even = size[1] + size[1] % 2, size[0] + size[0] % 2
        for codec in _CODECS:
            self._writer = cv2.VideoWriter(
                str(self._partial.resolve()), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), rate, even
            )
            if self._writer.isOpened():
                return
        raise MachineError(f"{path}: OpenCV cannot write a video of {size[1]}x{size[0]} at {rate:g} frames a second")

    def write(self, image: ImageArray) -> None:
        """Adds an RGB frame; one of another size than the first is resized."""
        height, width = self._size
        if image.shape[:2] != self._size:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        even = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        self._writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
        self._count += 1

    def finish(self) -> None:
        """Closes the file and gives it its name.

        Raises:
            MachineError: the file does not hold every frame.
        """
        self._writer.release()
        written = cv2.VideoCapture(str(self._partial.resolve()), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FRAME_COUNT)
        if written < self._count:  # one more after an interrupt within `write`
            raise MachineError(f"{self._path}: {max(0, int(written))} of {self._count} frames were written; disk full?")
        self._partial.replace(self._path)
