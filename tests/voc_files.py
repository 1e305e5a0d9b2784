"""Writes small datasets in VOC format."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssd.data.formats.voc import read_voc
from ssd.data.index import DetectionIndex
from ssd.data.splits import Splits

HEIGHT, WIDTH = 40, 50
Box = Sequence[object]  # xmin, ymin, xmax, ymax as written
CAT_BOX = (11, 21, 31, 41)


@cache
def image_bytes(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 120, dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image_bytes("PNG" if path.suffix.lower() == ".png" else "JPEG"))


def object_xml(name: str = "cat", box: Box = CAT_BOX, *, difficult: str | None = None) -> str:
    """One object; every element on its own line, nine or eight in all."""
    edges = [f"      <{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)]
    lines = ["  <object>", f"    <name>{name}</name>", "    <bndbox>", *edges, "    </bndbox>", "  </object>"]
    if difficult is not None:
        lines.insert(2, f"    <difficult>{difficult}</difficult>")
    return "\n".join(lines)


def write_annotation(
    path: Path, objects: Iterable[str], *, size: tuple[int, int] = (HEIGHT, WIDTH), filename: str = "wrong name.bmp"
) -> None:
    """The first object starts at line 4."""
    head = [
        "<annotation>",
        f"  <filename>{filename}</filename>",
        f"  <size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*head, *objects, "</annotation>"]) + "\n")


def add(root: Path, name: str, *objects: str, suffix: str = ".jpg") -> Path:
    """An image and its annotation, in the folders of VOC; returns the path of the annotation."""
    write_image(root / "JPEGImages" / f"{name}{suffix}")
    annotation = root / "Annotations" / f"{name}.xml"
    write_annotation(annotation, objects)
    return annotation


def add_list(root: Path, split: str, names: Iterable[str]) -> Path:
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def write_voc(root: Path, splits: dict[str, Sequence[str]]) -> None:
    """Images with one cat each, and the lists."""
    for name in dict.fromkeys(name for names in splits.values() for name in names):
        add(root, name, object_xml())
    for split, names in splits.items():
        add_list(root, split, names)


def read(root: Path, **settings: Any) -> Splits:
    return read_voc(str(root), **settings)


def read_one(root: Path, *objects: str, **settings: Any) -> Splits:
    """A dataset of one image with these objects."""
    add(root, "one", *objects)
    add_list(root, "train", ["one"])
    return read(root, val_splits=[], **settings)


def stems(index: DetectionIndex | None) -> list[str]:
    return [] if index is None else [Path(index.paths[position]).stem for position in range(len(index))]


def rules(splits: Splits) -> list[str]:
    return [problem.rule for problem in splits.report.problems]
