from __future__ import annotations

import itertools

import pytest

from ssd.common.errors import DataError
from ssd.common.images import read_image
from ssd.data.index import DetectionIndex, ImageRecord, build_index
from ssd.data.splits import Splits, describe_data

SPLITS = ("train", "val", "test")


@pytest.mark.parametrize(("first", "second"), [("train", "val"), ("train", "test"), ("val", "test")])
@pytest.mark.parametrize("sizes", [*itertools.permutations((2, 3, 4))])
def test_an_image_in_two_splits_is_refused(first: str, second: str, sizes: tuple[int, ...]) -> None:
    names = {split: [f"{split}{n}" for n in range(size)] for split, size in zip(SPLITS, sizes, strict=True)}
    Splits(**{split: holding(ids) for split, ids in names.items()})
    names[first][1] = names[second][0] = "both"
    with pytest.raises(DataError, match=rf"both: is in the {first} and in the {second} split.*dataset.{second}_splits"):
        Splits(**{split: holding(ids) for split, ids in names.items()})


@pytest.mark.parametrize(("smaller", "larger"), [*itertools.permutations(SPLITS, 2)])
def test_a_split_that_lies_in_another_is_no_test_but_trains(smaller: str, larger: str) -> None:
    """Capture tools write the same list for train, val and test."""
    splits = Splits(**{smaller: holding(["a", "b"]), larger: holding(["b", "c", "a"])})
    (problem,) = splits.report.problems
    assert problem.file == f"{smaller} split"
    assert f"all 2 images are in the {larger} split" in problem.rule
    again = Splits(**{smaller: holding(["a", "b"]), larger: holding(["b", "c", "a"])}, report=splits.report)
    assert again.report.problems == [problem]


def holding(ids: list[str]) -> DetectionIndex:
    records = [ImageRecord(id, id, (8, 8), [], [], [], []) for id in ids]
    return build_index(records, class_names=["cat"], load=read_image)


@pytest.mark.parametrize("classes", [3, 12, 13, 601])
def test_lines_about_the_data_stay_short(classes: int) -> None:
    names = [f"class {number}" for number in range(classes)]
    records = [ImageRecord("a", "a", (8, 8), [[0, 0, 1, 1]], [classes - 1], [False], [1])]
    index = build_index(records, class_names=names, load=read_image)
    lines = describe_data(Splits(train=index))
    assert max(map(len, lines)) < 200
    assert any(f"class {classes - 1} 1" in line for line in lines)
    absent = next(line for line in lines if "no object of" in line)
    assert ("more classes" in absent) == (classes > 13)
