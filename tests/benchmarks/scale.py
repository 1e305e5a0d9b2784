"""Measures Open Images at its full size, made up: python tests/benchmarks/scale.py [ROWS].

14.6 million boxes of 601 classes on 1.74 million images: a CSV of 2.2 GB with the columns of version 6, and for each
image a hard link to a small JPEG. Each line is a process of its own; peak is its resident memory, the libraries
included. Needs 4 GB below the temporary folder (TMPDIR) and about five minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ssd.data.splits import Splits

ROWS, IMAGES_PER_ROW = 14_600_000, 1.74 / 14.6
CLASSES = 601
SOME = ["Person", "Car", "Bus"]
CLICKS = [f"XClick{corner}{axis}" for axis in "XY" for corner in (1, 2, 3, 4)]
FLAGS = ["IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"]
WIDTHS = {"ImageID": 16, "Source": 6, "LabelName": 8, "Confidence": 1}
WIDTHS |= dict.fromkeys(["XMin", "XMax", "YMin", "YMax"], 8) | dict.fromkeys(FLAGS, 1) | dict.fromkeys(CLICKS, 8)
CHUNK = 200_000
LINKS = 30_000  # to one file: file systems allow 65,000
SAMPLES, BATCH = 100_000, 100  # of an epoch, for the memory of a loader worker


def make_csv(root: Path, rows: int) -> np.ndarray:
    """Writes train-annotations-bbox.csv and the class file; returns the ids of the images."""
    rng = np.random.default_rng(0)
    mids = np.array([f"/m/{number:05d}" for number in range(CLASSES)], dtype="S8")
    names = [*SOME, *(f"Class {number}" for number in range(3, CLASSES))]
    lines = [f"{mid.decode()},{name}\n" for mid, name in zip(mids, names, strict=True)]
    (root / "class-descriptions-boxable.csv").write_text("".join(lines))
    share = (np.arange(CLASSES) + 11.0) ** -1.6
    ids = np.sort(rng.integers(0, 2**64, int(rows * IMAGES_PER_ROW), dtype=np.uint64))
    ids = np.array([f"{byte:02x}" for byte in range(256)], dtype="S2")[ids.byteswap().view(np.uint8)].view("S16")
    images = np.sort(rng.integers(0, len(ids), rows, dtype=np.int32))
    decimals = np.char.mod("%.6f", np.arange(1_000_000) / 1e6).astype("S8")
    with (root / "train-annotations-bbox.csv").open("wb") as file:
        file.write((",".join(WIDTHS) + "\n").encode())
        for start in range(0, rows, CHUNK):
            of_rows = images[start : start + CHUNK]
            mids_of_rows = rng.choice(mids, len(of_rows), p=share / share.sum())
            _lines(rng, ids[of_rows], mids_of_rows, decimals).tofile(file)
    return ids


def _lines(rng: np.random.Generator, ids: np.ndarray, mids: np.ndarray, decimals: np.ndarray) -> np.ndarray:
    """Lines as records of text: each field and the character behind it."""
    count = len(ids)
    lines = np.empty(
        count, [item for name, width in WIDTHS.items() for item in ((name, f"S{width}"), (f"{name},", "S1"))]
    )
    for name in WIDTHS:
        lines[f"{name},"] = b"\n" if name == CLICKS[-1] else b","
    lines["ImageID"], lines["LabelName"], lines["Source"], lines["Confidence"] = ids, mids, b"xclick", b"1"
    for axis in "XY":
        low, side = rng.integers(0, 500_000, count), rng.integers(20_000, 500_000, count)
        lines[f"{axis}Min"], lines[f"{axis}Max"] = decimals[low], decimals[low + side]
    for name in FLAGS:
        lines[name] = np.where(rng.random(count) < 0.05, b"1", b"0")
    for name in CLICKS:
        lines[name] = decimals[rng.integers(0, 1_000_000, count)]
    return lines


def make_images(folder: Path, ids: np.ndarray) -> None:
    """A small JPEG under every name."""
    from PIL import Image

    folder.mkdir()
    for number, id in enumerate(ids.tolist()):
        path = os.fspath(folder / f"{id.decode()}.jpg")
        if number % LINKS == 0:
            first = path
            Image.effect_noise((96, 72), 50).convert("RGB").save(path, quality=90)
        else:
            os.link(first, path)


# --- each of these runs in a process of its own --------------------------------------------------------------------


def rows(root: str, classes: str) -> None:
    from ssd.data.formats.openimages_csv import read_rows
    from ssd.data.formats.openimages_files import read_class_names
    from ssd.data.validation import Report

    names = read_class_names(Path(root), [], Report()).names
    labels = {mid: label for label, mid in enumerate(names) if classes == "all" or label < len(SOME)}
    file = Path(root, "train-annotations-bbox.csv")
    measure("CSV to arrays", classes, lambda: read_rows(file, labels=labels, report=Report()))


def index(root: str, classes: str) -> None:
    splits = measure("all of it, and written to the cache", classes, lambda: read(root, classes))
    print(f"  {len(splits.train):,} images, {len(splits.train.boxes):,} boxes")


def cached(root: str, classes: str) -> None:
    import torch  # noqa: F401  maps the file; the time is without imports

    measure("started from the cache", classes, lambda: read(root, classes))


def worker(root: str, classes: str) -> None:
    """What a loader worker has for itself while it goes through the order of an epoch."""
    from torch.utils.data import DataLoader

    from ssd.data.augmentation import Augmentation, SSDWindow
    from ssd.data.dataset import DetectionDataset, collate
    from ssd.data.sampler import TrainingStream

    train = read(root, classes).train
    data = DetectionDataset(train, Augmentation([SSDWindow.resize(32)]), seed=0)
    sampler = TrainingStream(len(train), batch_size=BATCH, seed=0)
    batches = iter(DataLoader(data, batch_size=BATCH, sampler=sampler, num_workers=1, collate_fn=collate))
    count = min(SAMPLES, len(train)) // BATCH
    private = []
    for number, _ in enumerate(islice(batches, count), start=1):
        if number in (10, count // 4, count // 2, count):
            lines = Path(f"/proc/{batches._workers[0].pid}/smaps_rollup").read_text().splitlines()
            private.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024 / 1e6)
    print(f"loader worker, private MB over {count * BATCH:,} samples: {', '.join(f'{size:.1f}' for size in private)}")


def read(root: str, classes: str) -> Splits:
    from ssd.data.cache import read_cached
    from ssd.data.formats.openimages import read_openimages

    settings = {"expand_hierarchy": False, "include_depictions": False, "strict": False}
    return read_cached(partial(read_openimages, root=root, classes=SOME if classes == "some" else None, **settings))


def measure(name: str, classes: str, work: Callable[[], Any]) -> Any:
    """Runs `work` and prints its seconds, those of the processor, and the peak of memory."""
    import ssd.data.formats.openimages  # noqa: F401  the time is without imports

    start, cpu = time.perf_counter(), time.process_time()
    result = work()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(f"{name:36} {classes:7} {seconds:7.1f} {cpu:7.1f} {peak * 1024 / 1e6:9.0f}")
    return result


def main(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="scale_") as root:
        start = time.perf_counter()
        make_images(Path(root, "train"), make_csv(Path(root), count))
        size = Path(root, "train-annotations-bbox.csv").stat().st_size
        print(f"made {count:,} rows, {size / 1e9:.2f} GB, in {time.perf_counter() - start:.0f} s")
        print(f"{'':36} {'classes':7} {'seconds':>7} {'CPU s':>7} {'peak MB':>9}", flush=True)
        for step in (rows, index, cached):
            for classes in ("some", "all"):
                subprocess.run([sys.executable, __file__, step.__name__, root, classes], check=True)
        subprocess.run([sys.executable, __file__, worker.__name__, root, "all"], check=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    if len(sys.argv) > 2:
        {step.__name__: step for step in (rows, index, cached, worker)}[sys.argv[1]](*sys.argv[2:])
    else:
        main(int(float(sys.argv[1])) if len(sys.argv) > 1 else ROWS)
