"""Report pages: escaped, self-contained."""

from __future__ import annotations

import re

import numpy as np
from matplotlib.figure import Figure

from ssd.common.tables import Table
from ssd.visualization import report_page


def page_of(*parts: str) -> str:
    return report_page.page("<b>run</b>", subtitle="", sections=[report_page.Section("one", "One & two", parts)])


def test_names_from_outside_are_escaped() -> None:
    script = "<script>alert(1)</script>"
    image = report_page.embedded_image(np.zeros((4, 4, 3), np.uint8), caption="<x>")
    text = page_of(
        "<script>",
        report_page.table(Table("", ["<i>"], [[script]])),
        report_page.paragraph("a < b"),
        report_page.legend([(script, "red")]),
        report_page.columns([report_page.image_row([image], caption="<x>")]),
    )
    assert not re.search(r"<script|<i>|<b>|<x>", text)
    assert "a &lt; b" in text
    assert text.count("<img") == 1


def test_a_page_refers_to_nothing_outside() -> None:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [0, 1])
    text = page_of(report_page.chart(figure), report_page.embedded_image(np.zeros((900, 600, 3), np.uint8)))
    fetched = re.findall(r"""(?:src|href)=["']([^"'#][^"']*)["']""", text)
    assert all(address.startswith("data:") for address in fetched)
    assert text.startswith("<!doctype html>")
    assert "<svg" in text


def test_numbers_are_aligned_right() -> None:
    text = report_page.table(Table("", ["class", "AP", "boxes"], [["car", 0.51234, 3], ["bus", None, 0]]))
    assert '<th class="number">AP</th>' in text
    assert '<td class="number">0.512</td>' in text
    assert '<td class="number">-</td>' in text
    assert "<td>car</td>" in text


def test_an_empty_table_has_its_header() -> None:
    assert "<th>class</th>" in report_page.table(Table("", ["class"], []))
