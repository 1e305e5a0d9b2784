"""The XML file of an image in VOC format."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from ssd.common.errors import DataError
from ssd.common.untrusted_files import read_untrusted
from ssd.data.reading.annotations import AnnotatedObject
from ssd.data.validation import Report

_MAX_DEPTH = 100
_MAX_BYTES = 64 << 20  # of the annotation of one image
_EDGES = ("xmin", "ymin", "xmax", "ymax")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_LINE = " line"  # no attribute in a file can have a name with a space
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_NATIVE = ("utf-8", "utf8", "utf-16", "utf16", "iso-8859-1", "us-ascii")  # encodings that the parser decodes itself


@dataclass(frozen=True, slots=True)
class VocXml:
    """The content of an annotation: `size` is (H, W) as written, at `size_line`; boxes are xyxy as written."""

    filename: str
    size: tuple[object, object]
    size_line: int
    objects: list[AnnotatedObject]


def parse_xml(path: Path, report: Report) -> VocXml | None:
    """Reads an annotation; None if it is another kind of XML. Tags may have any case and namespace.

    Wrong objects go to the report.

    Raises:
        DataError: unreadable, no XML, or XML that attacks; and for a wrong object where the report does not collect.
    """
    tree = _tree(path)
    size = tree.find("size")
    if tree.tag != "annotation" and size is None and tree.find("object") is None:
        return None
    objects = []
    for number, item in enumerate(tree.iter("object"), start=1):
        if len(item):  # some datasets have an empty element for no object
            with report.collect_errors():
                objects.append(_object(path, number, item))
    return VocXml(
        filename=(tree.findtext("filename") or "").strip(),
        size=(tree.findtext("size/height"), tree.findtext("size/width")),
        size_line=1 if size is None else int(size.get(_LINE, 1)),
        objects=objects,
    )


def _tree(path: Path) -> Element:
    data = read_untrusted(path, max_bytes=_MAX_BYTES)
    builder = _LineNumbers()
    try:
        text, encoding = _decoded(data)
        parser = builder.parser = DefusedXMLParser(target=builder, encoding=encoding)
        parser.feed(text)
        root: Element = parser.close()
    except ParseError as error:
        hint = "; save it as UTF-8" if error.code == _INVALID_TOKEN and not _is_utf8(data) else ""
        raise DataError(f"{path}:{error.position[0]}: not XML: {error}{hint}") from error
    except (DefusedXmlException, ValueError, LookupError) as error:
        raise DataError(f"{path}: refused: {error}") from error
    return root


_INVALID_TOKEN = 4  # of expat


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decoded(data: bytes) -> tuple[bytes | str, str | None]:
    """The data, decoded where the parser cannot, such as GBK: it knows Unicode and encodings of one byte."""
    declared = _DECLARED.match(data)
    encoding = declared.group(1).decode().lower() if declared else "utf-8"
    if encoding in _NATIVE:
        return data, None
    return data.decode(encoding).encode("utf-8"), "utf-8"


class _LineNumbers(TreeBuilder):
    """Gives every element the line where it starts, and a name without namespace in lower case."""

    parser: Any
    _depth = 0

    def start(self, tag: Any, attrs: dict[Any, Any], /) -> Element:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError(f"elements are nested more than {_MAX_DEPTH} levels deep")
        return super().start(_local(tag), {**attrs, _LINE: self.parser.parser.CurrentLineNumber})

    def end(self, tag: Any, /) -> Element:
        self._depth -= 1
        return super().end(_local(tag))


def _local(tag: str) -> str:
    return tag.rpartition("}")[2].rpartition(":")[2].lower()


def _object(path: Path, number: int, item: Element) -> AnnotatedObject:
    def error(element: Element | None, message: str) -> DataError:
        line = (item if element is None else element).get(_LINE)
        return DataError(f"{path}:{line}: object {number}: {message}")

    name = (item.findtext("name") or "").strip()
    if not name:
        raise error(item.find("name"), "no <name>; add it or remove the object")
    box = item.find("bndbox")
    if box is None:
        raise error(None, "no <bndbox>; add it or remove the object")
    edges = []
    for tag in _EDGES:
        value = (box.findtext(tag) or "").strip()
        if not _NUMBER.fullmatch(value) or math.isinf(float(value)):
            raise error(box.find(tag), f"<{tag}> is {value!r}, not a number; correct it")
        edges.append(float(value))
    line = int(box.find(_EDGES[0]).get(_LINE))  # type: ignore[union-attr, arg-type]  # just read
    return AnnotatedObject(name, (edges[0], edges[1], edges[2], edges[3]), _is_difficult(item), line)


def _is_difficult(item: Element) -> bool:
    """A number other than 0, or `true`; some tools write `Unspecified`."""
    value = (item.findtext("difficult") or "").strip().lower()
    return value == "true" or bool(_NUMBER.fullmatch(value) and float(value))
