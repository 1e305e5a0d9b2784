"""Mutations of data sets and of the cache of their indexes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from dataset_folders import SPLITS, Scene, random_scenes, write_coco, write_openimages, write_voc, write_yolo

from hostile_inputs.fuzzing import Target, damage, text_mutation
from ssd.data.cache import FOLDER, read_cached
from ssd.data.formats.coco import read_coco
from ssd.data.formats.openimages import read_openimages
from ssd.data.formats.voc import read_voc
from ssd.data.formats.yolo import read_yolo
from ssd.data.splits import Splits

_IMAGES = (".jpg", ".png")


def _scenes() -> list[Scene]:
    return random_scenes(random.Random(1), images=9)


def _make(write: Callable[..., None], layout: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        write(folder, _scenes(), layout)
        return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in _IMAGES)

    return make


def describe(splits: Splits) -> str:
    """What was read; every box must be one that a network can be trained on."""
    digest = hashlib.sha256()
    for name, index in splits.items():
        boxes, labels = index.boxes, index.labels
        assert name in SPLITS
        assert np.isfinite(boxes).all()
        assert ((boxes >= 0) & (boxes <= 1)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert ((labels >= 0) & (labels < len(index.class_names))).all()
        assert (index.sizes > 0).all()
        assert (np.diff(index.box_offsets) >= 0).all()
        assert index.box_offsets[0] == 0
        assert index.box_offsets[-1] == len(boxes) == len(labels) == len(index.ignore)
        digest.update(f"{name} {index.class_names} {list(index.ids)} {list(index.paths)}".encode(errors="replace"))
        digest.update(boxes.tobytes() + labels.tobytes() + index.ignore.tobytes() + index.sizes.tobytes())
    return digest.hexdigest()


def _read(read: Callable[..., Splits], folder: Path) -> str:
    return describe(read(str(folder)))


def _make_cache(folder: Path) -> list[Path]:
    write_voc(folder, _scenes(), "main")
    _read_cache(folder)
    return sorted(path for path in (folder / FOLDER).iterdir() if path.is_file())


def _read_cache(folder: Path) -> str:
    cached = describe(read_cached(partial(read_voc, root=str(folder))))
    assert cached == describe(read_voc(str(folder)))
    return cached


def _mutate_cache(data: bytes, chance: random.Random) -> tuple[bytes, bool]:
    return damage(data, chance), True


TARGETS = {
    "VOC": Target(_make(write_voc, "main"), partial(_read, read_voc), text_mutation),
    "VOC without lists": Target(_make(write_voc, "flat"), partial(_read, read_voc), text_mutation),
    "COCO": Target(_make(write_coco, "custom"), partial(_read, read_coco), text_mutation),
    "YOLO": Target(_make(write_yolo, "images"), partial(_read, read_yolo), text_mutation),
    "YOLO with lists": Target(_make(write_yolo, "lists"), partial(_read, read_yolo), text_mutation),
    "Open Images": Target(_make(write_openimages, "official"), partial(_read, read_openimages), text_mutation),
    "cache": Target(_make_cache, _read_cache, _mutate_cache),
}
