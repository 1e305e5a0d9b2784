"""The cache of indexes: never wrong, and it may be deleted."""

from __future__ import annotations

import multiprocessing
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from openimages_files import row, write
from voc_files import write_image

from ssd.cli.build import build_reader
from ssd.common import user_key
from ssd.common.images import read_image
from ssd.data import cache
from ssd.data.cache import FOLDER, read_cached
from ssd.data.formats.coco import read_coco
from ssd.data.formats.openimages import read_openimages
from ssd.data.formats.shapes import read_shapes
from ssd.data.index import DetectionIndex
from ssd.data.splits import Splits

calls: list[str] = []


def counted(root: str, **settings: Any) -> Splits:
    calls.append(root)
    return read_openimages(
        root, expand_hierarchy=False, include_depictions=False, strict=False, val_share=0, **settings
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two splits; a broken box and a missing image for the report."""
    calls.clear()
    folder = tmp_path / "data"
    write(folder, "train", [row("a"), row("b", "Car", IsGroupOf=1), row("a", "Bus", XMin=0.9), row("c")])
    (folder / "train" / "c.jpg").unlink()
    write(folder, "test", [row("d"), row("e", "Bus")])
    return folder


def read(root: Path | str, classes: list[str] | None = None, **settings: Any) -> Splits:
    return read_cached(partial(counted, root=str(root), classes=classes, **settings))


def same(one: Splits, other: Splits) -> bool:
    return one.report == other.report and [
        (name, index.class_names, list(index.ids), list(index.paths), *(arrays(index))) for name, index in one.items()
    ] == [
        (name, index.class_names, list(index.ids), list(index.paths), *(arrays(index))) for name, index in other.items()
    ]


def arrays(index: DetectionIndex) -> list[Any]:
    columns = (index.sizes, index.box_offsets, index.boxes, index.labels, index.ignore, index.source_lines)
    return [(column.dtype, column.shape, column.tolist()) for column in columns]


def files(root: Path) -> list[Path]:
    return sorted((root / FOLDER).iterdir())


def test_second_read_is_the_first_without_reading(root: Path) -> None:
    first, second = read(root), read(root)
    assert len(calls) == 1
    assert same(first, second)
    assert len(second.report.problems) == 2
    assert second.train.load(second.train.paths[0]).shape[:2] == tuple(second.train.sizes[0])
    torch.from_numpy(second.train.boxes)  # torch warns, which is an error here, of arrays that cannot be written
    assert [path.suffix for path in files(root)] == [".safetensors"]


def test_moved_or_linked_folder_is_still_right(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(root)
    monkeypatch.chdir(root.parent)
    (root.parent / "link").symlink_to(root)
    assert same(read("data"), read("link"))
    assert len(calls) == 1
    read(root.rename(root.parent / "moved"))
    assert len(calls) == 2


def rewrite_rows(root: Path) -> None:
    write(root, "train", [row("a", XMin=0.2)], images=False)


def add_validation(root: Path) -> None:
    write(root, "validation", [row("v")])


def touch_classes(root: Path) -> None:
    os.utime(root / "class-descriptions-boxable.csv", (1, 1))


@pytest.mark.parametrize(
    "change",
    [
        rewrite_rows,
        add_validation,
        touch_classes,
        lambda root: write_image(root / "train" / "c.jpg"),
        lambda root: (root / "train" / "b.jpg").unlink(),
        lambda root: (root / "test").rename(root / "elsewhere"),
    ],
)
def test_any_change_of_the_sources_is_noticed(root: Path, change: Any) -> None:
    before = read(root)
    change(root)
    after = read(root)
    assert len(calls) == 2
    assert not same(before, after) or change is touch_classes
    assert same(after, read(root))
    assert len(calls) == 2


def test_change_of_the_readers_is_noticed(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read(root)
    (tmp_path / "validation.py").write_text("# a new rule")
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    read(root)
    assert len(calls) == 2


def test_each_choice_of_settings_has_its_own(root: Path) -> None:
    for _ in range(2):
        assert read(root, ["Car", "Person"]).class_names == ("Car", "Person")
        assert read(root, ["Person"]).class_names == ("Person",)
    assert len(calls) == len(files(root)) == 2


def test_only_the_latest_choices_are_kept(root: Path) -> None:
    (root / FOLDER).mkdir()
    left = root / FOLDER / f".{'0' * 16}.safetensors.12.partial"
    left.touch()
    os.utime(left, (1, 1))
    names = ["Person", "Car", "Bus", "Airplane"]
    for pair in [(one, other) for one in names for other in names if one != other]:
        if {"Person", "Car"} & set(pair):
            read(root, list(pair))
    assert len(files(root)) == 8
    read(root, ["Bus", "Person"])
    read(root, ["Airplane", "Person"])
    assert len(calls) == 10


def test_a_cache_folder_that_is_a_link_is_not_used(root: Path) -> None:
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    for number in range(12):
        (elsewhere / f"{number:016x}.safetensors").write_text("mine")
    (root / FOLDER).symlink_to(elsewhere)
    assert any("it is a link" in note for note in read(root).report.notes)
    read(root)
    assert len(calls) == 2
    assert [path.read_text() for path in elsewhere.iterdir()] == ["mine"] * 12


def test_nothing_that_others_wrote_is_removed(root: Path) -> None:
    (root / FOLDER).mkdir()
    names = {"notes.txt", ".mine.partial", *(f"{number:016x}.safetensors" for number in range(12))}
    for name in names:
        (root / FOLDER / name).write_text("mine")
        os.utime(root / FOLDER / name, (1, 1))
    for name in ("Person", "Car", "Bus"):
        read(root, [name])
    assert {path.name for path in files(root) if path.stat().st_mtime == 1} == names


def test_the_cache_of_a_stranger_is_not_believed(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A dataset can come with a cache of wrong labels, made by the same program from the same files."""
    for user in ("stranger", "me", "me", "stranger"):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / user))
        user_key._key.cache_clear()
        read(root)
    assert len(calls) == 3  # for the stranger, for me, and once more as the file is mine by then


def test_without_a_key_there_is_no_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "keyed_digest", lambda parts: None)
    assert same(read(root), read(root))
    assert len(calls) == 2


def test_hidden_files_cyclic_links_and_broken_links_do_not_matter(root: Path) -> None:
    (root / "train" / "back").symlink_to(root)
    (root / "nowhere.csv").symlink_to(root / "missing")
    read(root)
    (root / ".lock").touch()
    read(root)
    assert len(calls) == 1


def test_folder_named_by_a_setting_is_a_source(tmp_path: Path) -> None:
    images, root = tmp_path / "images", tmp_path / "root"
    write_image(images / "a.jpg")
    root.mkdir()
    (root / "train.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "cat"}],'
        ' "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}]}'
    )
    settings = {"classes": None, "strict": False, "seed": 0, "val_json": "", "test_json": ""}
    reader = partial(read_coco, root=str(root), train_json="train.json", images=str(images), **settings)
    before = cache._fingerprint(reader)
    assert same(read_cached(reader), read_cached(reader))
    assert cache._fingerprint(reader) == before
    write_image(images / "b.jpg")
    assert cache._fingerprint(reader) != before


def test_damaged_file_is_read_again(root: Path) -> None:
    expected = read(root)
    path = files(root)[0]
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    cuts = [data[:length] for length in (0, 1, 11, 12, 13, len(data) // 2, len(data) - 1)]
    flips = []
    for place in rng.integers(0, len(data), 40).tolist() + list(range(len(data) - 14, len(data))):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        flips.append(bytes(flipped))
    for number, damaged in enumerate([*cuts, *flips, b"junk" * 100, data + b"\0"]):
        path.write_bytes(damaged)
        assert same(read(root), expected)
        assert len(calls) == number + 2
        assert path.read_bytes() == data


def test_every_flipped_bit_is_noticed(root: Path) -> None:
    read(root)
    path, fingerprint = files(root)[0], "another"
    assert cache._load(path, fingerprint, read_image) is None
    fingerprint = cache._fingerprint(partial(counted, root=str(root), classes=None))
    assert cache._load(path, fingerprint, read_image) is not None
    data = path.read_bytes()
    for place in range(0, len(data), 3):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        assert cache._load(path, fingerprint, read_image) is None


def test_without_write_access_there_is_no_cache(root: Path) -> None:
    (root / FOLDER).touch()
    assert same(read(root), read(root))
    assert len(calls) == 2
    (root / FOLDER).unlink()
    root.chmod(0o555)
    assert same(read(root), read(root))
    assert len(calls) == 4
    assert not (root / FOLDER).exists()
    root.chmod(0o755)


def test_images_that_are_not_files_are_not_cached(tmp_path: Path) -> None:
    def read(root: str) -> Splits:
        calls.append(root)
        return read_shapes(train=2, val=0, test=0, side_px=32, seed=0)

    calls.clear()
    for _ in range(2):
        read_cached(partial(read, root=str(tmp_path)))
    assert len(calls) == 2
    assert list(tmp_path.iterdir()) == []
    read_cached(partial(read_shapes, train=2, val=0, test=0, side_px=32, seed=0))


def test_settings_of_a_run_decide(root: Path) -> None:
    arguments = {"_target_": "test_cache.counted", "_partial_": True, "root": str(root), "classes": None}
    for use in (True, True, False):
        config = OmegaConf.create({"dataset": {**arguments, "cache": use, "balance": 0.5}})
        build_reader(config)()
    assert len(calls) == 2


def test_several_processes_at_once(root: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_count, [root] * 12) == [(2, 2)] * 12
    read(root)
    assert calls == []
    assert [path.suffix for path in files(root)] == [".safetensors"]


def _count(root: Path) -> tuple[int, int]:
    splits = read(root)
    return len(splits.train), len(splits.test)
