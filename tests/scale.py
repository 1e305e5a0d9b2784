"""Makes an annotation file of the size of Open Images and measures what reading it costs: python tests/scale.py [ROWS].

The CSV has the columns of version 6 and 601 classes of skewed frequency; every picture is a hard link to a small JPEG.
Each figure is taken in a process of its own. Needs 3 GB of disk below the temporary folder; takes minutes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

ROWS, PICTURES_PER_ROW = 14_600_000, 1.74 / 14.6
CLASSES = 601
CLICKS = [f"XClick{corner}{axis}" for axis in "XY" for corner in (1, 2, 3, 4)]
FLAGS = ["IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"]
WIDTHS = {"ImageID": 16, "Source": 6, "LabelName": 8, "Confidence": 1}
WIDTHS |= dict.fromkeys(["XMin", "XMax", "YMin", "YMax"], 8) | dict.fromkeys(FLAGS, 1) | dict.fromkeys(CLICKS, 8)
CHUNK = 200_000


def make_csv(root: Path, rows: int) -> np.ndarray:
    """Writes train-annotations-bbox.csv and the class file; returns the ids of the pictures."""
    rng = np.random.default_rng(0)
    mids = np.array([f"/m/{number:05d}" for number in range(CLASSES)], dtype="S8")
    names = ["Person", "Car", "Bus", *(f"Class {number}" for number in range(3, CLASSES))]
    lines = [f"{mid.decode()},{name}\n" for mid, name in zip(mids, names, strict=True)]
    (root / "class-descriptions-boxable.csv").write_text("".join(lines))
    share = (np.arange(CLASSES) + 11.0) ** -1.6
    ids = np.sort(rng.integers(0, 2**64, int(rows * PICTURES_PER_ROW), dtype=np.uint64))
    ids = np.array([f"{byte:02x}" for byte in range(256)], dtype="S2")[ids.byteswap().view(np.uint8)].view("S16")
    pictures = np.sort(rng.integers(0, len(ids), rows, dtype=np.int32))
    with (root / "train-annotations-bbox.csv").open("wb") as file:
        file.write((",".join(WIDTHS) + "\n").encode())
        for start in range(0, rows, CHUNK):
            of_rows = pictures[start : start + CHUNK]
            _chunk(rng, ids[of_rows], rng.choice(mids, len(of_rows), p=share / share.sum())).tofile(file)
    return ids


def _chunk(rng: np.random.Generator, ids: np.ndarray, mids: np.ndarray) -> np.ndarray:
    """Lines as an array of records of text: the fields and what separates them."""
    fields = [item for name, width in WIDTHS.items() for item in ((name, f"S{width}"), (f"after {name}", "S1"))]
    lines = np.full(len(ids), b",", dtype=[("all", f"S{sum(WIDTHS.values()) + len(WIDTHS)}")]).view(fields)
    for name in WIDTHS:
        lines[f"after {name}"] = b","
    lines[f"after {CLICKS[-1]}"] = b"\n"
    lines["ImageID"], lines["LabelName"], lines["Source"], lines["Confidence"] = ids, mids, b"xclick", b"1"
    for axis in "XY":
        low = rng.integers(0, 500_000, len(ids))
        lines[f"{axis}Min"], lines[f"{axis}Max"] = (
            DECIMALS[low],
            DECIMALS[low + rng.integers(20_000, 500_000, len(ids))],
        )
    for name in FLAGS:
        lines[name] = np.array([b"0", b"1"])[(rng.random(len(ids)) < 0.05).astype(int)]
    for name in CLICKS:
        lines[name] = DECIMALS[rng.integers(0, 1_000_000, len(ids))]
    return lines


DECIMALS = np.char.mod("%.6f", np.arange(1_000_000) / 1e6).astype("S8")
