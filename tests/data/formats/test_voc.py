"""Annotations: valid and invalid XML. For folders and splits see test_voc_layouts.py."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
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
    write_image,
    write_voc,
)

from ssd.common.errors import ConfigError, DataError
from ssd.data.splits import Splits

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
    (problem,) = splits.report.problems  # a size of 0 is as none
    assert problem.file == f"{tmp_path}/Annotations/a.xml:3"
    assert "size in the annotation" in problem.rule


@pytest.mark.parametrize("size", ["", "<size/>", "<size><width>?</width><height>1e999</height></size>"])
def test_size_is_optional(tmp_path: Path, size: str) -> None:
    path = add(tmp_path, "one", CAT)
    path.write_text(f"<annotation>{size}{CAT}</annotation>")
    add_list(tmp_path, "train", ["one"])
    splits = read(tmp_path, val_splits=[])
    assert len(splits.train.boxes) == 1
    assert rules(splits) == []


def test_difficult_objects_are_ignored_and_the_tag_may_be_absent_or_empty(tmp_path: Path) -> None:
    written = [None, "", "0", "Unspecified", "false", "0.0", "1", " 1 ", "2", "1.0", "True"]
    boxes = [(1 + shift, 1, 20 + shift, 30) for shift in range(len(written))]
    objects = [object_xml("cat", box, difficult=flag) for box, flag in zip(boxes, written, strict=True)]
    assert read_one(tmp_path, *objects).train.ignore.tolist() == [False] * 6 + [True] * 5


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
    assert rules(splits) == ["2 objects of class 'dog' skipped: not in dataset.classes"]


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
    with pytest.raises(DataError, match=r"ImageSets/Main/train\.txt:2: 'b' has no XML file"):
        read(tmp_path)


def test_missing_and_broken_images_are_listed(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["a", "b", "c"]})
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    (tmp_path / "JPEGImages" / "b.jpg").write_bytes(b"<html></html>")
    with pytest.raises(DataError, match="2 of 3 images cannot be read") as caught:
        read(tmp_path, val_splits=[])
    assert f"{tmp_path}/JPEGImages/a.jpg: no such image" in str(caught.value)
    assert f"{tmp_path}/JPEGImages/b.jpg: not an image" in str(caught.value)


def test_a_few_missing_images_are_skipped_and_reported(tmp_path: Path) -> None:
    names = [f"{number:04d}" for number in range(100)]
    write_voc(tmp_path, {"train": names})
    for name in names[50:60]:
        (tmp_path / "JPEGImages" / f"{name}.jpg").unlink()
    splits = read(tmp_path, val_splits=[])
    assert stems(splits.train) == [*names[:50], *names[60:]]
    assert [problem.file for problem in splits.report.problems] == [f"JPEGImages/{name}.jpg" for name in names[50:60]]
    (tmp_path / "JPEGImages" / "0001.jpg").unlink()
    with pytest.raises(DataError, match="11 of 100 images cannot be read"):
        read(tmp_path, val_splits=[])


# What other programs write


def one(root: Path, text: str | bytes) -> Splits:
    path = add(root, "one")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    add_list(root, "train", ["one"])
    return read(root, val_splits=[])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("<annotation>", '<annotation xmlns="http://example.org/voc">'),
        lambda text: (
            text.replace("<", "<v:").replace("<v:/", "</v:").replace("<v:annotation", '<v:annotation xmlns:v="x"')
        ),
        lambda text: re.sub(r"</?\w+", lambda tag: tag.group().upper(), text),
        lambda text: text.replace("bndbox", "BndBox").replace("object", "Object"),
    ],
    ids=["namespace", "prefix", "upper case", "mixed case"],
)
def test_tags_have_any_namespace_and_case(tmp_path: Path, change: Callable[[str], str]) -> None:
    index = one(tmp_path, change(annotation(object_xml("Cat", difficult="1")))).train
    assert (index.class_names, index.ignore.tolist(), len(index.boxes)) == (("Cat",), [True], 1)


def test_an_empty_object_is_none(tmp_path: Path) -> None:
    index = one(tmp_path, annotation("<object/>", CAT, "<object>\n</object>")).train
    assert len(index.boxes) == 1


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("猫", "gb2312"), ("猫", "GBK"), ("고양이", "cp949"), ("ネコ", "Shift_JIS"), ("chât", "iso-8859-1")],
)
def test_a_declared_encoding_is_used(tmp_path: Path, name: str, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n' + annotation(object_xml(name))
    index = one(tmp_path, text.encode(encoding)).train
    assert index.class_names == (name,)
    assert index.source_lines.tolist() == [FIRST_OBJECT_LINE + 4]


@pytest.mark.parametrize(
    ("declared", "message"), [("", "save it as UTF-8"), ('<?xml version="1.0" encoding="klingon"?>', "klingon")]
)
def test_an_encoding_that_is_not_known_is_refused(tmp_path: Path, declared: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"one\.xml:.*{message}"):
        one(tmp_path, declared.encode() + annotation(object_xml("白色的猫")).encode("gbk"))


def test_xml_of_another_kind_is_skipped_with_a_warning(tmp_path: Path) -> None:
    for name in "abc":
        add(tmp_path, name, CAT)
    (tmp_path / "build.xml").write_text("<project><target/></project>")
    splits = read(tmp_path)
    assert sum(len(index) for _, index in splits.items()) == 3
    assert [problem.file for problem in splits.report.problems] == [f"{tmp_path}/build.xml"]


# The image of an annotation


def found(root: Path, annotation_name: str, images: Sequence[str], *, filename: str = "") -> str:
    for name in images:
        write_image(root / name)
    write_annotation(root / annotation_name, [CAT], filename=filename)
    splits = read(root, val_share=0, test_share=0)
    assert splits.train.load(splits.train.paths[0]).shape == (HEIGHT, WIDTH, 3)
    return splits.train.paths[0]


@pytest.mark.parametrize(
    ("name", "images", "filename", "image"),
    [
        ("Annotations/0.xml", ["JPEGImages/0.jpg"], "other.jpg", "JPEGImages/0.jpg"),
        ("Annotations/0.xml", ["JPEGImages/0.JPG"], "", "JPEGImages/0.JPG"),
        ("annotations/0.jpg.xml", ["images/0.jpg"], "", "images/0.jpg"),
        ("0.xml", ["0.jpg", "0.png"], "0.png", "0.png"),
        ("annotations/0.xml", ["street_0.jpg"], "street_0.jpg", "street_0.jpg"),
        ("annotations/0.xml", ["images/cam/street.jpg"], "cam\\street.jpg", "images/cam/street.jpg"),
        ("annotations/0.xml", ["my photo.jpg"], "my%20photo.jpg", "my photo.jpg"),
        ("Annotations/cam1/0.xml", ["JPEGImages/cam1/0.jpg", "JPEGImages/cam2/0.jpg"], "", "JPEGImages/cam1/0.jpg"),
        ("Annotations/0.xml", ["JPEGImages/0.jpg", "SegmentationClass/0.png"], "", "JPEGImages/0.jpg"),
        ("labels/0.xml", ["pics/0.jpg"], "", "pics/0.jpg"),
        ("Annotations/cam.0.x.xml", ["JPEGImages/cam.0.x.jpg"], "", "JPEGImages/cam.0.x.jpg"),
    ],
)
def test_the_image_of_an_annotation(tmp_path: Path, name: str, images: list[str], filename: str, image: str) -> None:
    assert found(tmp_path, name, images, filename=filename) == image


def test_two_images_that_fit_equally_well_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0\.xml: 0\.jpg and 0\.png fit.*'x\.jpg'"):
        found(tmp_path, "0.xml", ["0.jpg", "0.png"], filename="x.jpg")


def test_two_annotations_of_one_image_are_named(tmp_path: Path) -> None:
    write_annotation(tmp_path / "old" / "0.xml", [CAT])
    with pytest.raises(DataError, match=r"old/0\.xml: images/0\.jpg has another annotation, Annotations/0\.xml"):
        found(tmp_path, "Annotations/0.xml", ["images/0.jpg"])


def test_an_image_in_a_format_that_is_not_read_is_named(tmp_path: Path) -> None:
    write_annotation(tmp_path / "0.xml", [CAT])
    (tmp_path / "0.jxl").write_bytes(b"\xff\x0a" + bytes(40))
    with pytest.raises(DataError, match=r"0\.jxl: a JPEG XL image"):
        read(tmp_path)
