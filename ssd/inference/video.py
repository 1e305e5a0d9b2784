"""Reads frames from video files and cameras, writes MP4 files, and shows frames in a window."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import cv2

from ssd.common.errors import DataError, MachineError, PartialError
from ssd.common.images import ImageArray
from ssd.common.untrusted_files import open_untrusted

# fmt: off
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv", ".3gp",
)
# fmt: on
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg"
_MP4_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_CODECS = ("avc1", "mp4v")  # H.264 plays everywhere, but the OpenCV of PyPI cannot write it on Linux
_DEFAULT_RATE = 25.0
_FRAME_COUNT_TOLERANCE = 0.02  # of the frames: most containers only estimate their number
_MAX_FAILED_READS = 1000  # in a row, for damaged packets; a damaged header may claim billions of frames
_WINDOW_TITLE = "ssd (press q to close)"
_QUIT_KEYS = (ord("q"), 27)  # 27 is Esc

# A playlist from an unknown source could open other files and URLs. FFmpeg's own messages name no file.
_CAPTURE_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
os.environ.setdefault(_CAPTURE_OPTIONS, f"protocol_whitelist;file|format_whitelist;{_FORMATS}")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
_open_lock = Lock()


class VideoReader:
    """Iterates once over the frames of a file or camera number, upright; skips damaged frames.

    `rate` is in frames per second. `frame_count` is the number of frames by the container's header; None if unknown.
    Error messages use `name`.

    Raises:
        DataError: not a video, no index, or a codec that OpenCV lacks.
        MachineError: the camera does not exist.
    """

    def __init__(self, source: Path | int, *, name: str) -> None:
        self._name = name
        self._path = source if isinstance(source, Path) else None
        if self._path is not None:
            open_untrusted(self._path, what="video").close()
        self._capture = cv2.VideoCapture(source) if isinstance(source, int) else _open(source)
        if not self._capture.isOpened():
            if self._path is None:
                raise MachineError(f"source={source}: no camera with this number; check its connection")
            raise DataError(
                f"{name}: not a video, or truncated before its index, or an unknown codec; convert it to .mp4"
            )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0.1 < rate < 1000 else _DEFAULT_RATE
        frame_count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frame_count = int(frame_count) if self._path is not None and frame_count > 0 else None

    def __iter__(self) -> Iterator[ImageArray]:
        """Yields RGB frames.

        Raises:
            DataError: at the end, if there was no frame.
            PartialError: at the end, if the file is truncated or damaged.
        """
        limit = 0 if self._path is None else self.frame_count or math.inf
        count = damaged = failed = 0  # `failed`: reads in a row; OpenCV fails once for each damaged packet
        while failed <= max(0, min(limit - count - damaged, _MAX_FAILED_READS)):
            success, frame = self._capture.read()
            if success:
                count, damaged, failed = count + 1, damaged + failed, 0
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            else:
                failed += 1
        self._capture.release()
        if count == 0:
            raise DataError(f"{self._name}: no frame can be decoded: damaged, or an unknown codec; convert it to .mp4")
        expected = self.frame_count or count + damaged
        if self._path is not None and count < expected and (damaged or _is_short(self._path, count, expected)):
            raise PartialError(f"{self._name}: {count} of {expected} frames; the file is truncated or damaged")


def _open(path: Path, *, options: str = "") -> cv2.VideoCapture:
    """Opens a file with FFmpeg options in addition to the process's own; OpenCV reads them from the environment."""
    with _open_lock:
        usual = os.environ.get(_CAPTURE_OPTIONS, "")
        try:
            os.environ[_CAPTURE_OPTIONS] = "|".join(filter(None, (usual, options)))
            return cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
        finally:
            os.environ[_CAPTURE_OPTIONS] = usual


def _is_short(path: Path, count: int, expected: int) -> bool:
    """Whether the `count` frames that were read are too few.

    A clip that was trimmed without re-encoding hides its first frames by an edit list, but its header counts them:
    only if frames are missing without the edit list as well, the file is damaged.
    """
    tolerance = 0.0 if _is_truncated_mp4(path) else max(1.0, _FRAME_COUNT_TOLERANCE * expected)
    if count >= expected - tolerance:
        return False
    capture, count = _open(path, options="ignore_editlist;1"), 0
    while capture.grab():
        count += 1
    return count < expected - tolerance


def _is_truncated_mp4(path: Path) -> bool:
    """Whether the last top-level box of an MP4 ends beyond the file; its frame count is exact then."""
    size, position = path.stat().st_size, 0
    with open_untrusted(path) as file:
        while position < size:
            file.seek(position)
            header = file.read(16)
            if position == 0 and header[4:8] not in _MP4_FIRST_BOXES:
                return False
            length = int.from_bytes(header[:4], "big")
            if length == 0:  # to the end of the file
                return False
            position += max(8, length if length != 1 else int.from_bytes(header[8:16], "big"))
    return position > size


def is_video(path: Path) -> bool:
    """Whether OpenCV can open the file as a video, whatever its name.

    Raises:
        DataError: missing, unreadable, or not a regular file.
    """
    open_untrusted(path, what="video").close()
    return bool(_open(path).isOpened())


class VideoWriter:
    """Writes an MP4 of `size` (H, W) at `rate` frames per second, as `NAME.partial.mp4` until `finish` has checked it.

    Uses H.264 if OpenCV can write it, else MPEG-4. Both need even sides: an odd side repeats its last row or column.

    Raises:
        MachineError: the file cannot be written.
    """

    def __init__(self, path: Path, *, rate: float, size: tuple[int, int]) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.stem}.partial.mp4")  # stays after an error; OpenCV needs the suffix
        self._size = size
        self._count = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._partial.touch()  # raises if the folder is read-only; OpenCV gives no reason
        height, width = size
        even = width + width % 2, height + height % 2
        for codec in _CODECS:
            self._writer = cv2.VideoWriter(
                str(self._partial.resolve()), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), rate, even
            )
            if self._writer.isOpened():
                return
        raise MachineError(f"{path}: OpenCV cannot write a video of {width}x{height} at {rate:g} frames per second")

    def write(self, image: ImageArray) -> None:
        """Appends an RGB frame; resizes it if its size is not that of the first."""
        height, width = self._size
        if image.shape[:2] != self._size:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        even = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        self._writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
        self._count += 1

    def finish(self) -> None:
        """Closes the file and gives it its final name.

        Raises:
            MachineError: the file does not contain every frame.
        """
        self._writer.release()
        written = _open(self._partial).get(cv2.CAP_PROP_FRAME_COUNT)  # OpenCV's writer does not report a full disk
        if written < self._count:  # one more after an interrupt within `write`
            raise MachineError(
                f"{self._path}: {max(0, int(written))} of {self._count} frames written; is the disk full?"
            )
        self._partial.replace(self._path)


class Window:
    """A window on the screen (show=true); use it from the main thread only.

    Raises:
        MachineError: no screen, or OpenCV was built without windows.
    """

    def __init__(self) -> None:
        try:
            cv2.namedWindow(_WINDOW_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error:
            raise MachineError(
                "show=true: no screen, or an OpenCV without windows: "
                "pip uninstall opencv-python-headless && pip install opencv-python"
            ) from None

    def show(self, image: ImageArray) -> bool:
        """Shows an RGB image; returns False once the user has pressed q or Esc."""
        cv2.imshow(_WINDOW_TITLE, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(1) not in _QUIT_KEYS
