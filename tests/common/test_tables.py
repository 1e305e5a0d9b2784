"""Tables: values as text, alignment of numbers, and the output in the terminal."""

from __future__ import annotations

import logging

import pytest

from ssd.common.tables import Table


def test_floats_have_three_decimals_and_missing_values_are_dashes() -> None:
    assert Table("", ["class", "AP"], [["car", 0.51234], ["bus", None], [3, "a\nb"]]).cells() == [
        ["car", "0.512"],
        ["bus", "-"],
        ["3", "a\\nb"],
    ]


@pytest.mark.parametrize("text", ["-", "0.480-0.524", "3%", "95 %", "97% of 33", "40.9", "+0.1", "1.25x", 0.5, 3, None])
def test_columns_of_numbers_are_aligned_right_but_names_are_not(text: object) -> None:
    table = Table("", ["class", "share", "file"], [["7", text, "1.jpg"], ["8", 0.5, "2"]])
    assert table.numeric() == [False, True, False]


def test_an_empty_table_has_columns() -> None:
    assert Table("", ["class"], []).numeric() == [False]


def test_the_terminal_shows_names_as_they_are_and_counts_hidden_rows(caplog: pytest.LogCaptureFixture) -> None:
    rows = [[f"[b]{number}[/b]\udcff:cat:", number] for number in range(5)]
    with caplog.at_level(logging.INFO, logger="ssd"):
        Table("title", ["name", "count"], rows).log(max_rows=3)
    assert r"[b]2[/b]\xff:cat:" in caplog.text
    assert "[b]3" not in caplog.text
    assert "2 more rows" in caplog.text
