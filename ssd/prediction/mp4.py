"""What the boxes of an MP4 or MOV file say of it: whether it is whole, and whether it shows all its frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
