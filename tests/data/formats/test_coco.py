"""COCO format: valid and invalid JSON, and finding files and images."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from voc_files import HEIGHT, WIDTH, rules, write_image

from ssd.common.errors import ConfigError, DataError
from ssd.data.formats.coco import read_coco
from ssd.data.splits import Splits

COCO128 = Path(__file__).parents[4] / "shared" / "data" / "coco" / "coco128"
TRAIN, VAL, TEST = (f"annotations/instances_{split}.json" for split in ("train", "val", "test"))
ONLY_TRAIN = {"val_json": "", "test_json": ""}
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 90, "name": "cat"}]  # gaps, and not in alphabetical order


def image(id: int, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": id, "file_name": name or f"{id}.jpg", "height": HEIGHT, "width": WIDTH} | more


def box(image_id: int, **more: Any) -> dict[str, Any]:
    return {"id": 500, "image_id": image_id, "category_id": 90, "bbox": [10, 20, 20, 20], "iscrowd": 0} | more


def write(path: Path, images: list[Any], boxes: list[Any], categories: list[Any] = CATEGORIES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))


def read(root: Path, **settings: Any) -> Splits:
    return read_coco(str(root), **settings)


def read_one(root: Path, *boxes: dict[str, Any], **settings: Any) -> Splits:
    """A dataset of one image, the id of which is 1, with these boxes."""
    write_image(root / "1.jpg")
    write(root / TRAIN, [image(1)], list(boxes))
    return read(root, **(ONLY_TRAIN | settings))


def paths(splits: Splits) -> dict[str, list[str]]:
    return {name: [index.paths[position] for position in range(len(index))] for name, index in splits.items()}


# Boxes and classes


def test_boxes_are_xywh_and_the_first_pixel_is_zero(tmp_path: Path) -> None:
    index = read_one(tmp_path, box(1, bbox=[10, 20, 20.5, 20])).train
    assert np.array_equal(index.boxes, np.array([[10 / 50, 20 / 40, 30.5 / 50, 1]], dtype=np.float32))


def test_box_of_the_whole_image_is_valid(tmp_path: Path) -> None:
    splits = read_one(tmp_path, box(1, bbox=[0, 0, WIDTH, HEIGHT]), strict=True)
    assert splits.train.boxes.tolist() == [[0, 0, 1, 1]]


def test_ids_with_gaps_become_labels_in_alphabetical_order(tmp_path: Path) -> None:
    splits = read_one(tmp_path, box(1, category_id=7), box(1, category_id=90))
    assert splits.class_names == ("cat", "dog")
    assert splits.train.labels.tolist() == [1, 0]


def test_each_file_may_number_its_classes_differently(tmp_path: Path) -> None:
    for number, path in enumerate((TRAIN, VAL)):
        write_image(tmp_path / f"{number}.jpg")
        write(tmp_path / path, [image(number)], [box(number, category_id=3)], [{"id": 3, "name": "ab"[number]}])
    splits = read(tmp_path)
    assert [index.class_names for _, index in splits.items()] == [("a", "b")] * 2
    assert [index.labels.tolist() for _, index in splits.items()] == [[0], [1]]


def test_crowds_are_ignored(tmp_path: Path) -> None:
    written = [{"iscrowd": 0}, {"iscrowd": 1}, {"iscrowd": None}]
    boxes = [box(1, bbox=[shift, 0, 9, 9], **flag) for shift, flag in enumerate(written)]
    assert read_one(tmp_path, *boxes).train.ignore.tolist() == [False, True, False]


def test_every_box_knows_its_entry(tmp_path: Path) -> None:
    boxes = [box(1, id=30, category_id=7), box(1, id=31), box(1, id=32, bbox=[1, 1, 5, 5])]
    index = read_one(tmp_path, *boxes, classes=["cat"]).train
    assert index.location(0, 1) == f"{tmp_path / TRAIN}: annotation 32"


@pytest.mark.parametrize("id", [10**12, "a", None, -1, 1.5])
def test_boxes_whose_ids_are_no_usual_numbers_are_known_by_their_position(tmp_path: Path, id: object) -> None:
    index = read_one(tmp_path, box(1, id=5), box(1, id=id, bbox=[1, 1, 5, 5])).train
    assert index.location(0, 1) == f"{tmp_path / TRAIN}: annotation number 2"


def test_image_without_boxes_is_a_negative(tmp_path: Path) -> None:
    splits = read_one(tmp_path)
    assert (len(splits.train), len(splits.train.boxes), splits.class_names) == (1, 0, ("cat", "dog"))


def test_chosen_classes_keep_their_order_and_others_are_counted(tmp_path: Path) -> None:
    splits = read_one(tmp_path, box(1, category_id=7), box(1), box(1, category_id=7), classes=["zebu", "cat"])
    assert splits.class_names == ("zebu", "cat")
    assert splits.train.labels.tolist() == [1]
    assert rules(splits) == ["2 objects of class 'dog' skipped: not in dataset.classes"]


def test_misspelt_class_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'cat'"):
        read_one(tmp_path, box(1), classes=["Cat"])


def test_boxes_without_area_are_dropped_or_refused(tmp_path: Path) -> None:
    inverted = box(1, bbox=[30, 20, -10, 20])
    splits = read_one(tmp_path, inverted, box(1))
    assert len(splits.train.boxes) == 1
    assert rules(splits) == ["box without area (x2 <= x1 or y2 <= y1) dropped"]
    with pytest.raises(DataError, match=r"\.json: annotation \d+: box without area .*strict=true"):
        read_one(tmp_path, inverted, strict=True)


def test_size_of_the_image_file_is_used_not_the_annotated_one(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_image(tmp_path / f"{number}.jpg")
    without = image(3)
    del without["width"]
    write(tmp_path / TRAIN, [image(1, width=999), image(2), without], [box(1), box(2), box(3)])
    splits = read(tmp_path, **ONLY_TRAIN)
    assert (splits.train.boxes == splits.train.boxes[1]).all()
    assert [(problem.file, problem.value) for problem in splits.report.problems] == [
        (f"{tmp_path / TRAIN}: image 1", "999 x 40; 1.jpg, 50 x 40 px")
    ]
    assert "size in the annotation" in rules(splits)[0]


# Files and splits


@pytest.mark.parametrize(
    "folder", ["", "images", "train", "images/train", "train2017", "images/train2017", "annotations"]
)
def test_images_are_found_below_root(tmp_path: Path, folder: str) -> None:
    write_image(tmp_path / folder / "1.jpg")
    write(tmp_path / "annotations" / "instances_train2017.json", [image(1)], [box(1)])
    splits = read(tmp_path, **ONLY_TRAIN)
    assert paths(splits) == {"train": [(Path(folder) / "1.jpg").as_posix()]}
    assert splits.train.load(splits.train.paths[0]).shape == (HEIGHT, WIDTH, 3)


def test_folder_of_the_images_can_be_given(tmp_path: Path) -> None:
    write_image(tmp_path / "root" / "1.jpg")
    write_image(tmp_path / "elsewhere" / "deep" / "1.jpg")
    write(tmp_path / "root" / TRAIN, [image(1, "deep/1.jpg")], [box(1)])
    splits = read(tmp_path / "root", images=str(tmp_path / "elsewhere"), **ONLY_TRAIN)
    assert paths(splits) == {"train": [f"{tmp_path}/elsewhere/deep/1.jpg"]}
    assert splits.train.load(splits.train.paths[0]).shape == (HEIGHT, WIDTH, 3)


def three_splits(root: Path, pattern: str) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        write_image(root / split / "0.jpg")  # the same name, another image
        write(root / pattern.format(split), [image(number, "0.jpg")], [box(number)])


@pytest.mark.parametrize("pattern", ["annotations/instances_{}2017.json", "{}.json", "{}/_annotations.coco.json"])
def test_splits_are_found_by_name(tmp_path: Path, pattern: str) -> None:
    three_splits(tmp_path, pattern)
    (tmp_path / "annotations").mkdir(exist_ok=True)
    expected = {"train": ["train/0.jpg"], "val": ["valid/0.jpg"], "test": ["test/0.jpg"]}
    assert paths(read(tmp_path)) == expected


def test_captions_and_keypoints_beside_the_boxes_are_skipped(tmp_path: Path) -> None:
    three_splits(tmp_path, "annotations/instances_{}2017.json")
    (tmp_path / "annotations" / "captions_train2017.json").write_text("{}")
    assert len(paths(read(tmp_path))) == 3


def test_one_file_is_split_by_the_seed(tmp_path: Path) -> None:
    for number in range(20):
        write_image(tmp_path / f"{number}.jpg")
    write(tmp_path / "annotations" / "all.json", [image(n) for n in range(20)], [box(n) for n in range(20)])
    found = paths(read(tmp_path))
    assert {name: len(items) for name, items in found.items()} == {"train": 16, "val": 2, "test": 2}
    assert len({path for items in found.values() for path in items}) == 20
    assert paths(read(tmp_path)) == found
    assert paths(read(tmp_path, seed=1)) != found
    assert {name: len(items) for name, items in paths(read(tmp_path, test_json="")).items()} == {"train": 18, "val": 2}


def test_validation_is_held_out_where_it_is_missing(tmp_path: Path) -> None:
    for number in range(11):
        write_image(tmp_path / f"{number}.jpg")
    write(tmp_path / TRAIN, [image(n) for n in range(10)], [])
    write(tmp_path / TEST, [image(10)], [])
    assert {name: len(items) for name, items in paths(read(tmp_path)).items()} == {"train": 9, "val": 1, "test": 1}


def test_files_can_be_given(tmp_path: Path) -> None:
    three_splits(tmp_path, "annotations/instances_{}2017.json")
    given = {"train_json": "annotations/instances_valid2017.json", "val_json": "", "test_json": ""}
    write_image(tmp_path / "instances_valid2017" / "0.jpg")
    assert list(paths(read(tmp_path, **given))) == ["train"]
    with pytest.raises(ConfigError, match=r"dataset\.val_json=none\.json: no such file"):
        read(tmp_path, val_json="none.json")


def test_several_files_for_a_split_are_named(tmp_path: Path) -> None:
    three_splits(tmp_path, "annotations/instances_{}2017.json")
    write(tmp_path / "annotations" / "instances_train2014.json", [], [])
    with pytest.raises(ConfigError, match=r"several JSON for train: .*train2014\.json, .*give dataset\.train_json="):
        read(tmp_path)


def test_image_in_two_splits_is_refused(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_image(tmp_path / f"{number}.jpg")
    for path, other in ((TRAIN, 2), (VAL, 3)):
        write(tmp_path / path, [image(1), image(other)], [box(1)])
    with pytest.raises(DataError, match=r"1\.jpg: is in the train and in the val split"):
        read(tmp_path)


def test_message_about_a_folder_without_json_says_what_to_download(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no JSON of annotations.*annotations_trainval2017\.zip"):
        read(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read(tmp_path / "none")


def test_missing_and_broken_images_are_listed(tmp_path: Path) -> None:
    write_image(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").write_bytes(b"<html></html>")
    write(tmp_path / TRAIN, [image(1), image(2), image(3)], [box(1)])
    with pytest.raises(DataError, match="2 of 3 images cannot be read") as caught:
        read(tmp_path, **ONLY_TRAIN)
    assert "2.jpg: not an image" in str(caught.value)
    assert "3.jpg: no such image" in str(caught.value)


def test_one_missing_image_of_a_thousand_is_skipped(tmp_path: Path) -> None:
    for number in range(1, 1000):
        write_image(tmp_path / f"{number}.jpg")
    write(tmp_path / TRAIN, [image(number) for number in range(1000)], [box(0), box(999)])
    splits = read(tmp_path, **ONLY_TRAIN)
    assert (len(splits.train), len(splits.train.boxes)) == (999, 1)
    assert len(splits.report.problems) == 1


# What cannot be read: file and id

GOOD = {"images": [image(1), image(2)], "annotations": [box(1), box(2, id=501)], "categories": CATEGORIES}


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("annotations", {"image_id": 99}, "annotation 501: image_id 99 is not in images"),
        ("annotations", {"image_id": "1"}, "annotation 501: image_id '1' is not in images"),
        ("annotations", {"image_id": None}, "annotation 501: image_id is None"),
        ("annotations", {"category_id": 8}, "annotation 501: category_id 8 is not in categories"),
        ("annotations", {"category_id": [1]}, r"annotation 501: category_id is \[1\]"),
        ("annotations", {"iscrowd": "yes"}, "annotation 501: iscrowd is 'yes'; it must be 0 or 1"),
        ("annotations", {"iscrowd": []}, r"annotation 501: iscrowd is \[\]; it must be 0 or 1"),
        ("images", {"id": 1}, "image 1: the id is used twice"),
        ("images", {"id": 1.5}, "image 1.5: id is 1.5"),
        ("images", {"file_name": "1.jpg"}, r"image 2: 1\.jpg is listed twice"),
        ("images", {"file_name": None}, "image 2: file_name is None"),
        ("categories", {"id": 7}, "category 7: the id is used twice"),
        ("categories", {"name": ""}, "category 90: name is ''"),
    ],
)
def test_wrong_entry_is_named(tmp_path: Path, key: str, change: dict[str, Any], message: str) -> None:
    content = copy.deepcopy(GOOD)
    content[key][1] |= change
    refused(tmp_path, json.dumps(content), message)


@pytest.mark.parametrize(
    "value",
    [
        *[None, "box", {"x": 1}, [], [1, 2, 3], [1, 2, 3, 4, 5]],
        *[[1, 2, "3", 4], [1, 2, None, 4], [1, 2, True, 4], [1, [2], 3, 4]],
        *[[1, 2, float("nan"), 4], [float("-inf"), 2, 3, 4], [10**400, 2, 3, 4], [1e300, 2, 3, 4]],
    ],
)
def test_box_that_is_not_four_numbers_is_named(tmp_path: Path, value: object) -> None:
    content = json.dumps(GOOD | {"annotations": [box(1), box(1, id=501, bbox=value)]})
    refused(tmp_path, content, "annotation 501: bbox is .*four numbers")


@pytest.mark.parametrize(("key", "entry"), [("images", "file_name"), ("annotations", "bbox"), ("categories", "name")])
def test_missing_field_is_named_even_without_an_id(tmp_path: Path, key: str, entry: str) -> None:
    content = copy.deepcopy(GOOD)
    del content[key][1][entry]
    refused(tmp_path, json.dumps(content), f" {content[key][1]['id']}: {entry} is None")
    del content[key][1]["id"]
    refused(tmp_path, json.dumps(content), "without id|annotation number 2")


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_missing_list_is_named(tmp_path: Path, key: str) -> None:
    refused(tmp_path, json.dumps({name: entries for name, entries in GOOD.items() if name != key}), f"no list '{key}'")
    refused(tmp_path, json.dumps(GOOD | {key: [3]}), f"{key}: entry 1 is '3', not an object")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: not JSON"),
        ('{"images": [],\n\n  oops}', ":3: not JSON"),
        ("<html></html>", ":1: not JSON"),
        ("[1, 2]", "not in COCO format"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5000, "not JSON"),
        (b"\xff\xfe\xfa\xfb\xfc", "not JSON"),
    ],
)
def test_text_that_is_no_coco_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    refused(tmp_path, text, message)


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.jpg", "a/../../secret.jpg", "a\0.jpg"])
def test_hostile_file_name_is_refused(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / "secret.jpg")
    refused(
        tmp_path / "root", json.dumps(GOOD | {"images": [image(1), image(2, name)]}), "image 2: file_name .* refused"
    )


@pytest.mark.parametrize("name", ["C:\\secret.jpg", "..\\secret.jpg", "\\\\host\\share\\a.jpg"])
def test_hostile_file_name_of_windows_is_refused(tmp_path: Path, name: str) -> None:
    refused(tmp_path, json.dumps(GOOD | {"images": [image(1), image(2, name)]}), "image 2: file_name .* refused")


def test_name_that_is_too_long_is_a_missing_image(tmp_path: Path) -> None:
    write_image(tmp_path / "1.jpg")
    write(tmp_path / TRAIN, [image(1), image(2, "a" * 5000 + ".jpg")], [])
    with pytest.raises(DataError, match="1 of 2 images cannot be read"):
        read(tmp_path, **ONLY_TRAIN)


def refused(root: Path, text: str | bytes, message: str) -> None:
    path = root / TRAIN
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for number in (1, 2):
        write_image(root / f"{number}.jpg")
    with pytest.raises(DataError, match=message) as caught:
        read(root, **ONLY_TRAIN)
    assert str(caught.value).startswith(f"{path}:")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


# The configuration


def test_configuration_names_the_arguments() -> None:
    config = OmegaConf.load(Path(__file__).parents[3] / "conf" / "dataset" / "coco.yaml")
    own = set(config) - {"_target_", "defaults"}
    assert own == set(inspect.signature(read_coco).parameters) - {"report", "options"}


# The real thing


@pytest.mark.skipif(not COCO128.is_dir(), reason=f"no {COCO128}")
def test_coco128() -> None:
    splits = read(COCO128)
    indexes = [index for _, index in splits.items()]
    assert {name: len(index) for name, index in splits.items()} == {"train": 102, "val": 13, "test": 13}
    assert sum(len(index.boxes) for index in indexes) == 939
    assert sum(int(index.ignore.sum()) for index in indexes) == 10
    assert sum(int((np.diff(index.box_offsets) == 0).sum()) for index in indexes) == 2
    assert len(splits.class_names) == 80
    assert splits.report.problems == []
    assert splits.train.load(splits.train.paths[0]).shape[:2] == tuple(splits.train.sizes[0])


@pytest.mark.skipif(not COCO128.is_dir(), reason=f"no {COCO128}")
def test_coco128_boxes_are_those_of_the_file() -> None:
    content = json.loads((COCO128 / "annotations" / "instances_train2017.json").read_text())
    names = {item["id"]: item["name"] for item in content["categories"]}
    ids = {item["file_name"]: item["id"] for item in content["images"]}
    index = read(COCO128, **ONLY_TRAIN).train
    for position in range(len(index)):
        rows, (height, width) = index.rows(position), index.sizes[position].tolist()
        written = [item for item in content["annotations"] if item["image_id"] == ids[Path(index.paths[position]).name]]
        x1, y1, x2, y2 = (index.boxes[rows].astype(np.float64) * (width, height, width, height)).T
        xywh = np.array([item["bbox"] for item in written]).reshape(-1, 4)
        assert np.allclose(np.column_stack((x1, y1, x2 - x1, y2 - y1)), xywh, atol=1e-3)
        assert [index.class_names[label] for label in index.labels[rows]] == [
            names[item["category_id"]] for item in written
        ]
        assert index.ignore[rows].tolist() == [item["iscrowd"] == 1 for item in written]


# What other programs write


def one_json(root: Path, path: str, name: str, *boxes: dict[str, Any], categories: list[Any] = CATEGORIES) -> Splits:
    write(root / path, [image(1, name)], list(boxes or [box(1)]), categories)
    return read(root, val_share=0, test_share=0)


@pytest.mark.parametrize(
    ("json_path", "name", "image_path"),
    [
        ("labels.json", "1.jpg", "data/1.jpg"),
        ("result.json", "images/1.jpg", "images/1.jpg"),
        ("result.json", "images\\1.jpg", "images/1.jpg"),
        ("result.json", "images/my%20photo.jpg", "images/my photo.jpg"),
        ("annotations/instances_default.json", "1.jpg", "images/1.jpg"),
        ("annotations/instances_default.json", "1.jpg", "images/cam1/1.JPG"),
        ("Annotations/a.json", "cam1/1.jpg", "images/cam1/1.jpg"),
        ("a.json", "/home/me/images/1.jpg", "images/1.jpg"),
        ("a.json", "C:\\data\\1.jpg", "1.jpg"),
        ("a.json", "1", "1.png"),
    ],
)
def test_the_image_of_a_file_name(tmp_path: Path, json_path: str, name: str, image_path: str) -> None:
    write_image(tmp_path / image_path)
    assert list(one_json(tmp_path, json_path, name).train.paths) == [image_path]


def test_files_of_splits_find_their_own_images(tmp_path: Path) -> None:
    """The same names in all splits."""
    for split, folder in (("train", "train2017"), ("val", "val2017"), ("test", "test")):
        write_image(tmp_path / folder / "1.jpg")
        write(tmp_path / f"annotations/custom_{split}.json", [image(1)], [box(1)])
    assert paths(read(tmp_path)) == {"train": ["train2017/1.jpg"], "val": ["val2017/1.jpg"], "test": ["test/1.jpg"]}


def test_other_json_beside_is_skipped(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_image(tmp_path / split / f"{split}.jpg")
        write(tmp_path / split / "_annotations.coco.json", [image(1, f"{split}.jpg")], [box(1)])
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / ".vscode").mkdir()
    (tmp_path / ".vscode" / "settings.json").write_text("{}")
    assert paths(read(tmp_path)) == {"train": ["train/train.jpg"], "val": ["valid/valid.jpg"]}


def test_an_image_that_is_not_found_names_the_setting_and_the_folders(tmp_path: Path) -> None:
    write_image(tmp_path / "pics" / "2.jpg")
    with pytest.raises(DataError, match=r"a\.json: none of its 1 images .*'1\.jpg'.*dataset\.images=.*pics \(1\)"):
        one_json(tmp_path, "a.json", "1.jpg")
    with pytest.raises(ConfigError, match=r"dataset\.images=absent: no such folder.*pics \(1\)"):
        read(tmp_path, images="absent")


def test_two_images_that_fit_are_named(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_image(tmp_path / folder / "1.jpg")
    with pytest.raises(DataError, match=r"a/1\.jpg or b/1\.jpg; give dataset\.images"):
        one_json(tmp_path, "x.json", "1.jpg")
    assert list(read(tmp_path, images="b", val_share=0, test_share=0).train.paths) == ["b/1.jpg"]


def test_ids_and_names_that_are_numbers(tmp_path: Path) -> None:
    write_image(tmp_path / "1.jpg")
    write(tmp_path / "a.json", [image(1) | {"id": 1.0}], [box(1, category_id=7.0)], [{"id": 7, "name": 12}])
    splits = read(tmp_path, val_share=0, test_share=0)
    assert splits.class_names == ("12",)
    assert len(splits.train.boxes) == 1


@pytest.mark.parametrize(
    ("value", "ignored"), [(True, True), (False, False), (1.0, True), ("1", True), ("0", False), (None, False)]
)
def test_forms_of_iscrowd(tmp_path: Path, value: object, ignored: bool) -> None:
    assert read_one(tmp_path, box(1, iscrowd=value)).train.ignore.tolist() == [ignored]


def test_an_unused_group_of_all_categories_is_no_class(tmp_path: Path) -> None:
    """Roboflow's export."""
    write_image(tmp_path / "1.jpg")
    group = {"id": 0, "name": "pets", "supercategory": "none"}
    categories = [group, *({**item, "supercategory": "pets"} for item in CATEGORIES)]
    assert one_json(tmp_path, "a.json", "1.jpg", categories=categories).class_names == ("cat", "dog")
    used = one_json(tmp_path, "a.json", "1.jpg", box(1, category_id=0), categories=categories)
    assert used.class_names == ("cat", "dog", "pets")


def test_categories_of_one_name_are_one_class(tmp_path: Path) -> None:
    write_image(tmp_path / "1.jpg")
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]
    boxes = [box(1, category_id=1), box(1, category_id=2, bbox=[0, 0, 9, 9])]
    splits = one_json(tmp_path, "a.json", "1.jpg", *boxes, categories=categories)
    assert (splits.class_names, splits.train.labels.tolist()) == (("cat",), [0, 0])
    assert any("same name" in problem.rule for problem in splits.report.problems)


FOREIGN = {
    "LabelMe": {"version": "5", "flags": {}, "shapes": [], "imagePath": "1.jpg"},
    "CreateML": [{"image": "1.jpg", "annotations": [{"label": "cat", "coordinates": {}}]}],
    "VIA": {"1.jpg123": {"filename": "1.jpg", "size": 123, "regions": []}},
    "Label Studio": [{"id": 1, "data": {"image": "1.jpg"}, "annotations": []}],
    "VoTT": {"asset": {"name": "1.jpg"}, "regions": []},
    "Supervisely": {"size": {"height": 1, "width": 1}, "objects": []},
    "COCO results": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}],
}


@pytest.mark.parametrize("name", FOREIGN)
def test_json_of_another_program_is_named(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / "1.jpg")
    for number in range(3):
        (tmp_path / f"{number}.json").write_text(json.dumps(FOREIGN[name]))
    with pytest.raises(DataError, match=rf"0\.json \(and 2 more JSON files\): {name}.*export"):
        read(tmp_path)
