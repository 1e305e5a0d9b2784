"""Several folders as one dataset, and folders without objects."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from dataset_folders import contents
from media import square_at, square_x, write_animation
from voc_files import HEIGHT, WIDTH, add, add_list, object_xml, write_image

from ssd.common.errors import DataError
from ssd.data.formats.voc import read_voc
from ssd.data.reading.several import read_negatives, read_several
from ssd.data.validation import Report


def make(root: Path, name: str) -> str:
    for stem in ("1", "2"):
        add(root, stem, object_xml(name))
    add_list(root, "train", ["1"])
    add_list(root, "val", ["2"])
    return str(root)


def test_two_roots_have_one_class_list_and_keep_their_boxes(tmp_path: Path) -> None:
    roots = {make(tmp_path / "a", "dog"): "dog", make(tmp_path / "b", "cat"): "cat"}
    splits = read_several({root: partial(read_voc, root) for root in roots})
    assert splits.class_names == ("cat", "dog")
    assert [(name, len(index)) for name, index in splits.items()] == [("train", 2), ("val", 2)]
    for _, index in splits.items():
        for position, path in enumerate(index.paths):
            root = next(root for root in roots if path.startswith(root))
            assert [index.class_names[label] for label in index.labels[index.rows(position)]] == [roots[root]]
            assert index.load(path).shape[:2] == tuple(index.sizes[position])
            assert index.location(position, 0).startswith(f"{root}/Annotations/")
    alone = contents(read_voc(next(iter(roots))))
    assert contents(splits)["train", "1"][0][1:] == alone["train", "1"][0][1:]


def test_chosen_classes_keep_the_order_of_the_roots(tmp_path: Path) -> None:
    roots = [make(tmp_path / "a", "dog"), make(tmp_path / "b", "cat")]
    readers = {root: partial(read_voc, root, classes=["dog", "cat"]) for root in roots}
    assert read_several(readers, sort_classes=False).class_names == ("dog", "cat")


def test_negatives_are_training_images(tmp_path: Path) -> None:
    root = make(tmp_path / "a", "dog")
    for name in ("x.jpg", "deep/y.png"):
        write_image(tmp_path / "none" / name)
    negatives = str(tmp_path / "none")
    splits = read_several({root: partial(read_voc, root), negatives: partial(read_negatives, negatives)})
    assert [(name, len(index), len(index.boxes)) for name, index in splits.items()] == [("train", 3, 1), ("val", 1, 1)]
    assert any("2 images without objects" in note for note in splits.report.notes)


def test_frames_after_the_first_are_counted(tmp_path: Path) -> None:
    """The boxes of an annotation belong to the first one."""
    make(tmp_path, "dog")
    for name, frames in (("1.gif", 5), ("2.tif", 3)):
        path = tmp_path / "JPEGImages" / name
        path.with_suffix(".jpg").unlink()
        write_animation(path, frames=frames, size=(HEIGHT, WIDTH))
    write_animation(tmp_path / "none" / "x.png", frames=2)
    write_image(tmp_path / "none" / "y.png")
    splits = read_voc(str(tmp_path))
    assert np.array_equal(splits.train.load("JPEGImages/1.gif"), square_at(square_x(0), size=(HEIGHT, WIDTH)))
    assert [(problem.file, problem.rule, problem.fatal) for problem in splits.report.problems] == [
        ("JPEGImages/1.gif", "4 frames or pages of 1 images in train left out: only the first of each is used", False),
        ("JPEGImages/2.tif", "2 frames or pages of 1 images in val left out: only the first of each is used", False),
    ]
    (problem,) = read_negatives(str(tmp_path / "none")).report.problems
    assert (problem.file, problem.rule.partition(" left out")[0]) == ("x.png", "1 frames or pages of 1 images in train")


@pytest.mark.parametrize("collect", [False, True])
def test_problems_name_their_root(tmp_path: Path, collect: bool) -> None:
    roots = [make(tmp_path / "a", "dog"), make(tmp_path / "b", "cat")]
    add(tmp_path / "b", "1", object_xml("cat", (11, 21, 11, 41)))
    report = Report(collect_all=True) if collect else None
    splits = read_several({root: partial(read_voc, root) for root in roots}, report=report)
    assert [problem.file for problem in splits.report.problems] == [f"{roots[1]}/Annotations/1.xml:7"]


def test_a_folder_of_negatives_needs_images(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=r"dataset\.negatives="):
            read_negatives(str(root))
