"""Open Images: valid and invalid columns, flags, classes and ids, and missing images."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from openimages_files import CLASSES, COLUMNS, MIDS, csv_text, row, write, write_classes
from voc_files import HEIGHT, WIDTH, rules

from ssd.common.errors import ConfigError, DataError
from ssd.data.formats.openimages import read_openimages
from ssd.data.formats.openimages_csv import read_rows
from ssd.data.formats.openimages_files import read_class_names
from ssd.data.splits import Splits
from ssd.data.validation import Report

DATA = Path(__file__).parents[4] / "shared" / "data" / "openimages"
real = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")


def read(root: Path, classes: list[str] | None = None, **settings: Any) -> Splits:
    chosen = ["Person", "Car", "Bus"] if classes is None else classes
    return read_openimages(str(root), **({"classes": chosen, "val_share": 0} | settings))


def read_one(root: Path, *rows: dict[str, object], **settings: Any) -> Splits:
    write(root, "train", list(rows))
    return read(root, **settings)


def ids(splits: Splits) -> dict[str, list[str]]:
    return {name: [index.ids[position] for position in range(len(index))] for name, index in splits.items()}


# Columns and values


def test_columns_are_min_max_min_max(tmp_path: Path) -> None:
    index = read_one(tmp_path, row("a")).train
    assert np.array_equal(index.boxes, np.array([[0.1, 0.25, 0.5, 0.75]], dtype=np.float32))
    assert index.sizes.tolist() == [[HEIGHT, WIDTH]]
    assert index.load(index.paths[0]).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("columns", [COLUMNS[::-1], sorted(COLUMNS), [*COLUMNS[:8], "IsDepiction", "IsGroupOf"]])
def test_columns_are_found_by_name(tmp_path: Path, columns: list[str]) -> None:
    rows = [row("a", "Bus"), row("b", "Car", IsGroupOf=1, XMin=0.2), row("c", IsDepiction=1)]
    write(tmp_path, "train", rows, columns=columns)
    index = read(tmp_path).train
    assert index.labels.tolist() == [2, 1]
    assert index.ignore.tolist() == [False, True]
    assert np.allclose(index.boxes[1], [0.2, 0.25, 0.5, 0.75])


def test_byte_order_mark_blank_lines_quotes_and_windows_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path, "train", [row("a"), row("b", "Car")])
    lines = path.read_text().splitlines()
    lines[1] = ",".join(f'"{cell}"' for cell in lines[1].split(","))
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode())
    index = read(tmp_path).train
    assert index.labels.tolist() == [0, 1]
    assert index.source_lines.tolist() == [3, 5]


@pytest.mark.parametrize("start", ["", "\n", "\n\n"])
@pytest.mark.parametrize("blank", ["", "\n"])
def test_every_box_knows_its_line(tmp_path: Path, start: str, blank: str) -> None:
    """With an empty line between the rows and without, which are two ways of reading."""
    rows = [row("b"), row("a"), row("b", "Airplane"), row("b", "Car", IsDepiction=1), row("b", XMin=0.2)]
    path = write(tmp_path, "train", rows)
    path.write_text(start + path.read_text().replace("a,xclick", f"{blank}a,xclick"))
    index = read(tmp_path).train
    assert list(index.ids) == ["b", "a"]
    first = len(start) + 2
    assert index.source_lines.tolist() == [first, first + len(blank) + 4, first + len(blank) + 1]


def test_ids_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    names = ["00e4060885034751", "60e8122450428903", "0000000000000012", "12", "1e5", "nan", "null", "NA", "true"]
    splits = read_one(tmp_path, *(row(name) for name in names))
    assert ids(splits) == {"train": names}
    assert [Path(splits.train.paths[position]).stem for position in range(len(names))] == names


def test_group_of_is_ignored_and_minus_one_is_unknown(tmp_path: Path) -> None:
    boxes = [row("a", XMin=0.01 * flag + 0.1, IsGroupOf=flag, IsDepiction=min(flag, 0)) for flag in (0, 1, -1)]
    splits = read_one(tmp_path, *boxes)
    assert splits.train.ignore.tolist() == [False, True, False]
    assert rules(splits) == []


def test_depictions_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    splits = read_one(tmp_path, row("a"), row("a", "Car", IsDepiction=1), row("b", IsDepiction=1))
    assert ids(splits) == {"train": ["a"]}
    assert splits.train.labels.tolist() == [0]
    assert rules(splits) == ["2 depictions skipped (dataset.include_depictions)"]
    splits = read(tmp_path, include_depictions=True)
    assert (ids(splits), splits.train.labels.tolist()) == ({"train": ["a", "b"]}, [0, 1, 0])


def test_flags_may_be_absent(tmp_path: Path) -> None:
    write(tmp_path, "train", [row("a")], columns=COLUMNS[:8])
    assert read(tmp_path).train.ignore.tolist() == [False]


def test_rows_of_an_image_need_not_be_adjacent(tmp_path: Path) -> None:
    order = ["b", "a", "b", "c", "a"]
    index = read_one(tmp_path, *(row(id, XMin=0.1 + 0.01 * place) for place, id in enumerate(order))).train
    assert [index.ids[position] for position in range(3)] == ["b", "a", "c"]
    assert index.box_offsets.tolist() == [0, 2, 4, 5]
    assert np.allclose(index.boxes[:, 0], [0.1, 0.12, 0.11, 0.14, 0.13])


def test_many_rows_come_in_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssd.data.formats.openimages_csv._BLOCK", 256)
    path = write(tmp_path, "train", [row(f"{n // 3}", "PCAB"[n % 4], XMin=n / 1000) for n in range(300)], images=False)
    path.write_text(path.read_text().replace(",P,", f",{MIDS['Person']},").replace(",B,", f",{MIDS['Bus']},"))
    rows = read_rows(path, labels={MIDS["Person"]: 0, MIDS["Bus"]: 5}, report=Report())
    assert rows.labels.tolist() == [0, 5] * 75
    assert np.allclose(rows.boxes[:, 0] * 1000, [n for n in range(300) if n % 4 in (0, 3)], atol=1e-3)
    assert rows.lines.tolist() == [n + 2 for n in range(300) if n % 4 in (0, 3)]
    assert [rows.ids[number] for number in rows.image] == [str(n // 3) for n in range(300) if n % 4 in (0, 3)]


def test_inverted_boxes_are_dropped_or_refused(tmp_path: Path) -> None:
    wrong = row("a", XMin=0.9)
    splits = read_one(tmp_path, wrong, row("a"))
    assert len(splits.train.boxes) == 1
    assert rules(splits) == ["box without area (x2 <= x1 or y2 <= y1) dropped"]
    with pytest.raises(DataError, match=r"\.csv:2: box without area .*strict=true"):
        read(tmp_path, strict=True)


# Classes


def test_one_class_list_for_all_splits(tmp_path: Path) -> None:
    write(tmp_path, "train", [row("a"), row("a", "Car"), row("a", "Bus"), row("a", "Airplane")])
    write(tmp_path, "validation", [row("b", "Bus")])
    write(tmp_path, "test", [row("c", "Car")])
    splits = read(tmp_path)
    assert [index.class_names for _, index in splits.items()] == [("Person", "Car", "Bus")] * 3
    assert [index.labels.tolist() for _, index in splits.items()] == [[0, 1, 2], [2], [1]]


def test_classes_keep_their_order_and_are_found_in_any_case(tmp_path: Path) -> None:
    splits = read_one(tmp_path, row("a"), row("a", "Car"), classes=["cAR", "person"])
    assert splits.class_names == ("Car", "Person")
    assert splits.train.labels.tolist() == [1, 0]


def test_all_classes_that_have_a_box(tmp_path: Path) -> None:
    write(tmp_path, "validation", [row("b", "Bus")])
    rows = [row("a"), row("a", "Airplane"), row("a", "Car", IsDepiction=1), row("a", "/m/unknown")]
    write(tmp_path, "train", rows)
    splits = read_openimages(str(tmp_path))
    assert splits.class_names == ("Airplane", "Bus", "Person")
    assert [index.labels.tolist() for _, index in splits.items()] == [[2, 0], [1]]


@pytest.mark.parametrize(
    ("classes", "message"),
    [(["Persn"], "no class 'Persn'; did you mean 'Person'"), (["Quagga"], "no class 'Quagga'; see .* for the 4 names")],
)
def test_unknown_class_gets_a_suggestion(tmp_path: Path, classes: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_one(tmp_path, row("a"), classes=classes)


@pytest.mark.parametrize("classes", [["Car", "Bus", "car"], []])
def test_class_listed_twice_or_none_at_all(tmp_path: Path, classes: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.classes"):
        read_one(tmp_path, row("a"), classes=classes)


@pytest.mark.parametrize("header", ["", "LabelName,DisplayName\n", "\ufefflabel,name\n"])
def test_class_file_may_have_a_header(tmp_path: Path, header: str) -> None:
    write_classes(tmp_path, "oidv7-class-descriptions-boxable.csv", header=header)
    assert read_class_names(tmp_path, [], Report()).names == CLASSES


def test_wrong_line_of_the_class_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, "train", [row("a")])
    (tmp_path / "class-descriptions-boxable.csv").write_text("/m/0k4j,Car\nBus\n")
    with pytest.raises(DataError, match=r"class-descriptions-boxable\.csv:2: 'Bus' is not MID,Name"):
        read(tmp_path)


# Files


def test_names_of_version_6_and_7(tmp_path: Path) -> None:
    write(tmp_path, "train", [row("a")]).rename(tmp_path / "oidv6-train-annotations-bbox.csv")
    (tmp_path / "class-descriptions-boxable.csv").rename(tmp_path / "oidv7-class-descriptions-boxable.csv")
    write_classes(tmp_path, "oidv7-class-descriptions-boxable.csv")
    assert ids(read(tmp_path)) == {"train": ["a"]}


def test_files_of_the_downloader_name_the_classes_themselves(tmp_path: Path) -> None:
    rows = [row("a", "Car", id=MIDS["Car"], ClassName="Car"), row("b", "Bus", id=MIDS["Bus"], ClassName="Bus")]
    path = write(tmp_path, "train", rows, columns=[*COLUMNS, "id", "ClassName"])
    path.rename(tmp_path / f"sub-{path.name}")
    (tmp_path / "class-descriptions-boxable.csv").unlink()
    splits = read(tmp_path, classes=["Bus", "Car"])
    assert splits.train.labels.tolist() == [1, 0]


def test_full_file_comes_before_that_of_the_downloader(tmp_path: Path) -> None:
    write(tmp_path, "train", [row("a"), row("a", "Car")])
    (tmp_path / "sub-train-annotations-bbox.csv").write_text(csv_text([row("a")]))
    assert read(tmp_path).train.labels.tolist() == [0, 1]


def test_message_about_missing_files_says_what_to_download(tmp_path: Path) -> None:
    for root, message in ((tmp_path / "none", "no such folder"), (tmp_path, r"no train-annotations-bbox\.csv")):
        with pytest.raises(DataError, match=f"{message}.*https://storage.googleapis.com/openimages/"):
            read(root)
    write(tmp_path, "train", [row("a")])
    (tmp_path / "class-descriptions-boxable.csv").unlink()
    with pytest.raises(DataError, match=r"no class-descriptions-boxable\.csv"):
        read(tmp_path)


def test_missing_images_are_dropped_and_counted(tmp_path: Path) -> None:
    write(tmp_path, "train", [row("a"), row("b"), row("c", "Car"), row("b", "Bus")])
    write(tmp_path, "test", [row("d")], images=False)
    (tmp_path / "train" / "b.jpg").unlink()
    splits = read(tmp_path)
    assert ids(splits) == {"train": ["a", "c"]}
    assert splits.train.labels.tolist() == [0, 1]
    assert [str(problem) for problem in splits.report.problems] == [
        f"train-annotations-bbox.csv: 1 of 3 images skipped: not in {tmp_path}/train",
        f"test-annotations-bbox.csv: 1 of 1 images skipped: not in {tmp_path}/test",
    ]


def test_no_image_at_all_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "train", [row("a"), row("b")], images=False)
    with pytest.raises(DataError, match=r"no image to train on: .*2 of 2 images skipped: not in .*/train"):
        read(tmp_path)


@pytest.mark.parametrize("rows", [[], [row("a", "Airplane")], [row("a", IsDepiction=1)]])
def test_no_box_of_the_classes_is_an_error(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    with pytest.raises(DataError, match=r"no image to train on: .*no box of the classes"):
        read_one(tmp_path, *rows)


def test_broken_image_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "train", [row("a"), row("b")])
    (tmp_path / "train" / "b.jpg").write_bytes(b"<html></html>")
    with pytest.raises(DataError, match=r"1 of 2 images cannot be read.*train/b\.jpg: not an image"):
        read(tmp_path)


def test_image_in_two_splits_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", [row("a"), row("b")])
    write(tmp_path, "test", [row("a"), row("c")])
    with pytest.raises(DataError, match="a: is in the train and in the test split"):
        read(tmp_path)


# What cannot be read: file and line


def refused(root: Path, text: str | bytes, message: str) -> None:
    path = write(root, "train", [row("a")])
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as caught:
        read(root)
    assert str(caught.value).startswith(f"{path}:")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("value", ["NaN", "nan", "inf", "-Infinity", "1e999", "abc", "", '"0,5"', "0x10", "N/A"])
def test_number_that_is_invalid_is_named_with_its_line(tmp_path: Path, value: str) -> None:
    text = csv_text([row("a"), row("b", XMax=value), row("c")])
    refused(tmp_path, text, r":3: XMax is .*not a number")
    refused(tmp_path, text.replace("\n", "\n\n"), r":5: XMax is .*not a number")


def test_wrong_number_of_columns_is_named_with_its_line(tmp_path: Path) -> None:
    refused(tmp_path, csv_text([row("a"), row("b", XMax="0,5")]), ":3: 14 columns.* 13")
    refused(tmp_path, csv_text([row("a")]) + "b,xclick,/m/0k4j", ":3: 3 columns.* 13")


def test_flag_that_is_invalid_is_named_with_its_line(tmp_path: Path) -> None:
    refused(tmp_path, csv_text([row("a", IsGroupOf="yes")]), ":2: IsGroupOf is 'yes': not 0, 1 or -1")


@pytest.mark.parametrize("missing", ["ImageID", "LabelName", "XMin", "YMax"])
def test_missing_column_is_named(tmp_path: Path, missing: str) -> None:
    columns = [name for name in COLUMNS if name != missing]
    refused(tmp_path, csv_text([row("a")], columns), f":1: no column '{missing}'")


@pytest.mark.parametrize("text", ["", "\n\n", "<html></html>", b"\xff\xfe\x00\x01", b"\x00" * 50])
def test_text_that_is_no_csv_is_refused(tmp_path: Path, text: str | bytes) -> None:
    refused(tmp_path, text, "no column 'ImageID'")


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, csv_text([row("a")]).encode() + csv_text([row("b")]).encode().replace(b"b,", b"\xff,"), ":")


@pytest.mark.parametrize("id", ["../x", "/etc/passwd", "a/b", "a\\b", "a\0b", "a\x1bb", "", " "])
def test_hostile_id_is_refused_with_its_line(tmp_path: Path, id: str) -> None:
    refused(tmp_path, csv_text([row("a"), row(id)]), ":3: ImageID is .*the name of an image")


# The configuration


def test_configuration_names_the_arguments() -> None:
    config = OmegaConf.load(Path(__file__).parents[3] / "conf" / "dataset" / "openimages.yaml")
    own = set(config) - {"_target_", "defaults", "classes"}
    assert own == set(inspect.signature(read_openimages).parameters) - {"report", "options"}


# The real thing


@real
def test_person_car_bus() -> None:
    splits = read(DATA / "person_car_bus")
    assert {name: len(index) for name, index in splits.items()} == {"train": 48, "val": 10, "test": 11}
    assert [index.class_names for _, index in splits.items()] == [("Person", "Car", "Bus")] * 3
    counts = [index.class_counts().tolist() for _, index in splits.items()]
    assert counts == [[166, 28, 5], [39, 13, 2], [49, 5, 0]]  # no bus in the test split
    assert [int(index.ignore.sum()) for _, index in splits.items()] == [5, 1, 0]
    assert splits.report.problems == []
    assert splits.train.load(splits.train.paths[0]).shape[:2] == tuple(splits.train.sizes[0])


@real
def test_files_of_the_downloader_hold_the_same(tmp_path: Path) -> None:
    source = DATA / "person_car_bus"
    for path in [*source.glob("sub-*.csv"), source / "train", source / "validation", source / "test"]:
        (tmp_path / path.name).symlink_to(path)
    official, downloaded = read(source), read(tmp_path)
    assert ids(downloaded) == ids(official)
    for (_, one), (_, other) in zip(official.items(), downloaded.items(), strict=True):
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(one.labels, other.labels)


@real
@pytest.mark.parametrize(("split", "boxes", "group_of"), [("train", 13_134, 145), ("test", 2_784, 104)])
def test_genuine_rows(split: str, boxes: int, group_of: int) -> None:
    folder = DATA / "genuine_v4_excerpt"
    names = read_class_names(folder, [], Report()).names
    assert len(names) == 601
    path = folder / f"{split}-annotations-bbox.csv"
    rows = read_rows(path, labels={mid: label for label, mid in enumerate(names)}, report=Report())
    assert (len(rows.labels), int(rows.group_of.sum())) == (boxes, group_of)
    written = {line.split(",")[0] for line in path.read_text().splitlines()[1:]}
    assert set(rows.ids) == written
    if split == "train":
        assert {"00e4060885034751", "60e8122450428903"} <= written


@real
def test_genuine_rows_without_images_are_an_error() -> None:
    with pytest.raises(DataError, match="no image to train on"):
        read(DATA / "genuine_v4_excerpt", classes=["Human foot"])
