"""DetectionIndex: the content of a dataset as flat arrays.

15 million boxes take bytes instead of Python objects, and loader workers share the memory pages. A reader turns a
source folder into an index; validation, statistics and sampling work on the index, once, for every format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Integer, UInt8

from ssd.common.images import ImageArray

_ERRORS = "surrogateescape"  # file names on Linux need not be UTF-8


@dataclass(frozen=True, slots=True)
class PackedStrings:
    """Strings as one array of UTF-8 bytes and their offsets; N1 is N + 1."""

    data: UInt8[np.ndarray, "bytes"]
    offsets: Int64[np.ndarray, "N1"]

    @classmethod
    def pack(cls, strings: Iterable[str]) -> PackedStrings:
        """Packs strings in their order; file names that are not UTF-8 survive."""
        encoded = [string.encode(errors=_ERRORS) for string in strings]
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets_of([len(item) for item in encoded]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, position: int) -> str:
        return self.data[self.offsets[position] : self.offsets[position + 1]].tobytes().decode(errors=_ERRORS)

    def __iter__(self) -> Iterator[str]:
        data = self.data.tobytes()
        return (data[start:end].decode(errors=_ERRORS) for start, end in pairwise(self.offsets.tolist()))

    def take(self, positions: Int64[np.ndarray, "M"]) -> PackedStrings:
        """The strings at `positions`, in that order."""
        rows, offsets = gather(self.offsets, positions)
        return PackedStrings(self.data[rows], offsets)


@dataclass(frozen=True, slots=True)
class DetectionIndex:
    """Images and their boxes; N images (N1 is N + 1), M boxes.

    `load` turns an entry of `paths` into an image. `sizes` are upright (H, W) in pixels. The boxes of image i are rows
    box_offsets[i]:box_offsets[i+1] of `boxes` (xyxy fractions), `labels` (0..C-1), `ignore` and `source_lines` (the
    line or entry of the annotation file that the box comes from; 0 where there is no file). The file of image i, and
    what precedes the line in messages (`0.xml:`, `train.json: annotation `), is `sources[source_of[i]]`.
    """

    class_names: tuple[str, ...]
    load: Callable[[str], ImageArray]
    paths: PackedStrings
    ids: PackedStrings
    sizes: Int32[np.ndarray, "N 2"]
    box_offsets: Int64[np.ndarray, "N1"]
    boxes: Float32[np.ndarray, "M 4"]
    labels: Int32[np.ndarray, "M"]
    ignore: Bool[np.ndarray, "M"]
    source_lines: Int32[np.ndarray, "M"]
    sources: PackedStrings
    source_of: Int32[np.ndarray, "N"]

    def __len__(self) -> int:
        return len(self.paths)

    def rows(self, position: int) -> slice:
        """The rows of the boxes of an image."""
        return slice(int(self.box_offsets[position]), int(self.box_offsets[position + 1]))

    def location(self, position: int, row: int) -> str:
        """Annotation file and line of a box; the path of its image where there is no file."""
        source = self.sources[int(self.source_of[position])]
        return f"{source}{self.source_lines[row]}" if source else self.paths[position]

    def image_of_box(self) -> Int64[np.ndarray, "M"]:
        """The position of the image that each box belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.box_offsets))

    def keep_boxes(self, keep: Bool[np.ndarray, "M"]) -> DetectionIndex:
        """The same images with only the boxes where `keep` is true."""
        if keep.all():
            return self
        kept_before = np.concatenate(([0], np.cumsum(keep)))
        return self._with_boxes(keep, kept_before[self.box_offsets])

    def take(self, positions: Sequence[int] | np.ndarray) -> DetectionIndex:
        """The images at `positions`, with their boxes."""
        chosen = np.asarray(positions, dtype=np.int64)
        rows, offsets = gather(self.box_offsets, chosen)
        images = replace(
            self,
            paths=self.paths.take(chosen),
            ids=self.ids.take(chosen),
            sizes=self.sizes[chosen],
            source_of=self.source_of[chosen],
        )
        return images._with_boxes(rows, offsets)

    def _with_boxes(self, rows: np.ndarray, box_offsets: Int64[np.ndarray, "N1"]) -> DetectionIndex:
        return replace(
            self,
            box_offsets=box_offsets,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            ignore=self.ignore[rows],
            source_lines=self.source_lines[rows],
        )

    def class_counts(self) -> Int64[np.ndarray, "C"]:
        """Number of boxes of each class, without the ignored ones."""
        return np.bincount(self.labels[~self.ignore], minlength=len(self.class_names))


def offsets_of(counts: Sequence[int] | np.ndarray) -> Int64[np.ndarray, "N1"]:
    """Where each of N runs of these lengths starts, and where the last one ends."""
    return np.concatenate(([0], np.cumsum(counts, dtype=np.int64))).astype(np.int64)


def gather(
    offsets: Int64[np.ndarray, "N1"], chosen: Integer[np.ndarray, "M"]
) -> tuple[Int64[np.ndarray, "K"], Int64[np.ndarray, "M1"]]:
    """The rows of the chosen runs, one run after the other, and the offsets of the runs among these rows."""
    counts = np.diff(offsets)[chosen]
    new_offsets = offsets_of(counts)
    return np.arange(new_offsets[-1]) + np.repeat(offsets[chosen] - new_offsets[:-1], counts), new_offsets


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a reader. `boxes` are rows of (x1, y1, x2, y2) in fractions, not yet validated.

    `source` is what precedes the numbers of `source_lines` in messages; see DetectionIndex.
    """

    path: str
    id: str
    size: tuple[int, int]
    boxes: Sequence[Sequence[float]]
    labels: Sequence[int]
    ignore: Sequence[bool]
    source_lines: Sequence[int]
    source: str = ""


def build_index(
    records: Sequence[ImageRecord], *, class_names: Sequence[str], load: Callable[[str], ImageArray]
) -> DetectionIndex:
    """Packs the records of a reader."""
    sources: dict[str, int] = {}
    source_of = [sources.setdefault(record.source, len(sources)) for record in records]
    with np.errstate(over="ignore"):  # infinite boxes are refused by `validate`
        boxes = np.array([box for record in records for box in record.boxes], dtype=np.float32)
    return DetectionIndex(
        class_names=tuple(class_names),
        load=load,
        paths=PackedStrings.pack(record.path for record in records),
        ids=PackedStrings.pack(record.id for record in records),
        sizes=np.array([record.size for record in records], dtype=np.int32).reshape(-1, 2),
        box_offsets=offsets_of([len(record.labels) for record in records]),
        boxes=boxes.reshape(-1, 4),
        labels=np.array([label for record in records for label in record.labels], dtype=np.int32),
        ignore=np.array([flag for record in records for flag in record.ignore], dtype=bool),
        source_lines=np.array([line for record in records for line in record.source_lines], dtype=np.int32),
        sources=PackedStrings.pack(sources),
        source_of=np.array(source_of, dtype=np.int32),
    )
