from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd.common.errors import ConfigError
from ssd.data.reading.division import UNDIVIDED, divide, hold_out, seeded_split
from ssd.data.reading.options import ReadOptions
from ssd.data.validation import Report

SPLITS = ("train", "val", "test")
NAMES = st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=40)


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
