"""The format of a folder is found, or the message says what is there. For random folders see test_round_trip.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from voc_files import write_image

from ssd.common.errors import ConfigError, DataError
from ssd.data.formats.detect import detect_format

VOC = "<annotation><object><name>a</name></object></annotation>"
COCO = json.dumps({"images": [], "annotations": [], "categories": []})
LINE = "0 0.5 0.5 0.2 0.4\n"


def folder(root: Path, **files: str) -> str:
    write_image(root / "1.jpg")
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("voc", {"1_DOT_xml": VOC, "package_DOT_json": "{}", "README_DOT_txt": "hello", "labels_DOT_txt": "a"}),
        ("coco", {"a_DOT_json": COCO, "config_DOT_xml": "<project/>", "requirements_DOT_txt": "torch"}),
        ("yolo", {"1_DOT_txt": LINE, "settings_DOT_json": "{}", "config_DOT_xml": "<project/>"}),
        ("yolo", {"data_DOT_yaml": "names: [a]\ntrain: x\n"}),
        ("openimages", {"sub-train-annotations-bbox_DOT_csv": "ImageID", "notes_DOT_txt": "1 2 3 4 5"}),
        ("openimages", {"train__Car__Label__1_DOT_txt": "Car 1 2 3 4"}),
        ("voc", {"1_DOT_xml": VOC, "data_DOT_yaml": "names: [a]\ntrain: x\n"}),
    ],
)
def test_the_format_is_found_among_other_files(tmp_path: Path, name: str, files: dict[str, str]) -> None:
    assert detect_format(folder(tmp_path, **files)) == name


def test_two_formats_are_named_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"COCO \(b\.json\) and PASCAL VOC \(1\.xml\).*dataset=coco or dataset=voc"):
        detect_format(folder(tmp_path, **{"1_DOT_xml": VOC, "b_DOT_json": COCO}))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "1 images, but no annotations"),
        ({"a_DOT_json": '{"shapes": [], "imagePath": "1.jpg"}'}, "LabelMe"),
        ({"a_DOT_tfrecord": "x"}, r"a\.tfrecord: TFRecord"),
        ({"boxes_DOT_csv": "file,x,y"}, r"boxes\.csv: CSV"),
        ({"a_DOT_xml": "<project/>"}, r"a\.xml"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        detect_format(folder(tmp_path, **files))


def test_an_empty_or_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        detect_format(str(tmp_path))
    with pytest.raises(DataError, match="no such folder"):
        detect_format(str(tmp_path / "absent"))
