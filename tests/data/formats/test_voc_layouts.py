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
    write_voc(tmp_path, {"train": NAMES[:4], "val": NAMES[4:5], "test": NAMES[3:6]})
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
    with pytest.raises(DataError, match=r"val\.txt:1: not UTF-16"):
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


# Lists of other programs


def lines(root: Path, path: str, *entries: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("".join(f"{entry}\n" for entry in entries))


@pytest.mark.parametrize("folder", ["ImageSets/Main", "ImageSets", "imagesets/main", ""])
@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train", "val"),
        ("Training", "validation"),
        ("train_list", "val_list"),
        ("train2017", "valid"),
        ("trainval", "dev"),
    ],
)
@pytest.mark.parametrize("form", ["{}", "{}.jpg", "JPEGImages/{}.jpg Annotations/{}.xml", "/home/me/JPEGImages/{}.jpg"])
def test_lists_of_any_form(tmp_path: Path, folder: str, train: str, val: str, form: str) -> None:
    for name in NAMES[:5]:
        add(tmp_path, name, object_xml())
    for split, names in ((train, NAMES[:3]), (val, NAMES[3:4])):
        lines(tmp_path / folder, f"{split}.txt", *(form.format(name, name) for name in names))
    splits = read(tmp_path)
    assert [stems(index) for _, index in splits.items()] == [NAMES[:3], NAMES[3:4]]
    assert sum("images of" in note for note in splits.report.notes) == 2
    assert any("1 annotations are in no list" in note for note in splits.report.notes)


def test_a_devkit_with_any_folder(tmp_path: Path) -> None:
    write_voc(tmp_path / "VOCdevkit" / "Mine", {"train": NAMES[:3], "val": NAMES[3:5], "test": NAMES[5:6]})
    splits = read(tmp_path)
    assert [stems(index) for _, index in splits.items()] == [NAMES[:3], NAMES[3:5], NAMES[5:6]]
    for choice in ("val", "Mine/val"):
        assert stems(read(tmp_path, train_splits=[choice], val_splits=[]).train) == NAMES[3:5]


@pytest.mark.parametrize("name", ["default", "all"])
def test_a_list_whose_name_is_no_split_is_divided(tmp_path: Path, name: str) -> None:
    for item in NAMES[:12]:
        add(tmp_path, f"cam1/{item}", object_xml())
    lines(tmp_path, f"ImageSets/Main/{name}.txt", *(f"cam1/{item}" for item in NAMES[:10]))
    splits = read(tmp_path)
    assert sizes(splits) == {"train": 8, "val": 1, "test": 1}
    assert any(f"ImageSets/Main/{name}.txt" in note for note in splits.report.notes)


def test_lists_of_classes_make_a_split_where_there_are_no_others(tmp_path: Path) -> None:
    for item in NAMES[:6]:
        add(tmp_path, item, object_xml())
    for label, flags in (("cat", (1, -1, -1)), ("dog", (-1, 1, -1))):
        lines(
            tmp_path, f"ImageSets/Main/{label}_train.txt", *(f"{n}.jpg {f}" for n, f in zip(NAMES, flags, strict=False))
        )
        lines(
            tmp_path,
            f"ImageSets/Main/{label}_val.txt",
            *(f"{n}.jpg {f}" for n, f in zip(NAMES[3:], flags, strict=False)),
        )
    assert [stems(index) for _, index in read(tmp_path).items()] == [NAMES[:3], NAMES[3:6]]


def test_names_that_end_in_a_number_are_names(tmp_path: Path) -> None:
    names = ["room", "room 1", "room -1", "room 0", "hall 1"]
    write_voc(tmp_path, {"train": names})
    add(tmp_path, "hall", object_xml())
    assert sorted(stems(read(tmp_path, val_splits=[]).train)) == sorted(names)


def test_a_line_that_means_two_annotations_names_both(tmp_path: Path) -> None:
    for camera in ("cam1", "cam2"):
        add(tmp_path, f"{camera}/0", object_xml())
    lines(tmp_path, "ImageSets/Main/train.txt", "0")
    with pytest.raises(DataError, match=r"train\.txt:1: '0' is Annotations/cam1/0\.xml or Annotations/cam2/0\.xml"):
        read(tmp_path)


def test_merged_sets_of_a_capture_tool_train_with_a_warning(tmp_path: Path) -> None:
    write_voc(tmp_path, dict.fromkeys(("train", "val", "trainval", "test"), NAMES[:6]))
    splits = read(tmp_path)
    assert sizes(splits) == {"train": 6, "val": 6, "test": 6}
    rules = [problem.rule for problem in splits.report.problems]
    assert all(any(f"results on {split} are no test" in rule for rule in rules) for split in ("val", "test"))


def test_an_empty_list_is_as_none(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": NAMES[:10], "val": [], "test": []})
    assert sizes(read(tmp_path)) == {"train": 9, "val": 1}


# Folders for splits


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train_set", "val_set", "test_set"),
        ("Train", "Validation", "Test"),
        ("data/train", "data/valid", "data/test"),
        ("training_images", "validation_images", "testing_images"),
    ],
)
def test_folders_whose_names_contain_a_split(tmp_path: Path, train: str, val: str, test: str) -> None:
    for folder, names in ((train, NAMES[:6]), (val, NAMES[6:8]), (test, NAMES[8:9])):
        for name in names:
            add_beside(tmp_path / folder, name, ".jpg")
    add_beside(tmp_path, "stray", ".jpg")
    splits = read(tmp_path)
    assert sizes(splits) == {"train": 6, "val": 2, "test": 1}
    assert any("stray.xml" in note for note in splits.report.notes)


def test_a_class_called_train_is_no_split(tmp_path: Path) -> None:
    for folder, names in (("bus", NAMES[:10]), ("train", NAMES[10:15])):
        for name in names:
            add_beside(tmp_path / folder, name, ".jpg")
    assert sum(sizes(read(tmp_path)).values()) == 15


def test_images_and_annotations_have_a_folder_for_each_split(tmp_path: Path) -> None:
    for split, names in (("train", NAMES[:4]), ("val", NAMES[:2])):
        for name in names:
            write_image(tmp_path / "images" / split / f"{name}.jpg")
            write_annotation(tmp_path / "annotations" / split / f"{name}.xml", [object_xml()])
    splits = read(tmp_path)
    assert paths(splits)["val"] == ["images/val/000.jpg", "images/val/001.jpg"]
    assert sizes(splits) == {"train": 4, "val": 2}


def test_hidden_and_helper_folders_do_not_count(tmp_path: Path) -> None:
    for name in NAMES[:4]:
        add_beside(tmp_path, name, ".jpg")
    for folder in (".ipynb_checkpoints", "__MACOSX", ".idea"):
        write_annotation(tmp_path / folder / "x.xml", [object_xml("no")])
    (tmp_path / "._000.xml").write_bytes(b"\0\5\x16\7")
    assert read(tmp_path).class_names == ("cat",)


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    for name in NAMES[:4]:
        add(tmp_path / "store", name, object_xml())
    root = tmp_path / "root"
    root.mkdir()
    for folder in ("Annotations", "JPEGImages"):
        (root / folder).symlink_to(tmp_path / "store" / folder)
    assert sum(sizes(read(root)).values()) == 4
