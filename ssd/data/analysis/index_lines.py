"""What was read, as a file: one line of JSON for each image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssd.common.atomic_files import write_atomically
from ssd.common.text import printable
from ssd.data.index import DetectionIndex
from ssd.data.splits import Splits


def write_index(splits: Splits, path: Path, *, roots: Sequence[str]) -> None:
    """Writes split, path, size, boxes (xyxy pixels), class names, ignore flags and source of each image to `path`.

    Paths are below their root; where there is more than one, they begin with it.
    """
    root = f"{Path(roots[0])}/" if len(roots) == 1 else ""
    lines = (json.dumps(line) for name, index in splits.items() for line in _lines(name, index, root))
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def _lines(split: str, index: DetectionIndex, root: str) -> Iterator[dict[str, Any]]:
    for position, path in enumerate(index.paths):
        rows = index.rows(position)
        height, width = index.sizes[position].tolist()
        boxes_px = index.boxes[rows].astype(np.float64) * (width, height, width, height)
        source = index.sources[int(index.source_of[position])].rpartition(":")[0]
        yield {
            "split": split,
            "path": printable(path),
            "width": width,
            "height": height,
            "boxes": boxes_px.round(3).tolist(),
            "labels": [index.class_names[label] for label in index.labels[rows].tolist()],
            "ignore": index.ignore[rows].tolist(),
            "source": printable(source.removeprefix(root)),
            "lines": index.source_lines[rows].tolist(),
        }
