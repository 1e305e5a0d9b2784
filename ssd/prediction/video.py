"""Video files and cameras: pictures out of them, and pictures into an MP4."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2

from ssd.errors import DataError, MachineError, PartialError
from ssd.images import Picture
from ssd.prediction import mp4

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

    def __iter__(self) -> Iterator[Picture]:
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

    def _next(self, count: int, lost: int) -> tuple[Picture, int] | None:
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
        cut = mp4.is_cut(path)
        if cut:
            return count < promised
        trimmed = cut is False and mp4.hides_frames(path)
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
        self._partial = path.with_name(f"{path.stem}.partial.mp4")
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

    def write(self, picture: Picture) -> None:
        """Adds an RGB frame; one of another size than the first is resized."""
        height, width = self._size
        if picture.shape[:2] != self._size:
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        even = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
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
