"""YOLO format: valid and invalid lines, class names, and splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from voc_files import HEIGHT, WIDTH, write_image

from ssd.common.errors import ConfigError, DataError
from ssd.data.formats.yolo import read_yolo
from ssd.data.splits import Splits
from ssd.data.validation import Report

LINE = "0 0.5 0.5 0.2 0.4"
ALL_TRAIN = {"val_share": 0, "test_share": 0}


def put(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    write_image(root / path) if path.endswith((".jpg", ".png")) else (root / path).write_text(text)


def read(root: Path, **settings: Any) -> Splits:
    return read_yolo(str(root), **settings)


def one(root: Path, text: str, names: str = "cat\ndog\n", **settings: Any) -> Splits:
    put(root, "images/1.jpg")
    put(root, "labels/1.txt", text)
    put(root, "classes.txt", names)
    return read(root, **(ALL_TRAIN | settings))


def paths(splits: Splits) -> dict[str, list[str]]:
    return {name: list(index.paths) for name, index in splits.items()}


# Lines


def test_boxes_are_centre_and_size_in_fractions(tmp_path: Path) -> None:
    index = one(tmp_path, "1 0.5 0.5 0.2 0.4\n").train
    assert np.allclose(index.boxes, [[0.4, 0.3, 0.6, 0.7]])
    assert (index.class_names, index.labels.tolist(), index.ignore.tolist()) == (("cat", "dog"), [1], [False])
    assert index.sizes.tolist() == [[HEIGHT, WIDTH]]
    assert index.location(0, 0) == f"{tmp_path}/labels/1.txt:1"


@pytest.mark.parametrize(
    "text",
    [
        f"{LINE}\r\n\r\n",
        f"\ufeff{LINE}",
        f"  {LINE}  \n",
        LINE.replace(" ", "\t"),
        LINE.replace(" ", ", "),
        "0.0" + LINE[1:],
    ],
)
def test_forms_of_a_line(tmp_path: Path, text: str) -> None:
    assert np.allclose(one(tmp_path, text).train.boxes, [[0.4, 0.3, 0.6, 0.7]])


def test_every_box_knows_its_line(tmp_path: Path) -> None:
    index = one(tmp_path, f"\n{LINE}\n\n1 0.5 0.5 0.1 0.1\n").train
    assert index.source_lines.tolist() == [2, 4]


def test_an_outline_is_its_box(tmp_path: Path) -> None:
    splits = one(tmp_path, "0 0.1 0.2 0.5 0.2 0.3 0.6\n0 0.1 0.1 0.2 0.1 0.2 0.3 0.1 0.3\n")
    assert np.allclose(splits.train.boxes, [[0.1, 0.2, 0.5, 0.6], [0.1, 0.1, 0.2, 0.3]])
    assert any("2 lines are outlines" in note for note in splits.report.notes)


def test_a_score_is_ignored_with_a_warning(tmp_path: Path) -> None:
    splits = one(tmp_path, f"{LINE} 0.9\n")
    assert len(splits.train.boxes) == 1
    assert any("score" in problem.rule for problem in splits.report.problems)


@pytest.mark.parametrize("text", ["", "\n\n", None])
def test_an_image_without_lines_or_file_is_a_negative(tmp_path: Path, text: str | None) -> None:
    put(tmp_path, "images/2.jpg")
    if text is not None:
        put(tmp_path, "labels/2.txt", text)
    splits = one(tmp_path, LINE)
    assert np.diff(splits.train.box_offsets).tolist() == [1, 0]
    assert any("no label file" in note for note in splits.report.notes) == (text is None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat 0.5 0.5 0.2 0.4", "not a class and numbers"),
        ("0 0.5 0.5 0.2", "not class, x, y"),
        ("0 nan 0.5 0.2 0.4", "not class, x, y"),
        ("0 0.5 inf 0.2 0.4", "not class, x, y"),
        ("0 0.5 0,5,1 0.2 abc", "not a class"),
        ("-1 0.5 0.5 0.2 0.4", "class -1"),
        ("0.5 0.5 0.5 0.2 0.4", "class 0.5"),
        ("2 0.5 0.5 0.2 0.4", r"class 2 has no name in classes\.txt"),
        ("0 0.1 0.2 0.5 0.2 0.3 0.6 0.7", "outline of 7 numbers"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"labels/1\.txt:2: .*{message}"):
        one(tmp_path, f"{LINE}\n{line}\n")
    report = Report(collect_all=True)
    assert len(one(tmp_path, f"{LINE}\n{line}\n{LINE[:-1]}3", report=report).train.boxes) == 2
    assert [problem.file for problem in report.problems if problem.fatal] == [f"{tmp_path}/labels/1.txt:2"]


def test_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels/1\.txt:1: .*pixels"):
        one(tmp_path, "0 20 20 10 10\n1 30 20 10 10\n")


# Class names


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "cat\ndog\n"),
        ("labels/classes.txt", "cat\ndog\n"),
        ("obj.names", "cat\ndog\n"),
        ("data.yaml", "names: [cat, dog]\n"),
        ("data.yaml", "nc: 2\nnames:\n  0: cat\n  1: dog\n"),
        ("mine.yml", "train: images\nnames: ['cat', \"dog\"]\n"),
    ],
)
def test_files_of_class_names(tmp_path: Path, file: str, text: str) -> None:
    put(tmp_path, "images/1.jpg")
    put(tmp_path, "labels/1.txt", "1 0.5 0.5 0.2 0.4")
    put(tmp_path, file, text)
    splits = read(tmp_path, **ALL_TRAIN)
    assert (splits.class_names, splits.train.labels.tolist()) == (("cat", "dog"), [1])


@pytest.mark.parametrize("text", ["nc: 2\n", None])
def test_without_names_classes_are_numbered(tmp_path: Path, text: str | None) -> None:
    put(tmp_path, "images/1.jpg")
    put(tmp_path, "labels/1.txt", "1 0.5 0.5 0.2 0.4")
    if text is not None:
        put(tmp_path, "data.yaml", text)
    assert "class_1" in read(tmp_path, **ALL_TRAIN).class_names


@pytest.mark.parametrize("text", ["names: 5\n", "names: {a: b}\n", "names: [cat\n", "- 1\n"])
def test_a_wrong_yaml_is_named(tmp_path: Path, text: str) -> None:
    put(tmp_path, "images/1.jpg")
    put(tmp_path, "data.yaml", text)
    with pytest.raises(DataError, match=r"data\.yaml"):
        read(tmp_path)


def test_several_yaml_files_need_a_choice(tmp_path: Path) -> None:
    put(tmp_path, "images/1.jpg")
    put(tmp_path, "labels/1.txt", LINE)
    for name in ("a", "b"):
        put(tmp_path, f"{name}.yaml", f"train: images\nnames: [{name}]\n")
    with pytest.raises(ConfigError, match=r"a\.yaml, b\.yaml; give dataset\.data_yaml"):
        read(tmp_path)
    assert read(tmp_path, data_yaml="b.yaml", **ALL_TRAIN).class_names == ("b",)
    with pytest.raises(ConfigError, match=r"dataset\.data_yaml=c\.yaml"):
        read(tmp_path, data_yaml="c.yaml")


# Splits


@pytest.mark.parametrize("folder", ["images/{}/", "{}/images/", "{}/"])
@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "valid", "Testing")])
def test_a_folder_for_each_split(tmp_path: Path, folder: str, names: tuple[str, ...]) -> None:
    """The same names in all splits."""
    for name in names:
        put(tmp_path, f"{folder.format(name)}1.jpg")
        put(tmp_path, f"{folder.format(name).replace('images', 'labels')}1.txt", LINE)
    splits = read(tmp_path)
    assert paths(splits) == {
        split: [f"{folder.format(name)}1.jpg"] for split, name in zip(("train", "val", "test"), names, strict=True)
    }
    assert [len(index.boxes) for _, index in splits.items()] == [1, 1, 1]


@pytest.mark.parametrize(
    "text",
    [
        "train: images/a\nval: images/b\n",
        "path: ../datasets/mine\ntrain: images/a/\nval: images/b/\n",
        "train: ../images/a\nval: ../images/b\n",
        "train: /home/me/mine/images/a\nval: /home/me/mine/images/b\n",
        "train: [images/a]\nval: [images/b]\n",
        "train: a.txt\nvalid: b.txt\n",
    ],
)
def test_splits_of_a_yaml(tmp_path: Path, text: str) -> None:
    for folder in "ab":
        put(tmp_path, f"images/{folder}/{folder}.jpg")
        put(tmp_path, f"labels/{folder}/{folder}.txt", LINE)
        put(tmp_path, f"{folder}.txt", f"./images/{folder}/{folder}.jpg\n")
    put(tmp_path, "data.yaml", f"{text}names: [cat]\n")
    splits = read(tmp_path)
    assert paths(splits) == {"train": ["images/a/a.jpg"], "val": ["images/b/b.jpg"]}
    assert [len(index.boxes) for _, index in splits.items()] == [1, 1]


def test_a_yaml_with_the_folders_of_another_machine_falls_back(tmp_path: Path) -> None:
    put(tmp_path, "data.yaml", "train: /mnt/x/images\nval: /mnt/y/images\nnames: [cat]\n")
    for name in ("train", "val"):
        put(tmp_path, f"pics/{name}/1.jpg")
        put(tmp_path, f"pics/{name}/1.txt", LINE)
    splits = read(tmp_path)
    assert paths(splits) == {"train": ["pics/train/1.jpg"], "val": ["pics/val/1.jpg"]}


def test_darknet_lists(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path, f"obj_train_data/{number}.jpg")
        put(tmp_path, f"obj_train_data/{number}.txt", LINE)
    put(tmp_path, "obj.names", "cat\n")
    put(tmp_path, "train.txt", "data/obj_train_data/0.jpg\ndata/obj_train_data/1.jpg\n")
    put(tmp_path, "valid.txt", "/home/me/data/obj_train_data/2.jpg\n")
    assert paths(read(tmp_path)) == {
        "train": ["obj_train_data/0.jpg", "obj_train_data/1.jpg"],
        "val": ["obj_train_data/2.jpg"],
    }


def test_an_image_of_a_list_that_is_missing_is_named(tmp_path: Path) -> None:
    put(tmp_path, "train.txt", "images/1.jpg\nimages/2.jpg\n")
    with pytest.raises(DataError, match=r"train\.txt:2: 'images/2\.jpg' is no image below dataset\.root="):
        one(tmp_path, LINE)


def test_images_and_labels_in_one_folder_are_divided(tmp_path: Path) -> None:
    for number in range(10):
        put(tmp_path, f"{number}.jpg")
        put(tmp_path, f"{number}.txt", LINE)
    put(tmp_path, "classes.txt", "cat\n")
    put(tmp_path, "README.txt", "hello")
    splits = read(tmp_path)
    assert {name: len(index) for name, index in splits.items()} == {"train": 8, "val": 1, "test": 1}
    assert sum(len(index.boxes) for _, index in splits.items()) == 10


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "classes.txt", "cat\n")
    with pytest.raises(DataError, match="no image"):
        read(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read(tmp_path / "absent")
