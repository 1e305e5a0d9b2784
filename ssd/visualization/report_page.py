"""Self-contained HTML pages: tables, charts as SVG, images as data; the markup is in report_page.j2."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from ssd.common.images import ImageArray
from ssd.common.tables import Table

_LOADER = FileSystemLoader(Path(__file__).parent)
_ENVIRONMENT = Environment(loader=_LOADER, autoescape=True, trim_blocks=True, lstrip_blocks=True)
_MACROS: Any = _ENVIRONMENT.get_template("report_page.j2").module

legend: Callable[[Sequence[tuple[str, str]]], Markup] = _MACROS.legend  # a line of (text, CSS colour)
columns: Callable[[Sequence[Markup]], Markup] = _MACROS.columns  # parts side by side, as far as the page is wide enough


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of a page with its anchor. Parts are text, which is escaped, or results of the functions here."""

    id: str
    title: str
    parts: Sequence[str]


def page(title: str, *, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole page."""
    return str(_MACROS.page(title, subtitle, sections)).lstrip()


def paragraph(text: str, *, warning: bool = False) -> Markup:
    """A line of text, or a highlighted warning."""
    return _MACROS.paragraph(text, "warning" if warning else "")


def table(content: Table) -> Markup:
    """The rows of a table, without its title."""
    return _MACROS.table(content.columns, content.cells(), content.numeric())


def chart(figure: Figure) -> Markup:
    """A matplotlib figure as SVG; its text stays text, so that the browser's fonts show every script."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", bbox_inches="tight")
    return Markup(buffer.getvalue()[buffer.getvalue().index("<svg") :])


def embedded_image(image: ImageArray, *, caption: str = "", width: int = 320) -> Markup:
    """An image as embedded WebP (a third of the bytes of a JPEG), at most `width` pixels wide, over its caption."""
    pillow = Image.fromarray(image)
    pillow.thumbnail((width, width * 4))
    buffer = io.BytesIO()
    pillow.save(buffer, format="WEBP", quality=80)
    return _MACROS.image(base64.b64encode(buffer.getvalue()).decode(), caption)


def image_row(images: Sequence[Markup], *, caption: str) -> Markup:
    """Images side by side under a caption; one below the other on a narrow screen."""
    return _MACROS.image_row(images, caption)
