"""Small folders in the shape of what people bring, if they are beside the repository: a table of what is read.

The quick test reads each folder; the slow one runs inspect and a training of two steps as a user does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from composed import compose
from dataset_folders import Objects, contents
from forked import run

from ssd.cli import build
from ssd.common.errors import ConfigError, DataError
from ssd.data.splits import Splits
from ssd.data.validation import Report

CASES = Path(__file__).parents[3] / "shared" / "data" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"no {CASES}")
TINY = ["image_size=96", "backbone=mobilenet_v1_half", "backbone.width_multiplier=0.25"]
STEPS = ["trainer.max_steps=2", "batch_size=2", "num_workers=0", "hydra.run.dir=run", "logger=null"]

SIX, OPEN_IMAGES = "0 1 2 3 4 5", "a{0} a{1} a{2} a{3}|b{0} b{1} b{2} b{3}|c{0} c{1} c{2} c{3}"
LONG, SHORT = (OPEN_IMAGES.format(*(form.format(number) for number in range(4))) for form in ("{:015}", "{}"))
FRACTIONS = (6.4, 9.6, 32.0, 28.8)  # .1, .2, .5, .6 of 64 x 48


@dataclass(frozen=True)
class Case:
    """What is right: names of images as train|val|test, or of all where the splits are drawn; their objects in turn."""

    images: str
    classes: str = "cat"  # "-" is no object, "?" an ignored one
    box: tuple[float, float, float, float] = (10, 10, 30, 30)
    code: int = 0
    text: str = ""  # in the output
    separator: str = " "

    def expected(self) -> dict[tuple[str, str], Objects]:
        """Objects by split ("all" where drawn) and name."""
        parts = self.images.split("|")
        splits = ("train", "val", "test") if len(parts) > 1 else ("all",)
        names = self.classes.split()
        return {
            (split, stem): _objects(names[number % len(names)], self.box)
            for split, part in zip(splits, parts, strict=False)
            for number, stem in enumerate(filter(None, part.split(self.separator)))
        }


def _objects(name: str, box: tuple[float, ...]) -> Objects:
    return [] if name == "-" else [(name.removesuffix("?"), tuple(map(float, box)), name.endswith("?"))]


TABLE = {
    "oi-sub-constant-labelname": Case(SHORT, "no_mask masked", FRACTIONS),
    "oi-sub-mid-two-names": Case(LONG, "Man Person", FRACTIONS),
    "voc-difficult-unspecified": Case(SIX, "onion"),
    "voc-vocdevkit-custom": Case("0 1 2|3 4|5"),
    "voc-imagesets-without-main": Case("0 1 2|3 4 5|"),
    "voc-list-paddle": Case("0 1 2 3|4 5|"),
    "voc-split-folder-names": Case(" ".join(f"{split}_set{n}" for split in ("train", "test") for n in range(5))),
    "voc-same-stem-two-photos": Case(SIX),
    "voc-exif-raw": Case(SIX, box=(40, 0, 48, 16), text="EXIF"),
    "voc-picture-resized": Case(SIX, box=(10, 10, 30, 20), text="rescaled"),
    "coco-normalised": Case(SIX, box=(12.8, 9.6, 44.8, 33.6), text="fractions"),
    "voc-list-name-ends-in-1-silent": Case("room,room 1,room 2,hall 1|hall 2|", separator=","),
    "voc-namespace": Case(SIX),
    "voc-ipynb-checkpoints": Case(SIX),
    "oi-two-mids-one-name": Case(LONG, "Person", FRACTIONS, text="Person"),
    "voc-val-negatives-only": Case("0 1 2 3|4 5|", "cat"),
    "coco-iscrowd-bool-missing": Case(SIX, "cat cat?"),
    "oi-latin1-class-file": Case(LONG, "Persön", FRACTIONS),
    "voc-filenames-gbk-bytes": Case(
        " ".join(os.fsdecode("图片".encode("gbk")) + str(n) for n in range(6)), box=(4, 5, 39, 29)
    ),
    "voc-all-difficult": Case("", code=3, text="difficult"),
    "oi-pixels": Case("", code=3, text="pixels"),
    "voc-jetson-merge-sets": Case(f"{SIX}|{SIX}|{SIX}", text="no test"),
    "coco-custom-train-json": Case("train0 train1 train2 train3|val0 val1 val2 val3|"),
    "voc-annotations-lowercase": Case("0 1 2|3 4|5"),
    "voc-cvat-default": Case(SIX),
    "voc-cvat-subfolders": Case("0 1 2 3"),  # of cam1 and of cam2
    "voc-vott": Case("a0 a1 a2 a3|a4 a5|", "dog cat"),
    "voc-rectlabel-annotations-inside": Case(SIX),
    "voc-images-train-annotations-train": Case("train0 train1 train2 train3|val0 val1 val2 val3|"),
    "voc-appledouble": Case(SIX),
    "coco-backslash": Case(SIX),
    "coco-fiftyone": Case(SIX),
    "oi-sub-classname-only": Case(SHORT, "dog cat", FRACTIONS),
    "oi-ids-with-extension": Case(LONG, "Person", FRACTIONS),
    "voc-hollywoodheads-empty-object": Case(SIX, "- head"),
    "voc-gb2312-declared": Case(SIX, "猫"),
    "coco-float-ids": Case(SIX),
    "coco-percent-encoded": Case(",".join(f"my photo {n}" for n in range(6)), separator=","),
    "coco-numeric-category-names": Case(SIX, "1"),
    "coco-other-json-beside": Case("train0 train1 train2 train3|valid0 valid1 valid2 valid3|"),
    "coco-extension-case": Case(SIX),
    "voc-filename-differs": Case(" ".join(f"street_{n}" for n in range(6))),
    "voc-jpg-xml": Case(SIX),
    "voc-picture-jp2-avif": Case(SIX),
    "voc-symlinked-annotations": Case(SIX),
    "labelme-json-train-folder": Case("", code=3, text="LabelMe"),
    "oi-oidv4-toolkit": Case(LONG, "Person Person Car Car"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the cases, as caches are written beside the data."""
    folder = tmp_path_factory.mktemp("cases")
    for case in sorted(CASES.iterdir()):
        if (maker := case / "make.py").is_file():
            subprocess.run([sys.executable, str(maker), str(folder / case.name)], check=True)
        elif case.is_dir():
            shutil.copytree(case, folder / case.name)
    return folder


def settings(name: str, folders: Path) -> list[str]:
    kind = {"voc": "voc", "coco": "coco", "labelme": "coco", "oi": "openimages"}[name.partition("-")[0]]
    return [f"dataset={kind}", f"dataset.root={folders / name}", "dataset.cache=false"]


def read(arguments: list[str], report: Report | None = None) -> Splits:
    splits = build.build_reader(compose(*arguments, name="inspect"), cached=False)(report=report)
    splits.check_trainable()
    return splits


def expected_of(name: str) -> dict[tuple[str, str], Objects]:
    negatives = {("val", "4"): [], ("val", "5"): []} if name == "voc-val-negatives-only" else {}
    return TABLE[name].expected() | negatives


def by_name(splits: Splits, case: Case) -> dict[tuple[str, str], Objects]:
    found = contents(splits)
    if "|" in case.images:
        return found
    return {("all", stem): objects for (_, stem), objects in found.items()}


def test_every_folder_has_its_row() -> None:
    others = {"README.md", "voc-cache-stale-picture"}
    assert {path.name for path in CASES.iterdir()} - others == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_what_is_read(name: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    case, arguments = TABLE[name], settings(name, folders)
    if case.code:
        with pytest.raises((ConfigError, DataError), match=case.text) as caught:
            read(arguments)
        assert caught.value.exit_code == case.code
        report = Report(collect_all=True)
        try:
            read(arguments, report)
        except (ConfigError, DataError):
            return
        assert any(problem.fatal for problem in report.problems)
        return
    splits = read(arguments)
    assert by_name(splits, case) == expected_of(name)
    assert case.text in "\n".join([*splits.report.summary_lines(), *splits.report.notes])
    if name == "voc-same-stem-two-photos":
        assert all(path.endswith(".jpg") for _, index in splits.items() for path in index.paths)
    if name == "voc-split-folder-names":
        assert {path.partition("/")[0] for path in splits.test.paths} == {"test_set"}  # type: ignore[union-attr]
    if name == "voc-cvat-subfolders":
        assert sum(len(index) for _, index in splits.items()) == 8


def test_an_image_replaced_in_place_is_read_anew(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = folders / "voc-cache-stale-picture"
    config = compose("dataset=voc", f"dataset.root={root}", name="inspect")
    found = []
    for step in ("1", "2"):
        subprocess.run([sys.executable, str(root / "reproduce.py"), step], check=True)
        for _ in range(2):  # the second from the cache
            splits = build.build_reader(config)()
            found.append(
                [(tuple(splits.train.sizes[0].tolist()), contents(splits)["train", Path(splits.train.paths[0]).stem])]
            )  # type: ignore[union-attr]
    assert found[0] == found[1] == [((64, 48), [("cat", (40.0, 0.0, 48.0, 16.0), False)])]
    assert found[2] == found[3] == [((48, 64), [("cat", (0.0, 0.0, 16.0, 8.0), False)])]


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    rows: list[str] = []
    yield rows
    print("", "case                              inspect  train  boxes", *rows, sep="\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_inspect_and_training(name: str, folders: Path, tmp_path: Path, table: list[str]) -> None:
    case, arguments = TABLE[name], [*settings(name, folders), *TINY]
    expected = sum(len(objects) for objects in expected_of(name).values()) * (2 if name == "voc-cvat-subfolders" else 1)
    inspected = run(tmp_path, "inspect", *arguments, "index=index.jsonl")
    trained = run(tmp_path, "train", *arguments, *STEPS)
    index = tmp_path / "index.jsonl"
    lines = index.read_text().splitlines() if index.exists() and not case.code else []
    boxes = sum(len(json.loads(line)["boxes"]) for line in lines)
    table.append(f"{name:34} {inspected.returncode:7} {trained.returncode:6}  {boxes} of {expected}")
    assert boxes == expected
    for done in (inspected, trained):
        assert done.returncode == case.code, done.stderr
        assert case.text in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
