"""The lines of an Open Images CSV that boxes come from: looked for when told, as no index has room for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from ssd.data.formats.openimages_csv import EDGES, read_lines
from ssd.data.index import DetectionIndex
from ssd.data.validation import describe_image

_Row = dict[str, str]


def find_places(
    index: DetectionIndex,
    rows: Sequence[int],
    *,
    file: Path,
    names: Mapping[str, Collection[str]],
    depictions: bool,
) -> list[tuple[str, str]]:
    """File with line, and the box as written, of rows of `index.boxes`; `names` are the classes that a MID counts for.

    Reads the file once. Of equal boxes the first in the index is the first in the file.
    """
    images = index.images_of(rows)
    lines = _lines_of(file, {index.ids[image] for image in images}, depictions=depictions) if rows else {}
    places = []
    for row, image in zip(rows, images, strict=True):
        name, box = index.class_names[index.labels[row]], index.boxes[row]
        found = [item for item in lines.get(index.ids[image], []) if _is_box(item[1], name, box, names)]
        if not found:  # the file has changed since
            places.append((str(file), describe_image(index, image)))
            continue
        before = slice(index.rows(image).start, row)
        equal = (index.boxes[before] == box).all(axis=1) & (index.labels[before] == index.labels[row])
        line, cells = found[min(int(equal.sum()), len(found) - 1)]
        edges = ", ".join(f"{edge} {cells[edge].strip()}" for edge in EDGES)
        places.append((f"{file}:{line}", f"{edges}; {describe_image(index, image)}"))
    return places


def _lines_of(file: Path, ids: Collection[str], *, depictions: bool) -> dict[str, list[tuple[int, _Row]]]:
    """Line numbers and cells of the rows of some images, without depictions unless they are used."""
    rows = read_lines(file)
    header = next(rows, (1, []))[1]
    place = header.index("ImageID")
    lines: dict[str, list[tuple[int, _Row]]] = {}
    for line, row in rows:
        if len(row) == len(header) and row[place] in ids:
            cells = dict(zip(header, row, strict=True))
            if depictions or cells.get("IsDepiction", "0").strip() != "1":
                lines.setdefault(row[place], []).append((line, cells))
    return lines


def _is_box(cells: _Row, name: str, box: Float32[np.ndarray, "4"], names: Mapping[str, Collection[str]]) -> bool:
    try:
        edges = [float(cells[edge]) for edge in EDGES]
    except ValueError:  # told already
        return False
    return name in names.get(cells["LabelName"], ()) and bool(np.allclose(edges, box, rtol=1e-6, atol=1e-7))
