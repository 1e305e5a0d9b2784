from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd.common.class_names import class_index
from ssd.common.errors import ConfigError, DataError
from ssd.common.images import read_image
from ssd.data.index import DetectionIndex, ImageRecord, build_index
from ssd.data.reading.classes import class_list, class_renamer
from ssd.data.reading.division import UNDIVIDED, divide, hold_out, seeded_split
from ssd.data.reading.options import ReadOptions
from ssd.data.splits import Splits
from ssd.data.validation import Report

SPLITS = ("train", "val", "test")
NAMES = st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=40)


@pytest.mark.parametrize(("name", "place"), [("Car", 0), ("car", 1), ("BUS", 2), ("CAR", None), ("dog", None)])
def test_a_class_is_found_in_another_case_where_only_one_can_be_meant(name: str, place: int | None) -> None:
    assert class_index(name, ["Car", "car", "bus"]) == place


@given(NAMES, st.floats(0, 1), st.integers(0, 3))
def test_holding_out_shares_all_names_between_two_sorted_lists(names: list[str], share: float, seed: int) -> None:
    stays, taken = hold_out(names, share=share, seed=seed)
    assert sorted(stays + taken) == sorted(names)
    assert stays == sorted(stays)
    assert taken == sorted(taken)
    if len(names) > 1:
        assert stays
        assert bool(taken) == bool(share)
        assert abs(len(taken) - share * len(names)) <= 1


@given(NAMES, st.integers(0, 3), st.randoms())
def test_held_out_names_do_not_depend_on_the_order(names: list[str], seed: int, shuffle: object) -> None:
    mixed = list(names)
    shuffle.shuffle(mixed)
    assert hold_out(mixed, share=0.3, seed=seed) == hold_out(names, share=0.3, seed=seed)


@given(NAMES, st.integers(0, 3))
def test_seeded_split_is_a_partition(names: list[str], seed: int) -> None:
    splits = seeded_split(names, options=ReadOptions(seed=seed))
    assert list(splits) == ["train", "val", "test"]
    assert sorted(name for part in splits.values() for name in part) == sorted(names)
    assert all(splits.values()) or len(names) < 3


def test_seeded_split_is_80_10_10() -> None:
    splits = seeded_split([f"{number:03d}" for number in range(200)], options=ReadOptions())
    assert [len(part) for part in splits.values()] == [160, 20, 20]


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


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99)), unique=True, max_size=60), st.integers(0, 3))
def test_a_group_is_never_divided(numbers: list[tuple[int, int]], seed: int) -> None:
    names = [f"cam{camera}/{frame}" for camera, frame in numbers]
    options = ReadOptions(group_by=r"cam(\d+)/", seed=seed, val_share=0.3, test_share=0.3)
    split_of_camera: dict[str, str] = {}
    split = divide({UNDIVIDED: names}, options=options, report=Report())
    assert sorted(name for part in split.values() for name in part) == sorted(names)
    for part, members in split.items():
        for name in members:
            assert split_of_camera.setdefault(name.split("/")[0], part) == part


@pytest.mark.parametrize(
    ("given", "shares", "counts"),
    [
        ({UNDIVIDED: 50}, (0.1, 0.1), (40, 5, 5)),
        ({UNDIVIDED: 50}, (0.2, 0.4), (20, 10, 20)),
        ({UNDIVIDED: 50}, (0.0, 0.1), (45, 0, 5)),
        ({UNDIVIDED: 50}, (0.0, 0.0), (50, 0, 0)),
        ({"train": 50}, (0.1, 0.1), (45, 5, 0)),
        ({"train": 50, "test": 7}, (0.2, 0.1), (40, 10, 7)),
        ({"train": 50, "val": 7}, (0.2, 0.1), (50, 7, 0)),
        ({"train": 50}, (0.0, 0.1), (50, 0, 0)),
    ],
)
def test_shares_apply_where_the_folder_has_no_split(
    given: dict[str, int], shares: tuple[float, float], counts: tuple[int, int, int]
) -> None:
    names = {split: [f"{split}{number:02d}" for number in range(count)] for split, count in given.items()}
    options, report = ReadOptions(val_share=shares[0], test_share=shares[1]), Report()
    split = divide(names, options=options, report=report)
    assert tuple(len(split.get(name, ())) for name in SPLITS) == counts
    drawn = UNDIVIDED in given or ("val" not in given and shares[0] > 0)
    assert len(report.notes) == drawn


def test_group_by_must_be_a_regular_expression() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.group_by=cam\(: "):
        ReadOptions(group_by="cam(")


def test_classes_are_renamed_and_merged_in_any_case() -> None:
    report = Report()
    renamed = class_renamer({"man": "person", "Woman": "person", "dgo": "dog"}, ["Man", "Woman", "dog"], report=report)
    assert renamed == {"Man": "person", "Woman": "person", "dog": "dog"}
    (problem,) = report.problems
    assert problem.file == "dataset.class_map=dgo"
    assert "'dog'" in problem.rule


def holding(ids: list[str]) -> DetectionIndex:
    records = [ImageRecord(id, id, (8, 8), [], [], [], []) for id in ids]
    return build_index(records, class_names=["cat"], load=read_image)


def test_classes_are_the_found_or_the_chosen_ones() -> None:
    assert class_list(None, ["b", "a", "b"], where="root", report=Report()) == ("a", "b")
    assert class_list(["b", "a"], ["a", "b", "c"], where="root", report=Report()) == ("b", "a")


def test_chosen_class_may_be_absent_if_the_similar_one_is_chosen_too() -> None:
    """VOC's chair and car: a folder with cars but no chair must stay readable."""
    assert class_list(["car", "chair"], ["car", "dog"], where="root", report=Report()) == ("car", "chair")


@pytest.mark.parametrize(("wanted", "meant"), [("Person", "person"), ("PERSON", "person"), ("persons", "person")])
def test_misspelt_class_is_suggested(wanted: str, meant: str) -> None:
    with pytest.raises(DataError, match=f"root: no class '{wanted}'; did you mean '{meant}'"):
        class_list(["bus", wanted], ["bus", "person"], where="root", report=Report())


def test_invalid_class_lists() -> None:
    with pytest.raises(DataError, match="no object in any annotation"):
        class_list(None, [], where="root", report=Report())
    with pytest.raises(ConfigError, match="'a' is listed twice"):
        class_list(["a", "a"], ["a"], where="root", report=Report())
