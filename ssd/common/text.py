"""Text files of any encoding that marks itself, and text that any terminal can print."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from ssd.common.errors import DataError
from ssd.common.untrusted_files import read_untrusted

_BYTE_ORDER_MARKS = {  # UTF-32 before UTF-16, whose mark is its beginning
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udc7f\udd00-\udfff]")


def read_text(path: Path, *, as_file_names: bool = False) -> str:
    """The content of a text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Args:
        path: the file.
        as_file_names: bytes that are not UTF-8 become surrogates, as in the names of files on a disk: a list in GBK
            then still names its files.

    Raises:
        DataError: unreadable, or in another encoding.
    """
    return decode_text(read_untrusted(path), name=str(path), as_file_names=as_file_names)


def decode_text(data: bytes, *, name: str, as_file_names: bool = False) -> str:
    """`read_text` of bytes; error messages use `name`."""
    encoding = next((encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding, errors="surrogateescape" if as_file_names and encoding == "utf-8" else "strict")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}:{line}: not {encoding.upper()} text; save the file as UTF-8") from error


def printable(text: str) -> str:
    """The text with escapes for what a terminal or a log file cannot show, or would obey.

    These are bytes of a name in another encoding, control characters but line feeds and tabs, and the marks that
    reverse the direction of text.
    """
    shown = _OBEYED.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
    return shown.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="backslashreplace")


def one_line(text: str) -> str:
    """`printable`, with line feeds and tabs as escapes, too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")
