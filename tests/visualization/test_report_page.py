"""Report pages: escaped, complete in themselves."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure

from ssd.visualization import report_page


def page_of(*parts: str) -> str:
    return report_page.page("<b>run</b>", subtitle="", sections=[report_page.Section("one", "One & two", parts)])


def test_names_from_strangers_are_escaped() -> None:
    cells = report_page.table(["<i>"], [["<script>alert(1)</script>"]])
    text = page_of(
        "<script>",
        cells,
        report_page.paragraph("a < b"),
        report_page.embedded_image(np.zeros((4, 4, 3), np.uint8), caption="<x>"),
    )
    assert not re.search(r"<script|<i>|<b>|<x>", text)
    assert "a &lt; b" in text


def test_a_page_refers_to_nothing_outside() -> None:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [0, 1])
    text = page_of(report_page.chart(figure), report_page.embedded_image(np.zeros((900, 600, 3), np.uint8)))
    fetched = re.findall(r"""(?:src|href)=["']([^"'#][^"']*)["']""", text)
    assert all(address.startswith("data:") for address in fetched)
    assert "<svg" in text


def test_numbers_are_set_right_and_missing_ones_are_dashes() -> None:
    text = report_page.table(["class", "AP", "boxes"], [["car", 0.51234, 3], ["bus", None, 0]])
    assert '<td class="number">0.512</td>' in text
    assert '<td class="number">-</td>' in text
    assert "<td>car</td>" in text


@pytest.mark.parametrize("text", ["-", "0.480-0.524", "3%", "95 %", "97% of 33", "40.9", "+0.1"])
def test_texts_that_are_numbers_are_set_right_but_names_are_not(text: str) -> None:
    table = report_page.table(["class", "share", "file"], [["7", text, "1.jpg"], ["8", 0.5, "2"]])
    assert table.count('class="number"') == 3
    assert f'<td class="number">{text}</td>' in table
    assert "<td>7</td>" in table


def test_labels_of_a_crowd_stay_inside_and_do_not_cover_each_other() -> None:
    corners = np.random.default_rng(0).uniform(0, 1, (60, 2))
    marks = [report_page.Mark((x, y, x + 0.1, y + 0.1), "red", f"label {n}", "t") for n, (x, y) in enumerate(corners)]
    text = report_page.embedded_image(np.zeros((200, 300, 3), np.uint8), marks=marks)
    found = re.findall(r'<text x="(\d+)" y="(\d+)" fill="red">(label \d+)<', text)
    assert found[0][2] == "label 0"
    assert 10 < len(found) < 60
    assert text.count("<rect") == 60
    spots = [(int(x), int(y), int(x) + 7 * len(label), int(y) + 12) for x, y, label in found]
    assert all(x >= 0 and end <= 300 and 11 <= y < 200 for x, y, end, _ in spots)
    assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for a, b in combinations(spots, 2))


def test_an_empty_table_has_its_header() -> None:
    assert "<th>class</th>" in report_page.table(["class"], [])
