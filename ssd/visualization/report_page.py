"""Self-contained HTML pages: tables, charts as SVG, images as data; nothing is fetched when one is opened."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import Environment
from markupsafe import Markup
from matplotlib import rc_context
from PIL import Image

from ssd.common.images import ImageArray
from ssd.visualization.draw import Rectangle, free_spot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_ENVIRONMENT = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_PAGE = _ENVIRONMENT.from_string("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2330; background: #f5f6f8; margin: 0 auto; max-width: 1120px;
  padding: 24px; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 0 0 10px; }
section { background: #fff; border: 1px solid #dfe3ea; border-radius: 8px; padding: 18px 22px; margin: 18px 0;
  overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: 4px 14px 4px 0; text-align: left; border-bottom: 1px solid #e8ebf0; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { display: inline-block; margin: 6px 10px 6px 0; vertical-align: top; }
figure img { display: block; max-width: 100%; border-radius: 4px; }
figcaption { font-size: 13px; color: #556; max-width: 340px; overflow-wrap: anywhere; }
figure.row { display: flex; flex-wrap: wrap; gap: 0 10px; margin: 14px 0; }
figure.row > figure { flex: 1 1 300px; margin: 0; }
figure.row > figcaption { flex-basis: 100%; max-width: none; margin-bottom: 4px; font-weight: 600; }
figure .marked { position: relative; }
figure.row > figure img { width: 100%; }
.marked svg { position: absolute; inset: 0; width: 100%; height: 100%;
  font: 600 {{ font_px }}px system-ui, sans-serif; }
.marked rect { fill: transparent; stroke-width: 2px; vector-effect: non-scaling-stroke; }
.marked text { stroke: #fff; stroke-width: 3px; paint-order: stroke; }
.columns { display: flex; flex-wrap: wrap; gap: 8px 28px; align-items: flex-start; }
svg { max-width: 100%; height: auto; }
@media (max-width: 600px) { body { padding: 10px; } section { padding: 12px; } }
.note { color: #556; }
.warning { background: #fff4e0; border-left: 4px solid #e69a17; padding: 6px 12px; margin: 8px 0; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="note">{{ subtitle }}</p>
{% for section in sections %}
<section id="{{ section.id }}">
<h2>{{ section.title }}</h2>
{% for part in section.parts %}
{{ part }}
{% endfor %}
</section>
{% endfor %}
</body>
</html>
""")
_TABLE = _ENVIRONMENT.from_string("""<table>
<tr>{% for name in header %}<th{{ classes[loop.index0] }}>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for cell in row %}<td{{ classes[loop.index0] }}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>""")


_IMAGE = _ENVIRONMENT.from_string("""<figure><div class="marked">
<img alt="" src="data:image/jpeg;base64,{{ data }}">
{% if marks %}
<svg viewBox="0 0 {{ width }} {{ height }}">
{% for x, y, w, h, mark in marks %}
<rect x="{{ x }}" y="{{ y }}" width="{{ w }}" height="{{ h }}" stroke="{{ mark.colour }}">
<title>{{ mark.title }}</title></rect>
{% endfor %}
{% for x, y, mark in labels %}
<text x="{{ x }}" y="{{ y }}" fill="{{ mark.colour }}">{{ mark.text }}</text>
{% endfor %}
</svg>
{% endif %}
</div><figcaption>{{ caption }}</figcaption></figure>
""")


_NUMBER = re.compile(r"-|[+-]?\d[\d.]*( ?%)?(-\d[\d.]*( ?%)?)?( of \d+)?")
_FONT_PX = 12  # of labels over images
_NARROW, _WIDE = 0.75 * _FONT_PX, 1.05 * _FONT_PX  # letters; the browser has the font
_BLOCK = Markup("<div>{}</div>")


@dataclass(frozen=True, slots=True)
class Mark:
    """A box (xyxy fractions) over an image, with its text if any; the title shows when one points at it."""

    box: tuple[float, float, float, float]
    colour: str
    text: str
    title: str


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of a page with its anchor. Parts are text, which is escaped, or what the functions here make."""

    id: str
    title: str
    parts: Sequence[str]


def page(title: str, *, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole page."""
    return _PAGE.render(title=title, subtitle=subtitle, sections=sections, font_px=_FONT_PX)


def paragraph(text: str, *, warning: bool = False) -> Markup:
    """A line of text, or a warning that is seen."""
    return Markup('<p class="{}">{}</p>').format("warning" if warning else "", text)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """A table; columns that hold only numbers are set right, floats with three decimals, None as a dash.

    Numbers are also texts such as 0.48-0.52, 3% or 12 of 33; those in the first column are names.
    """
    numeric = [
        all(_is_number(cell, text_too=place > 0) for cell in column)
        for place, column in enumerate(zip(*rows, strict=True))
    ]
    classes = [Markup(' class="number"') if right else "" for right in numeric or [False] * len(header)]
    return Markup(_TABLE.render(header=header, rows=[map(_shown, row) for row in rows], classes=classes))


def chart(figure: Figure) -> Markup:
    """A matplotlib figure as SVG; its text stays text, which browsers have the letters for."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", bbox_inches="tight")
    return Markup(buffer.getvalue()[buffer.getvalue().index("<svg") :])


def embedded_image(image: ImageArray, *, caption: str = "", width: int = 320, marks: Sequence[Mark] = ()) -> Markup:
    """An image as an embedded JPEG, not wider than `width` pixels, with boxes over it and a line below.

    The first marks lie on top. Labels stay inside and do not cover each other; those without room are left out.
    """
    shown = Image.fromarray(image)
    shown.thumbnail((width, width * 4))
    buffer = io.BytesIO()
    shown.save(buffer, format="JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    placed = [
        (*(round(edge * side, 1) for edge, side in zip((x1, y1, x2 - x1, y2 - y1), shown.size * 2, strict=True)), mark)
        for mark in reversed(marks)
        for x1, y1, x2, y2 in [mark.box]
    ]
    texts = _labels(marks, shown.size)
    width, height = shown.size
    return Markup(_IMAGE.render(data=data, width=width, height=height, marks=placed, labels=texts, caption=caption))


def _labels(marks: Sequence[Mark], size: tuple[int, int]) -> list[tuple[int, int, Mark]]:
    """Where the texts that there is room for start (x, baseline), the first mark first served."""
    taken: list[Rectangle] = []
    labels = []
    for mark in (mark for mark in marks if mark.text):
        box = [round(edge * side) for edge, side in zip(mark.box, size * 2, strict=True)]
        room = round(sum(_WIDE if ord(letter) > 0x2E7F else _NARROW for letter in mark.text) + 4), _FONT_PX + 2
        spot = free_spot(box, room, size, taken)
        if spot is not None and room[0] <= size[0]:
            taken.append(spot)
            labels.append((spot[0] + 2, spot[3] - 3, mark))
    return labels


def row(images: Sequence[Markup], *, caption: str) -> Markup:
    """Images side by side under a line; one below the other where there is no room."""
    parts = Markup("").join(images)
    return Markup('<figure class="row"><figcaption>{}</figcaption>{}</figure>').format(caption, parts)


def columns(parts: Sequence[Markup]) -> Markup:
    """Parts side by side, as many as there is room for."""
    return Markup('<div class="columns">{}</div>').format(Markup("").join(map(_BLOCK.format, parts)))


def _is_number(cell: object, *, text_too: bool) -> bool:
    if isinstance(cell, str):
        return text_too and _NUMBER.fullmatch(cell) is not None
    return cell is None or isinstance(cell, int | float)


def _shown(cell: object) -> object:
    if cell is None:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else cell
