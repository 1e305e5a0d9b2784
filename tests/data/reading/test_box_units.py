from __future__ import annotations

import numpy as np
import pytest

from ssd.common.errors import DataError
from ssd.data.reading.box_units import BoxUnits, check_units
from ssd.data.validation import Report

PIXELS, FRACTIONS, FROM_ONE = BoxUnits(), BoxUnits("fractions"), BoxUnits(first_pixel=1.0)


def check(boxes: list[tuple[float, ...]], units: BoxUnits, report: Report | None = None) -> BoxUnits:
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return check_units(array, units, report or Report(), locate=lambda row: f"a.xml:{row}")


@pytest.mark.parametrize("units", [PIXELS, FROM_ONE, FRACTIONS])
def test_no_box_and_boxes_of_the_format_are_left_alone(units: BoxUnits) -> None:
    report = Report()
    box = (0.1, 0.2, 0.5, 0.6) if units is FRACTIONS else (1, 1, 30, 20.5)
    for boxes in ([], [box], [box] * 5):
        assert check(boxes, units, report) == units
    assert report.problems == []


@pytest.mark.parametrize("units", [PIXELS, FROM_ONE])
def test_all_fractions_are_read_as_such_with_a_warning(units: BoxUnits) -> None:
    report = Report()
    assert check([(0.1, 0.2, 0.5, 1), (0, 0, 1, 1)], units, report).kind == "fractions"
    (problem,) = report.problems
    assert (problem.file, problem.fatal) == ("a.xml:0", False)


def test_corners_of_the_first_pixel_are_no_fractions() -> None:
    assert check([(0, 0, 1, 1), (1, 1, 1, 1)], PIXELS) == PIXELS


def test_a_tiny_box_among_many_is_a_tiny_box() -> None:
    assert check([(10, 10, 30, 30)] * 199 + [(0.2, 0.2, 0.8, 0.8)], PIXELS) == PIXELS


def test_some_fractions_among_pixels_are_an_error_by_line() -> None:
    boxes = [(10, 10, 30, 30), (0.2, 0.2, 0.8, 0.8), (5, 5, 9, 9)]
    with pytest.raises(DataError, match=r"^a\.xml:1: .*\(0\.2, 0\.2, 0\.8, 0\.8\)"):
        check(boxes, PIXELS)


def test_pixels_among_fractions_are_an_error_and_a_box_that_is_a_little_too_large_is_none() -> None:
    assert check([(0.1, 0.1, 1.2, 1.1)], FRACTIONS) == FRACTIONS
    with pytest.raises(DataError, match=r"^a\.xml:0: 2 of 2 .*pixels"):
        check([(10, 10, 30, 30), (1, 1, 9, 3)], FRACTIONS)
