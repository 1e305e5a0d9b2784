"""Folders and split lists of VOC datasets; for the XML see test_voc.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from voc_files import (
    add,
    add_list,
    object_xml,
    read,
    stems,
    write_annotation,
    write_image,
    write_voc,
)

from ssd.common.errors import ConfigError, DataError
from ssd.data.splits import Splits

NAMES = [f"{number:03d}" for number in range(40)]


def sizes(splits: Splits) -> dict[str, int]:
    return {name: len(index) for name, index in splits.items()}


def paths(splits: Splits) -> dict[str, list[str]]:
    return {name: [index.paths[position] for position in range(len(index))] for name, index in splits.items()}


def readable(splits: Splits) -> bool:
    return all(index.load(index.paths[0]).shape == (40, 50, 3) for _, index in splits.items())


# ImageSets/Main


def test_train_val_and_test_are_taken_as_listed(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": NAMES[:5], "val": NAMES[5:8], "trainval": NAMES[:8], "test": NAMES[8:9]})
    splits = read(tmp_path)
    assert [stems(index) for _, index in splits.items()] == [NAMES[:5], NAMES[5:8], NAMES[8:9]]
    assert readable(splits)


def test_trainval_alone_gives_a_tenth_to_validation(tmp_path: Path) -> None:
    write_voc(tmp_path, {"trainval": NAMES})
    splits = read(tmp_path)
    assert sizes(splits) == {"train": 36, "val": 4}
    assert sorted(stems(splits.train) + stems(splits.val)) == NAMES
    assert paths(read(tmp_path)) == paths(splits)
    assert paths(read(tmp_path, seed=1)) != paths(splits)


def test_empty_val_list_gives_a_tenth_to_validation(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": NAMES[:30], "val": [], "trainval": NAMES[:30], "test": NAMES[30:]})
    splits = read(tmp_path)
    assert sizes(splits) == {"train": 27, "val": 3, "test": 10}
    assert sorted(stems(splits.train) + stems(splits.val)) == NAMES[:30]


def test_empty_choice_is_no_such_split(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": NAMES[:3], "val": NAMES[3:5], "test": NAMES[5:6]})
    assert sizes(read(tmp_path, val_splits=[], test_splits=[])) == {"train": 3}


def test_splits_can_be_chosen_by_name(tmp_path: Path) -> None:
    write_voc(tmp_path, {"mine": NAMES[:3], "yours": NAMES[3:5], "ours": NAMES[5:6]})
    splits = read(tmp_path, train_splits=["mine", "ours"], val_splits=["yours"])
    assert paths(splits) == {
        "train": [f"JPEGImages/{name}.jpg" for name in ("000", "001", "002", "005")],
        "val": [f"JPEGImages/{name}.jpg" for name in ("003", "004")],
    }


def test_unknown_split_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": NAMES[:2], "val": NAMES[2:3]})
    with pytest.raises(ConfigError, match=r"no split 'minitrain'.* train, val"):
        read(tmp_path, train_splits=["minitrain"])


def test_lists_of_a_class_leave_out_the_images_without_it(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": NAMES[:4]})
    add_list(tmp_path, "cat_train", ["000  1", "001 -1", "002  0", ""])
    assert stems(read(tmp_path, train_splits=["cat_train"], val_splits=[]).train) == ["000", "002"]


def test_no_training_image_is_an_error(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": [], "test": NAMES[:2]})
    with pytest.raises(DataError, match="no image in the training split"):
        read(tmp_path)


def test_one_image_in_two_splits_is_an_error(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": NAMES[:4], "val": NAMES[4:5], "test": NAMES[3:4]})
    with pytest.raises(DataError, match="Annotations/003: is in the train and in the test split"):
        read(tmp_path)


def test_one_image_in_two_chosen_lists_is_taken_once(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": NAMES[:3], "trainval": NAMES[:4]})
    assert stems(read(tmp_path, train_splits=["train", "trainval"], val_splits=[]).train) == NAMES[:4]


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../../outside", "..", "a\0b"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    write_voc(root, {"train": NAMES[:2]})
    write_annotation(tmp_path / "outside.xml", [object_xml("secret")])
    path = add_list(root, "train", [NAMES[0], name])
    with pytest.raises(DataError) as caught:
        read(root)
    assert str(caught.value).startswith(f"{path}:2: {name!r} ")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
def test_lists_may_start_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    write_voc(tmp_path, {"train": ["été"]})
    add_list(tmp_path, "train", []).write_text("été\r\n", encoding=encoding)
    assert stems(read(tmp_path, val_splits=[]).train) == ["été"]


def test_list_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": NAMES[:2], "val": NAMES[2:3]})
    path = add_list(tmp_path, "val", [])
    path.write_bytes(b"\xff\xfe\xfa000\n")
    with pytest.raises(DataError, match=r"val\.txt: not UTF-8"):
        read(tmp_path)


# VOCdevkit


@pytest.mark.parametrize("below", ["", "VOCdevkit"])
def test_2007_and_2012_are_the_recipe_of_the_paper(tmp_path: Path, below: str) -> None:
    """The same name in both years means two images."""
    write_voc(tmp_path / below / "VOC2007", {"trainval": NAMES[:10], "train": NAMES[:5], "test": NAMES[10:13]})
    write_voc(tmp_path / below / "VOC2012", {"trainval": NAMES[:10], "val": NAMES[5:10]})
    splits = read(tmp_path)
    assert sizes(splits) == {"train": 18, "val": 2, "test": 3}
    prefix = f"{below}/" if below else ""
    assert paths(splits)["test"] == [f"{prefix}VOC2007/JPEGImages/{name}.jpg" for name in NAMES[10:13]]
    both = {f"{prefix}VOC20{year}/JPEGImages/{name}.jpg" for year in ("07", "12") for name in NAMES[:10]}
    assert {*paths(splits)["train"], *paths(splits)["val"]} == both
    assert readable(splits)


def test_splits_of_a_year_can_be_chosen(tmp_path: Path) -> None:
    write_voc(tmp_path / "VOC2007", {"train": NAMES[:3], "val": NAMES[3:5], "trainval": NAMES[:5]})
    splits = read(tmp_path, train_splits=["VOC2007/train"], val_splits=["VOC2007/val"])
    assert sizes(splits) == {"train": 3, "val": 2}


# Folders without lists


def add_beside(folder: Path, name: str, suffix: str) -> None:
    write_image(folder / f"{name}{suffix}")
    write_annotation(folder / f"{name}.xml", [object_xml()])


def test_xml_beside_the_image_in_train_and_test_folders(tmp_path: Path) -> None:
    for name in NAMES[:20]:
        add_beside(tmp_path / "images" / "train", name, ".JPG")
    for name in NAMES[:3]:  # the same names, but other images
        add_beside(tmp_path / "images" / "test", name, ".jpeg")
    splits = read(tmp_path)
    assert sizes(splits) == {"train": 18, "val": 2, "test": 3}
    assert paths(splits)["test"] == [f"images/test/{name}.jpeg" for name in NAMES[:3]]
    assert all(path.startswith("images/train/") for path in paths(splits)["train"] + paths(splits)["val"])
    assert readable(splits)


def test_valid_and_training_are_names_of_folders_too(tmp_path: Path) -> None:
    for folder, name in (("Training", "a"), ("valid", "b"), ("TEST", "c")):
        add_beside(tmp_path / folder, name, ".png")
    assert paths(read(tmp_path)) == {"train": ["Training/a.png"], "val": ["valid/b.png"], "test": ["TEST/c.png"]}


def test_folder_without_splits_is_split_by_the_seed(tmp_path: Path) -> None:
    for name in NAMES:
        add_beside(tmp_path / ("left" if name < "020" else "right"), name, ".png")
    splits = read(tmp_path)
    assert sizes(splits) == {"train": 32, "val": 4, "test": 4}
    assert sorted(name for _, index in splits.items() for name in stems(index)) == NAMES
    assert paths(read(tmp_path)) == paths(splits)
    assert paths(read(tmp_path, seed=1)) != paths(splits)
    assert readable(splits)


def test_annotations_and_images_may_have_separate_folders(tmp_path: Path) -> None:
    for name in NAMES[:10]:
        write_image(tmp_path / "images" / f"{name}.png")
        write_annotation(tmp_path / "annotations" / f"{name}.xml", [object_xml()])
    assert sizes(read(tmp_path)) == {"train": 8, "val": 1, "test": 1}


def test_image_is_found_by_its_stem_whatever_filename_says(tmp_path: Path) -> None:
    for name, suffix in (("a", ".PNG"), ("b", ".Jpeg"), ("c.d", ".jpg")):
        add(tmp_path, name, object_xml(), suffix=suffix)
    add_list(tmp_path, "train", ["a", "b", "c.d"])
    index = read(tmp_path, val_splits=[]).train
    assert [index.paths[position] for position in range(3)] == [
        "JPEGImages/a.PNG",
        "JPEGImages/b.Jpeg",
        "JPEGImages/c.d.jpg",
    ]


def test_folder_without_lists_has_no_splits_to_choose(tmp_path: Path) -> None:
    add_beside(tmp_path, "a", ".png")
    with pytest.raises(ConfigError, match="no ImageSets/Main"):
        read(tmp_path, train_splits=["train"])


def test_folder_that_is_missing_or_has_no_annotation_says_where_to_get_voc(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder.*ssd download dataset=voc"):
        read(tmp_path / "nowhere")
    write_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"no XML file.*ssd download dataset=voc"):
        read(tmp_path)
