from __future__ import annotations

import pytest

from ssd.common.class_names import class_index
from ssd.common.errors import ConfigError, DataError
from ssd.data.reading.classes import class_list, class_renamer
from ssd.data.validation import Report


@pytest.mark.parametrize(("name", "place"), [("Car", 0), ("car", 1), ("BUS", 2), ("CAR", None), ("dog", None)])
def test_a_class_is_found_in_another_case_where_only_one_can_be_meant(name: str, place: int | None) -> None:
    assert class_index(name, ["Car", "car", "bus"]) == place


def test_classes_are_renamed_and_merged_in_any_case() -> None:
    report = Report()
    renamed = class_renamer({"man": "person", "Woman": "person", "dgo": "dog"}, ["Man", "Woman", "dog"], report=report)
    assert renamed == {"Man": "person", "Woman": "person", "dog": "dog"}
    (problem,) = report.problems
    assert problem.file == "dataset.class_map=dgo"
    assert "'dog'" in problem.rule


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
