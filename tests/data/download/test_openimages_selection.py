"""The selection of images: limits, balance, and reproducibility."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ssd.data.download.openimages_selection import Selection, select_images, split_limit
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


def select(rows: Rows, **changes: Any) -> Selection:
    settings = {"limit": None, "limit_per_class": None, "balance": True, "include_depictions": False, "seed": 0}
    return select_images(rows, num_classes=3, **(settings | changes))


def labels_of(rows: Rows, id: str) -> set[int]:
    mask = (rows.image == rows.ids.index(id)) & ~rows.group_of & ~rows.depiction
    return set(rows.labels[mask].tolist())


def test_without_a_limit_all_images_with_an_object_are_selected() -> None:
    rows = make_rows()
    expected = {id for id in rows.ids if labels_of(rows, id)}
    selection = select(rows)
    assert set(selection.ids) == expected
    assert len(selection.ids) == len(expected) < 400
    assert np.array_equal(selection.images[:, 0], selection.images[:, 1])


@pytest.mark.parametrize("balance", [True, False])
def test_counts_match_the_selected_and_all_images(balance: bool) -> None:
    rows = make_rows()
    selection = select(rows, limit=60, balance=balance)
    counted = ~rows.group_of & ~rows.depiction
    for column, ids in enumerate((selection.ids, rows.ids)):
        inside = np.isin(np.array(rows.ids)[rows.image], ids) & counted
        assert selection.boxes[:, column].tolist() == np.bincount(rows.labels[inside], minlength=3).tolist()
        held = [sum(label in labels_of(rows, id) for id in ids) for label in range(3)]
        assert selection.images[:, column].tolist() == held


@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize("limit", [0, 1, 7, 60])
def test_a_larger_limit_adds_to_a_smaller_one(balance: bool, limit: int) -> None:
    rows = make_rows()
    small, large = (select(rows, limit=count, balance=balance).ids for count in (limit, 100))
    assert len(small) == limit
    assert small == large[:limit]
    assert len(set(large)) == 100


def test_balance_selects_all_images_of_a_rare_class() -> None:
    rows = make_rows()
    balanced, unbalanced = (select(rows, limit=60, balance=balance).images for balance in (True, False))
    assert balanced[2, 0] == balanced[2, 1]  # all images with a bus
    assert balanced[1, 0] >= 20
    assert unbalanced[2, 0] < balanced[2, 0]


@pytest.mark.parametrize("balance", [True, False])
def test_a_limit_per_class_is_exceeded_only_by_images_of_another_class(balance: bool) -> None:
    rows = make_rows()
    selection = select(rows, limit_per_class=10, balance=balance)
    counts = np.zeros(3)
    for id in selection.ids:
        held = list(labels_of(rows, id))
        assert (counts[held] < 10).any()
        counts[held] += 1
    assert (selection.images[:, 0] >= np.minimum(10, selection.images[:, 1])).all()


def test_the_selection_depends_on_the_seed_but_not_on_the_row_order() -> None:
    first = select(make_rows(), limit=50).ids
    assert select(make_rows(order=3), limit=50).ids == first
    assert select(make_rows(), limit=50, seed=1).ids != first


def test_depictions_count_if_included() -> None:
    rows = make_rows()
    assert select(rows, include_depictions=True).boxes.sum() > select(rows).boxes.sum()


def test_no_rows_give_an_empty_selection() -> None:
    for limit in (None, 5):
        selection = select(make_rows(0), limit=limit)
        assert selection.ids == []
        assert selection.boxes.tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("limit", [1, 2, 9, 10, 2500])
@pytest.mark.parametrize("splits", [["train", "validation", "test"], ["validation", "test"], ["test"]])
def test_shares_add_up_to_the_limit(limit: int, splits: list[str]) -> None:
    shares = split_limit(limit, splits)
    assert list(shares) == splits
    assert sum(share for share in shares.values() if share is not None) == limit


def test_shares_are_eight_to_one() -> None:
    assert split_limit(2500, ["train", "validation", "test"]) == {"train": 2000, "validation": 250, "test": 250}
    assert split_limit(None, ["train", "test"]) == {"train": None, "test": None}
