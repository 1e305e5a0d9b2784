"""With a report that collects errors, every wrong row or entry of a file is listed, by its line or id."""

from __future__ import annotations

from pathlib import Path

import test_coco
import test_openimages
import voc_files

from ssd.data.formats.coco import read_coco
from ssd.data.formats.openimages import read_openimages
from ssd.data.validation import Report


def without_area(report: Report) -> list[tuple[str, str, bool]]:
    """(file and line, value, fatal) of the boxes without area."""
    found = [item for item in report.problems if "without area" in item.rule]
    return [(item.file, item.value, item.fatal) for item in found]


def test_all_wrong_rows_of_a_csv_are_reported_by_line(tmp_path: Path) -> None:
    row = test_openimages.row
    rows = [row("a"), row("b", XMin="NaN"), row("c", XMax="0,5"), row("d", YMin="wide"), row("e/../f"), row("g")]
    rows += [row("h", IsGroupOf=7), row("i", XMax=0.05), row("j")]
    path = test_openimages.write(tmp_path, "train", rows, images=False)
    path.write_text("\n" + path.read_text().replace("\n", "\n\n", 1))
    for name in "abcdghi":
        voc_files.write_image(tmp_path / "train" / f"{name}.jpg")
    report = Report(collect_all=True)
    read_openimages(
        str(tmp_path),
        classes=["Person", "Caar"],
        expand_hierarchy=False,
        include_depictions=False,
        strict=False,
        report=report,
    )
    lines = {problem.file.rpartition(":")[2]: problem.rule for problem in report.problems if problem.fatal}
    assert [lines[line].split(" is ")[0] for line in ("5", "7", "8", "10")] == ["XMin", "YMin", "ImageID", "IsGroupOf"]
    assert "15 columns" in lines["6"] or "14 columns" in lines["6"]
    assert any("'Caar'" in item.rule and "'Car'" in item.rule for item in report.problems if item.fatal)
    assert ("train/j", "no such image; skipped") in [(item.file, item.rule) for item in report.problems]
    assert without_area(report) == [(f"{path}:11", "(5, 10, 2.5, 30) px; train/i.jpg, 50 x 40 px", False)]


def test_boxes_of_a_csv_are_reported_by_their_own_lines(tmp_path: Path) -> None:
    """Equal boxes, other classes, depictions and wrong rows are between them."""
    row = test_openimages.row
    rows = [row("b", XMax=0.05), row("a"), row("b"), row("a", "Car"), row("a", IsDepiction=1), row("a", XMin="x")]
    rows += [row("a"), row("c", XMin=1.5, XMax="1.75000"), row("a")]
    path = test_openimages.write(tmp_path, "train", rows, images=False)
    for name in "abc":
        voc_files.write_image(tmp_path / "train" / f"{name}.jpg")
    report = Report(collect_all=True)
    settings = {"expand_hierarchy": False, "include_depictions": False, "strict": False}
    read_openimages(str(tmp_path), classes=["Person"], **settings, report=report)
    found = [item for item in report.problems if "px" in item.value]
    assert sorted((item.file, item.rule.split()[0], item.value.split(";")[0]) for item in found) == [
        (f"{path}:10", "duplicate", "(5, 10, 25, 30) px"),
        (f"{path}:2", "box", "(5, 10, 2.5, 30) px"),
        (f"{path}:8", "duplicate", "(5, 10, 25, 30) px"),
        (f"{path}:9", "box", "(75, 10, 87.5, 30) px"),
    ]


def test_all_wrong_entries_of_a_coco_file_are_reported(tmp_path: Path) -> None:
    image, box = test_coco.image, test_coco.box
    images = [image(1), image(2, "../slip.jpg"), image(3, "1.jpg"), image(1, "again.jpg"), "image", image(4)]
    wrong = [box(1, id=10, bbox=[1, 2, float("nan"), 4]), box(99, id=11), box(1, id=12, category_id=5)]
    wrong += [box(1, id=13, iscrowd=2), box(1, id=14, bbox=[0, 0, 5]), box(2, id=15), box(1, id=16, bbox=[5, 5, -3, 4])]
    test_coco.write(
        tmp_path / test_coco.TRAIN, images, [box(1), *wrong], [*test_coco.CATEGORIES, {"id": 7, "name": "x"}]
    )
    voc_files.write_image(tmp_path / "1.jpg")
    report = Report(collect_all=True)
    settings = dict.fromkeys(["classes", "train_json", "images"]) | test_coco.ONLY_TRAIN
    read_coco(str(tmp_path), **settings, strict=False, seed=0, report=report)
    fatal = " | ".join(str(problem) for problem in report.problems if problem.fatal)
    for text in (
        "annotation 10: bbox",
        "annotation 11: image_id 99",
        "annotation 12: category_id 5",
        "annotation 13: iscrowd",
        "annotation 14: bbox",
        "image 2: file_name",
        "image 3: 1.jpg is listed twice",
        "image 1: the id is used twice",
        "images: entry 5",
        "category 7: the id is used twice",
        "4.jpg: no such",
    ):
        assert text in fatal
    assert "annotation 15" not in fatal  # its image is reported already
    assert without_area(report) == [
        (f"{tmp_path / test_coco.TRAIN}: annotation 16", "(5, 5, 2, 9) px; 1.jpg, 50 x 40 px", False)
    ]
