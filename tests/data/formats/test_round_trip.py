"""Random datasets in every layout are read back box for box; damaged ones end in an error of one line, never a bug."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dataset_folders
import pytest
from dataset_folders import LAYOUTS, WITHOUT_SPLITS, WRITERS, contents, expected, random_scenes
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd.common.errors import ConfigError, DataError
from ssd.data.formats.coco import read_coco
from ssd.data.formats.detect import detect_format
from ssd.data.formats.openimages import read_openimages
from ssd.data.formats.voc import read_voc
from ssd.data.formats.yolo import read_yolo
from ssd.data.splits import Splits
from ssd.data.validation import Report

READERS: dict[str, Callable[..., Splits]] = {
    "voc": read_voc,
    "coco": read_coco,
    "yolo": read_yolo,
    "openimages": read_openimages,
}
SEEDS = [
    pytest.param(range(15), id="15 folders"),
    pytest.param(range(15, 100), id="85 folders", marks=pytest.mark.slow),
]


def write(root: Path, kind: str, layout: str, seed: int) -> list[dataset_folders.Scene]:
    scenes = random_scenes(random.Random(seed), ignore=kind != "yolo")
    WRITERS[kind][0](root, scenes, layout)
    return [scene for scene in scenes if scene.objects] if kind == "openimages" else scenes


@pytest.mark.parametrize(("kind", "layout"), LAYOUTS)
@settings(max_examples=5)
@given(seed=st.integers(0, 10**6))
def test_every_layout_is_recognised_and_read_box_for_box(kind: str, layout: str, seed: int) -> None:
    with TemporaryDirectory() as folder:
        scenes = write(Path(folder), kind, layout, seed)
        assert detect_format(folder) == kind
        splits = READERS[kind](folder)
        found, wanted = contents(splits), expected(scenes)
        assert [problem for problem in splits.report.problems if problem.fatal] == []
        if layout in WITHOUT_SPLITS:
            assert {stem: objects for (_, stem), objects in found.items()} == {
                stem: objects for (_, stem), objects in wanted.items()
            }
        else:
            assert found == wanted


# Mutations


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def swap(rng: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    rng.shuffle(lines)
    return b"".join(lines)


def reencode(rng: random.Random, data: bytes) -> bytes:
    text = data.decode("utf-8", errors="replace")
    return text.encode(rng.choice(["utf-16", "utf-16-le", "latin-1", "gbk", "utf-8-sig", "cp949"]), errors="replace")


def garble(rng: random.Random, data: bytes) -> bytes:
    position = rng.randrange(len(data) + 1)
    junk = rng.choice(
        [b"\0", b"nan", b"1e999", b"-", b"<", b"{", b"\xff\xfe", b"9" * 400, b'"', b",", b"\n\n", b"\x1b["]
    )
    return data[:position] + junk + data[position + rng.randrange(4) :]


def double(rng: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    position = rng.randrange(len(lines))
    return b"".join([*lines[: position + 1], *lines[position:]])


CONTENT: list[Callable[[random.Random, bytes], bytes]] = [cut, swap, reencode, garble, double]


def mutate(root: Path, rng: random.Random) -> None:
    """Changes, renames, copies or removes one file."""
    path = rng.choice(sorted(file for file in root.rglob("*") if file.is_file()))
    what = rng.randrange(len(CONTENT) + 3)
    if what < len(CONTENT):
        path.write_bytes(CONTENT[what](rng, path.read_bytes()))
    elif what == len(CONTENT):
        path.unlink()
    else:
        other = rng.choice(
            [path.name.upper(), f"{path.name}.txt", f"._{path.name}", f"a{path.name}", "train", "x.json"]
        )
        target = path.with_name(other)
        if what == len(CONTENT) + 1:
            path.rename(target)
        elif not target.exists():
            target.write_bytes(path.read_bytes())


def outcome(read: Callable[[], Any]) -> str:
    """Empty, or the message."""
    try:
        read()
    except (ConfigError, DataError) as error:
        return str(error) or "no message"
    return ""


def read_and_check(kind: str, root: str, report: Report | None = None) -> None:
    READERS[kind](root, report=report).check_trainable()


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize(("kind", "layout"), LAYOUTS)
def test_damaged_folders_give_one_line_and_the_same_verdict_in_inspect(
    kind: str, layout: str, seeds: range, tmp_path: Path
) -> None:
    for seed in seeds:
        root, rng = tmp_path / str(seed), random.Random(seed)
        write(root, kind, layout, seed)
        for _ in range(rng.choice([1, 1, 2])):
            mutate(root, rng)
        outcome(lambda root=root: detect_format(str(root)))  # type: ignore[misc]
        message = outcome(lambda root=root: read_and_check(kind, str(root)))  # type: ignore[misc]
        report = Report(collect_all=True)
        raised = outcome(lambda root=root, report=report: read_and_check(kind, str(root), report))  # type: ignore[misc]
        fatal = [str(problem) for problem in report.problems if problem.fatal]
        assert "\n" not in message
        assert bool(message) == bool(raised or fatal), (seed, message, raised, fatal)
