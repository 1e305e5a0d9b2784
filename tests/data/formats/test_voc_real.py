"""Public datasets, if they are beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest
from voc_files import read, rules

from ssd.data.splits import Splits

DATA = Path(__file__).parents[4] / "shared" / "data" / "voc"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")


def sizes(splits: Splits) -> dict[str, int]:
    return {name: len(index) for name, index in splits.items()}


def boxes(splits: Splits) -> int:
    return sum(len(index.boxes) for _, index in splits.items())


def test_bccd_has_two_boxes_without_area() -> None:
    splits = read(DATA / "bccd")
    assert sizes(splits) == {"train": 205, "val": 87, "test": 72}
    assert splits.class_names == ("Platelets", "RBC", "WBC")
    without_area = [problem.file for problem in splits.report.problems if "without area" in problem.rule]
    assert len(without_area) == 2
    assert boxes(splits) == 4888 - len([rule for rule in rules(splits) if rule.endswith("dropped")])


def test_raccoon_has_an_empty_val_list() -> None:
    splits = read(DATA / "raccoon")
    assert sizes(splits) == {"train": 144, "val": 16, "test": 40}
    assert splits.class_names == ("raccoon",)
    assert boxes(splits) == 217


def test_fruitsnuts() -> None:
    splits = read(DATA / "fruitsnuts")
    assert sizes(splits) == {"train": 10, "val": 4, "test": 4}
    assert splits.class_names == ("date", "fig", "hazelnut")
    assert boxes(splits) == 164


def test_cards_have_their_xml_beside_them() -> None:
    splits = read(DATA / "cards_flat")
    assert sum(sizes(splits).values()) == 32
    assert splits.class_names == ("ace", "jack", "king", "nine", "queen", "ten")
    assert boxes(splits) == 74
    assert all(index.load(index.paths[0]).shape[:2] == tuple(index.sizes[0]) for _, index in splits.items())
