"""Annotations: valid and invalid XML. For folders and splits see test_voc_layouts.py."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from voc_files import (
    CAT_BOX,
    HEIGHT,
    WIDTH,
    add,
    add_list,
    object_xml,
    read,
    read_one,
    rules,
    stems,
    write_annotation,
    write_voc,
)

from ssd.common.errors import ConfigError, DataError

CAT = object_xml("cat")
FIRST_OBJECT_LINE = 4


# Coordinates


def test_coordinates_start_at_one(tmp_path: Path) -> None:
    index = read_one(tmp_path, object_xml("cat", CAT_BOX)).train
    assert np.array_equal(index.boxes, np.array([[10 / 50, 20 / 40, 30 / 50, 40 / 40]], dtype=np.float32))
    assert index.sizes.tolist() == [[HEIGHT, WIDTH]]


def test_coordinates_may_be_fractions_of_a_pixel(tmp_path: Path) -> None:
    index = read_one(tmp_path, object_xml("cat", ("11.5", " 2.1e1 ", "+31.25", "40."))).train
    assert np.array_equal(index.boxes, np.array([[10.5 / 50, 20 / 40, 30.25 / 50, 39 / 40]], dtype=np.float32))


def test_edges_count_from_zero_in_some_files_and_are_clipped_silently(tmp_path: Path) -> None:
    splits = read_one(tmp_path, object_xml("cat", (0, 0, WIDTH, HEIGHT)))
    assert splits.train.boxes[0, :2].tolist() == [0, 0]
    assert rules(splits) == []


def test_size_of_the_image_file_is_used_not_the_annotated_one(tmp_path: Path) -> None:
    for name, size in (("a", (1000, 999)), ("b", (0, 0)), ("c", (HEIGHT, WIDTH))):
        add(tmp_path, name)
        write_annotation(tmp_path / "Annotations" / f"{name}.xml", [CAT], size=size)
    add_list(tmp_path, "train", ["a", "b", "c"])
    splits = read(tmp_path, val_splits=[])
    assert (splits.train.boxes == splits.train.boxes[2]).all()
    assert splits.train.sizes.tolist() == [[HEIGHT, WIDTH]] * 3
    assert [problem.file for problem in splits.report.problems] == [
        f"{tmp_path}/Annotations/{name}.xml:3" for name in "ab"
    ]
    assert all("size in the annotation" in rule for rule in rules(splits))


@pytest.mark.parametrize("size", ["", "<size/>", "<size><width>?</width><height>1e999</height></size>"])
def test_size_is_optional(tmp_path: Path, size: str) -> None:
    path = add(tmp_path, "one", CAT)
    path.write_text(f"<annotation>{size}{CAT}</annotation>")
    add_list(tmp_path, "train", ["one"])
    splits = read(tmp_path, val_splits=[])
    assert len(splits.train.boxes) == 1
    assert rules(splits) == []


def test_difficult_objects_are_ignored_and_the_tag_may_be_absent_or_empty(tmp_path: Path) -> None:
    written = [None, "", "0", "1", " 1 "]
    boxes = [(1 + shift, 1, 20 + shift, 30) for shift in range(len(written))]
    objects = [object_xml("cat", box, difficult=flag) for box, flag in zip(boxes, written, strict=True)]
    assert read_one(tmp_path, *objects).train.ignore.tolist() == [False, False, False, True, True]


def test_parts_of_an_object_are_no_objects(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    index = read_one(tmp_path, CAT.replace("  </object>", f"{part}</object>")).train
    assert index.class_names == ("cat",)
    assert len(index.boxes) == 1


def test_every_box_knows_its_line(tmp_path: Path) -> None:
    index = read_one(tmp_path, CAT, object_xml("dog", difficult="1"), CAT.replace("11", "12")).train
    assert index.source_lines.tolist() == [7, 17, 26]


def test_image_without_objects_is_kept(tmp_path: Path) -> None:
    add(tmp_path, "empty")
    add(tmp_path, "full", CAT)
    add_list(tmp_path, "train", ["empty", "full"])
    index = read(tmp_path, val_splits=[]).train
    assert stems(index) == ["empty", "full"]
    assert index.rows(0) == slice(0, 0)
    assert index.rows(1) == slice(0, 1)


# Classes


def test_classes_are_found_in_all_splits_and_sorted(tmp_path: Path) -> None:
    for name in ("dog", "cat", "ant"):
        add(tmp_path, name, object_xml(name))
    for split, name in (("train", "dog"), ("val", "cat"), ("test", "ant")):
        add_list(tmp_path, split, [name])
    splits = read(tmp_path)
    assert splits.class_names == ("ant", "cat", "dog")
    assert [index.class_names for _, index in splits.items()] == [splits.class_names] * 3
    assert [index.labels.tolist() for _, index in splits.items()] == [[2], [1], [0]]


def test_given_classes_keep_their_order(tmp_path: Path) -> None:
    splits = read_one(tmp_path, object_xml("cat"), object_xml("dog"), classes=["dog", "cat"])
    assert splits.class_names == ("dog", "cat")
    assert splits.train.labels.tolist() == [1, 0]


def test_objects_of_other_classes_are_left_out_and_counted(tmp_path: Path) -> None:
    splits = read_one(tmp_path, object_xml("cat"), object_xml("dog"), object_xml("dog"), classes=["cat"])
    assert splits.train.labels.tolist() == [0]
    assert rules(splits) == ["object of class 'dog' skipped: not in dataset.classes"] * 2


def test_class_without_objects_is_fine(tmp_path: Path) -> None:
    splits = read_one(tmp_path, object_xml("cat"), classes=["cat", "zeppelin"])
    assert splits.train.class_counts().tolist() == [1, 0]


def test_misspelt_class_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no class 'Cats'; did you mean 'cat'\?.*dataset\.classes"):
        read_one(tmp_path, object_xml("cat"), object_xml("dog"), classes=["Cats", "dog"])


def test_class_listed_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'cat' is listed twice"):
        read_one(tmp_path, CAT, classes=["cat", "dog", "cat"])


# Boxes that are changed


def test_boxes_without_area_are_dropped_and_reported_by_line(tmp_path: Path) -> None:
    splits = read_one(tmp_path, object_xml("cat", (30, 5, 10, 20)), object_xml("dog", (5, 5, 5, 20)), object_xml("cat"))
    assert splits.train.labels.tolist() == [0]
    path = tmp_path / "Annotations" / "one.xml"
    assert splits.report.summary_lines() == [
        f"2 x box without area (x2 <= x1 or y2 <= y1) dropped: {path}:7, {path}:16"
    ]


def test_strict_refuses_a_box_that_would_be_changed(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"Annotations/one\.xml:7: box without area .*\(4, 4, 4, 19\) px; .*one\.jpg.*strict=true"
    ):
        read_one(tmp_path, object_xml("cat", (5, 5, 5, 20)), strict=True)
    assert len(read_one(tmp_path, CAT, strict=True).train.boxes) == 1


# What cannot be read: file and line


def refused(root: Path, annotation: str, line: int | None, match: str) -> None:
    path = add(root, "one")
    path.write_text(annotation)
    add_list(root, "train", ["one"])
    with pytest.raises(DataError, match=match) as caught:
        read(root, val_splits=[])
    assert str(caught.value).startswith(f"{path}:" if line is None else f"{path}:{line}: ")
    assert "\n" not in str(caught.value)


def annotation(*objects: str) -> str:
    return "\n".join(["<annotation>", "", "", *objects, "</annotation>"])


@pytest.mark.parametrize("value", ["NaN", "nan", "inf", "-Infinity", "1e999", "abc", "1,5", "", "0x10", "1_0"])
def test_coordinate_that_is_no_number_is_named_with_its_line(tmp_path: Path, value: str) -> None:
    wrong = object_xml("dog", (1, 2, value, 30))
    line_in_second_object = FIRST_OBJECT_LINE + 9 + 5
    refused(tmp_path, annotation(CAT, wrong, CAT), line_in_second_object, "object 2: <xmax> is .*, not a number")


def test_missing_element_is_named_with_the_line_of_its_object(tmp_path: Path) -> None:
    without_name = CAT.replace("    <name>cat</name>\n", "")
    without_edge = CAT.replace("      <ymin>21</ymin>\n", "")
    without_box = "  <object>\n    <name>cat</name>\n  </object>"
    for wrong, message in ((without_name, "no <name>"), (without_edge, "<ymin> is ''"), (without_box, "no <bndbox>")):
        refused(tmp_path, annotation(CAT, wrong, CAT), FIRST_OBJECT_LINE + 9, f"object 2: {message}")


def test_text_that_is_no_xml_is_named_with_its_line(tmp_path: Path) -> None:
    refused(tmp_path, "<annotation>\n<object>\n</annotation>\n", 3, "not XML")
    refused(tmp_path, "", 1, "not XML")
    refused(tmp_path, "11 21 31 41\n", 1, "not XML")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_xml_may_be_in_any_unicode_encoding(tmp_path: Path, encoding: str) -> None:
    path = add(tmp_path, "one")
    path.write_text(annotation(object_xml("猫")), encoding=encoding)
    add_list(tmp_path, "train", ["one"])
    splits = read(tmp_path, val_splits=[])
    assert splits.class_names == ("猫",)
    assert splits.train.source_lines.tolist() == [FIRST_OBJECT_LINE + 3]


# XML that attacks


def test_billion_laughs_are_refused_at_once(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY l0 "laugh">{entities}]><annotation>&l11;</annotation>'
    start = time.monotonic()
    refused(tmp_path, bomb, None, "refused")
    assert time.monotonic() - start < 60  # written out it would take hours


def test_external_entity_is_refused_and_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    attack = f'<!DOCTYPE a [<!ENTITY x SYSTEM "{secret.as_uri()}">]><annotation><filename>&x;</filename></annotation>'
    refused(tmp_path, attack, None, r"refused: (?!.*the secret)")


# Images that cannot be used


def test_annotation_that_is_listed_must_exist(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["a"]})
    add_list(tmp_path, "train", ["a", "b"])
    with pytest.raises(DataError, match=r"Annotations/b\.xml: no such annotation"):
        read(tmp_path)


def test_missing_and_broken_images_are_listed(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["a", "b", "c"]})
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    (tmp_path / "JPEGImages" / "b.jpg").write_bytes(b"<html></html>")
    with pytest.raises(DataError, match="2 of 3 images cannot be read") as caught:
        read(tmp_path, val_splits=[])
    assert f"{tmp_path}/JPEGImages/a.jpg: no such image" in str(caught.value)
    assert f"{tmp_path}/JPEGImages/b.jpg: not an image" in str(caught.value)


def test_one_missing_image_of_a_thousand_is_skipped_and_reported(tmp_path: Path) -> None:
    names = [f"{number:04d}" for number in range(1000)]
    write_voc(tmp_path, {"train": names})
    (tmp_path / "JPEGImages" / "0500.jpg").unlink()
    splits = read(tmp_path, val_splits=[])
    assert stems(splits.train) == [name for name in names if name != "0500"]
    assert [problem.file for problem in splits.report.problems] == ["JPEGImages/0500.jpg"]
    (tmp_path / "JPEGImages" / "0501.jpg").unlink()
    with pytest.raises(DataError, match="2 of 1000 images cannot be read"):
        read(tmp_path, val_splits=[])
