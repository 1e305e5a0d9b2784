"""DetectionIndex: what a dataset holds, as flat arrays.

15 million boxes cost bytes, not Python objects, and loader workers share the pages. A reader turns a source folder into
an index; validation, repair, statistics and sampling work on the index, once, for every format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from ssd.common.images import ImageArray

_ERRORS = "surrogateescape"  # file names on Linux need not be UTF-8


@dataclass(frozen=True, slots=True)
class PackedStrings:
    """Strings as one run of UTF-8 bytes and their offsets; N1 is N + 1."""

    data: UInt8[np.ndarray, "bytes"]
    offsets: Int64[np.ndarray, "N1"]

    @classmethod
    def pack(cls, strings: Iterable[str]) -> PackedStrings:
        encoded = [string.encode(errors=_ERRORS) for string in strings]
        offsets = np.concatenate(([0], np.cumsum([len(item) for item in encoded], dtype=np.int64)))
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets.astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, position: int) -> str:
        return self.data[self.offsets[position] : self.offsets[position + 1]].tobytes().decode(errors=_ERRORS)

    def __iter__(self) -> Iterator[str]:
        data = self.data.tobytes()
        return (data[start:end].decode(errors=_ERRORS) for start, end in pairwise(self.offsets.tolist()))

    def take(self, rows: Int64[np.ndarray, "M"]) -> PackedStrings:
        places, offsets = gather(self.offsets, rows)
        return PackedStrings(self.data[places], offsets)


@dataclass(frozen=True, slots=True)
class DetectionIndex:
    """Images and their boxes; N images (N1 is N + 1), M boxes.

    `load` turns a path of `paths` into an image. `sizes` are upright (H, W) in pixels. The boxes of image i are
    rows box_offsets[i]:box_offsets[i+1] of `boxes` (xyxy fractions), `labels` (0..C-1) and `ignore`.
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

    def __len__(self) -> int:
        return len(self.paths)

    def rows(self, position: int) -> slice:
        """Where the boxes of an image lie."""
        return slice(int(self.box_offsets[position]), int(self.box_offsets[position + 1]))

    def image_of_box(self) -> Int64[np.ndarray, "M"]:
        """The image that each box belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.box_offsets))

    def images_of(self, rows: Sequence[int]) -> list[int]:
        """The images that some of the boxes belong to."""
        return [int(place) - 1 for place in np.searchsorted(self.box_offsets, rows, side="right")]

    def keep_boxes(self, keep: Bool[np.ndarray, "M"]) -> DetectionIndex:
        """The same images with fewer boxes."""
        if keep.all():
            return self
        kept_before = np.concatenate(([0], np.cumsum(keep)))
        return replace(
            self,
            box_offsets=kept_before[self.box_offsets],
            boxes=self.boxes[keep],
            labels=self.labels[keep],
            ignore=self.ignore[keep],
        )

    def take(self, positions: Sequence[int] | np.ndarray) -> DetectionIndex:
        """The images at `positions`, with their boxes."""
        chosen = np.asarray(positions, dtype=np.int64)
        rows, offsets = gather(self.box_offsets, chosen)
        return replace(
            self,
            paths=self.paths.take(chosen),
            ids=self.ids.take(chosen),
            sizes=self.sizes[chosen],
            box_offsets=offsets,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            ignore=self.ignore[rows],
        )

    def class_counts(self) -> Int64[np.ndarray, "C"]:
        """Number of boxes of each class, ignored ones left out."""
        return np.bincount(self.labels[~self.ignore], minlength=len(self.class_names))


def gather(offsets: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the items of the chosen runs lie, one run after the other, and the offsets of the runs among them."""
    counts = np.diff(offsets)[chosen]
    taken = np.concatenate(([0], np.cumsum(counts)))
    return np.arange(taken[-1]) + np.repeat(offsets[chosen] - taken[:-1], counts), taken


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image as a reader found it. `boxes` are rows of (x1, y1, x2, y2) in fractions, not yet checked."""

    path: str
    id: str
    size: tuple[int, int]
    boxes: Sequence[tuple[float, float, float, float]]
    labels: Sequence[int]
    ignore: Sequence[bool]


def build_index(
    records: Sequence[ImageRecord], *, class_names: Sequence[str], load: Callable[[str], ImageArray]
) -> DetectionIndex:
    """Packs the records of a reader."""
    counts = [len(record.labels) for record in records]
    return DetectionIndex(
        class_names=tuple(class_names),
        load=load,
        paths=PackedStrings.pack(record.path for record in records),
        ids=PackedStrings.pack(record.id for record in records),
        sizes=np.array([record.size for record in records], dtype=np.int32).reshape(-1, 2),
        box_offsets=np.concatenate(([0], np.cumsum(counts, dtype=np.int64))).astype(np.int64),
        boxes=np.array([box for record in records for box in record.boxes], dtype=np.float32).reshape(-1, 4),
        labels=np.array([label for record in records for label in record.labels], dtype=np.int32),
        ignore=np.array([flag for record in records for flag in record.ignore], dtype=bool),
    )
