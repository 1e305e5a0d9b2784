"""The choice of images: limits, balance, and what stays the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ssd.data.download.openimages_choice import Choice, choose_images, share_out
from ssd.data.formats.openimages_csv import Rows


def make_rows(images: int = 400, *, seed: int = 0, order: int = 0) -> Rows:
    """Person in nearly every image, Car in a fifth, Bus in one of fifty; some groups and depictions."""
    rng = np.random.default_rng(seed)
    held = [
        [0] * int(rng.integers(0, 3)) + [1] * (number % 5 == 0) + [2] * (number % 50 == 0) for number in range(images)
    ]
    image = np.repeat(np.arange(images), [len(labels) for labels in held])
    labels = np.array([label for labels in held for label in labels], dtype=np.int32)
    shuffled = np.random.default_rng(order).permutation(len(labels)) if order else np.arange(len(labels))
    return Rows(
        ids=[f"{number:04x}" for number in range(images)],
        image=image[shuffled].astype(np.int32),
        boxes=np.zeros((len(labels), 4), dtype=np.float32),
        labels=labels[shuffled],
        group_of=(rng.random(len(labels)) < 0.1)[shuffled],
        depiction=(rng.random(len(labels)) < 0.1)[shuffled],
        lines=np.zeros(len(labels), dtype=np.int32),
    )


def choose(rows: Rows, **changes: Any) -> Choice:
    settings = {"limit": None, "limit_per_class": None, "balance": True, "include_depictions": False, "seed": 0}
    return choose_images(rows, num_classes=3, **(settings | changes))


def labels_of(rows: Rows, id: str) -> set[int]:
    mask = (rows.image == rows.ids.index(id)) & ~rows.group_of & ~rows.depiction
    return set(rows.labels[mask].tolist())


def test_all_images_with_an_object_are_chosen_without_a_limit() -> None:
    rows = make_rows()
    expected = {id for id in rows.ids if labels_of(rows, id)}
    choice = choose(rows)
    assert set(choice.ids) == expected
    assert len(choice.ids) == len(expected) < 400
    assert np.array_equal(choice.images[:, 0], choice.images[:, 1])


@pytest.mark.parametrize("balance", [True, False])
def test_counts_are_those_of_the_chosen_and_of_all(balance: bool) -> None:
    rows = make_rows()
    choice = choose(rows, limit=60, balance=balance)
    counted = ~rows.group_of & ~rows.depiction
    for column, ids in enumerate((choice.ids, rows.ids)):
        inside = np.isin(np.array(rows.ids)[rows.image], ids) & counted
        assert choice.boxes[:, column].tolist() == np.bincount(rows.labels[inside], minlength=3).tolist()
        held = [sum(label in labels_of(rows, id) for id in ids) for label in range(3)]
        assert choice.images[:, column].tolist() == held


@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize("limit", [0, 1, 7, 60])
def test_a_larger_limit_adds_to_a_smaller_one(balance: bool, limit: int) -> None:
    rows = make_rows()
    small, large = (choose(rows, limit=count, balance=balance).ids for count in (limit, 100))
    assert len(small) == limit
    assert small == large[:limit]
    assert len(set(large)) == 100


def test_balance_gives_rare_classes_their_share() -> None:
    rows = make_rows()
    even, any_ = (choose(rows, limit=60, balance=balance).images for balance in (True, False))
    assert even[2, 0] == even[2, 1]  # every bus there is
    assert even[1, 0] >= 20
    assert any_[2, 0] < even[2, 0]


@pytest.mark.parametrize("balance", [True, False])
def test_a_limit_per_class_is_reached_and_passed_only_in_images_of_another(balance: bool) -> None:
    rows = make_rows()
    choice = choose(rows, limit_per_class=10, balance=balance)
    counts = np.zeros(3)
    for id in choice.ids:
        held = list(labels_of(rows, id))
        assert (counts[held] < 10).any()
        counts[held] += 1
    assert (choice.images[:, 0] >= np.minimum(10, choice.images[:, 1])).all()


def test_the_seed_chooses_and_the_order_of_rows_does_not() -> None:
    first = choose(make_rows(), limit=50).ids
    assert choose(make_rows(order=3), limit=50).ids == first
    assert choose(make_rows(), limit=50, seed=1).ids != first


def test_depictions_count_where_they_are_wanted() -> None:
    rows = make_rows()
    assert choose(rows, include_depictions=True).boxes.sum() > choose(rows).boxes.sum()


def test_no_rows_no_choice() -> None:
    for limit in (None, 5):
        choice = choose(make_rows(0), limit=limit)
        assert choice.ids == []
        assert choice.boxes.tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("limit", [1, 2, 9, 10, 2500])
@pytest.mark.parametrize("splits", [["train", "validation", "test"], ["validation", "test"], ["test"]])
def test_shares_make_up_the_limit(limit: int, splits: list[str]) -> None:
    shares = share_out(limit, splits)
    assert list(shares) == splits
    assert sum(share for share in shares.values() if share is not None) == limit


def test_shares_are_eight_to_one() -> None:
    assert share_out(2500, ["train", "validation", "test"]) == {"train": 2000, "validation": 250, "test": 250}
    assert share_out(None, ["train", "test"]) == {"train": None, "test": None}
