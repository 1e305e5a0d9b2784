"""Boxes of child classes that count for their parents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openimages_files import MIDS, row, write
from test_openimages import read
from voc_files import rules

from ssd.common.errors import DataError
from ssd.data.formats.openimages import read_openimages
from ssd.data.formats.openimages_hierarchy import read_lineage

CHILDREN = {"/m/04yx4": "Man", "/m/03bt1vf": "Woman", "/m/05r655": "Girl", "/m/01bl7v": "Boy", "/m/09j2d": "Clothing"}
KIDS = {name: mid for mid, name in CHILDREN.items()}


def node(name: str, *children: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"LabelName": (MIDS | KIDS).get(name, name), **({"Subcategory": list(children)} if children else {}), **more}


TREE = node(
    "/m/0bl9f",
    node("Person", node("Woman"), node("Man", node("Boy")), node("Girl"), Part=[node("Clothing")]),
    node("/m/vehicle", node("Car"), node("Bus", node("Airplane"))),
)


def folder(root: Path, *rows: dict[str, object], tree: object = TREE) -> Path:
    write(root, "train", list(rows))
    with (root / "class-descriptions-boxable.csv").open("a") as file:
        file.writelines(f"{mid},{name}\n" for mid, name in CHILDREN.items())
    (root / "bbox_labels_600_hierarchy.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return root


def of(id: str, name: str, **more: object) -> dict[str, object]:
    return row(id, KIDS.get(name, name), **more)


def test_children_and_their_children_count_for_the_parent(tmp_path: Path) -> None:
    rows = [of("a", name, XMin=0.01 * place) for place, name in enumerate([*KIDS, "Car", "Person"])]
    index = read(folder(tmp_path, *rows), ["Car", "Person"], expand_hierarchy=True).train
    assert index.class_names == ("Car", "Person")
    assert index.labels.tolist() == [1, 1, 1, 1, 0, 1]  # clothing is a part
    assert index.boxes[:, 0].round(2).tolist() == pytest.approx([0, 0.01, 0.02, 0.03, 0.05, 0.06])


def test_a_box_counts_for_child_and_parent_where_both_are_classes(tmp_path: Path) -> None:
    root = folder(tmp_path, of("a", "Boy", IsGroupOf=1), of("b", "Person"), of("c", "Man", IsDepiction=1))
    index = read(root, ["Person", "Man", "Boy"], expand_hierarchy=True).train
    assert [index.labels[index.rows(position)].tolist() for position in range(2)] == [[0, 1, 2], [0]]
    assert index.ignore.tolist() == [True, True, True, False]


def test_a_parent_drawn_where_its_child_is_counts_once(tmp_path: Path) -> None:
    splits = read(folder(tmp_path, of("a", "Man"), of("a", "Person")), ["Person"], expand_hierarchy=True)
    assert splits.train.labels.tolist() == [0]
    assert rules(splits) == ["duplicate box dropped"]


def test_all_classes_are_expanded_too(tmp_path: Path) -> None:
    write(tmp_path, "validation", [of("v", "Girl")])
    write(tmp_path, "test", [of("t", "Car")])
    root = folder(tmp_path, of("a", "Airplane"), of("b", "Clothing"))
    splits = read_openimages(str(root), expand_hierarchy=True)
    assert splits.class_names == ("Airplane", "Bus", "Car", "Clothing", "Girl", "Person")
    assert [index.labels.tolist() for _, index in splits.items()] == [[0, 1, 3], [4, 5], [2]]


def test_left_out_subclasses_are_reported_once(tmp_path: Path) -> None:
    root = folder(tmp_path, of("a", "Person"), of("b", "Man"))
    splits = read(root, ["Person", "Car"])
    assert splits.train.labels.tolist() == [0]
    (rule,) = rules(splits)
    assert rule.startswith("boxes of Boy, Girl, Man, Woman skipped")
    assert "dataset.expand_hierarchy" in rule
    assert rules(read(root, ["Car", "Person", "Man", "Boy", "Girl", "Woman"])) == []
    assert rules(read(root, ["Person"], expand_hierarchy=True)) == []


def test_message_about_a_missing_file_says_what_to_download(tmp_path: Path) -> None:
    write(tmp_path, "train", [row("a")])
    with pytest.raises(DataError, match=r"no \*hierarchy\*\.json .*2018_04/bbox_labels_600_hierarchy\.json from https"):
        read(tmp_path, expand_hierarchy=True)


@pytest.mark.parametrize(
    "tree", ["", "<html>", "[]", '{"Subcategory": []}', node("a", node("b"), Subcategory=3), '{"LabelName": []}']
)
def test_an_invalid_hierarchy_is_named(tmp_path: Path, tree: object) -> None:
    with pytest.raises(DataError, match=r"hierarchy\.json(: no tree of LabelName and Subcategory|:1: not JSON)"):
        read(folder(tmp_path, of("a", "Person"), tree=tree), expand_hierarchy=True)
    assert rules(read(tmp_path)) == []


def test_class_at_two_places_has_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "hierarchy.json"
    path.write_text(json.dumps(node("root", node("a", node("x")), node("b", node("c", node("x"))))))
    assert read_lineage(path)["x"] == {"root", "a", "b", "c", "x"}
    assert read_lineage(path)["a"] == {"root", "a"}
