"""Report pages: escaped, complete in themselves."""

from __future__ import annotations

import re

import numpy as np
from matplotlib.figure import Figure

from ssd import html


def page_of(*parts: str) -> str:
    return html.page("<b>run</b>", subtitle="", sections=[html.Section("one", "One & two", parts)])


def test_names_from_strangers_are_escaped() -> None:
    cells = html.table(["<i>"], [["<script>alert(1)</script>"]])
    text = page_of(
        "<script>", cells, html.paragraph("a < b"), html.picture(np.zeros((4, 4, 3), np.uint8), caption="<x>")
    )
    assert not re.search(r"<script|<i>|<b>|<x>", text)
    assert "a &lt; b" in text


def test_a_page_refers_to_nothing_outside() -> None:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [0, 1])
    text = page_of(html.chart(figure), html.picture(np.zeros((900, 600, 3), np.uint8)))
    fetched = re.findall(r"""(?:src|href)=["']([^"'#][^"']*)["']""", text)
    assert all(address.startswith("data:") for address in fetched)
    assert "<svg" in text


def test_numbers_are_set_right_and_missing_ones_are_dashes() -> None:
    text = html.table(["class", "AP", "boxes"], [["car", 0.51234, 3], ["bus", None, 0]])
    assert '<td class="number">0.512</td>' in text
    assert '<td class="number">-</td>' in text
    assert "<td>car</td>" in text


def test_an_empty_table_has_its_header() -> None:
    assert "<th>class</th>" in html.table(["class"], [])
