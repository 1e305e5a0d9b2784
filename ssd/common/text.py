"""Text files of any encoding that marks itself, and text that any terminal can print."""

from __future__ import annotations

import codecs
from pathlib import Path

from ssd.common.errors import DataError

_BYTE_ORDER_MARKS = {  # UTF-32 before UTF-16, whose mark is its beginning
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path, *, as_file_names: bool = False) -> str:
    """The content of a text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Args:
        path: the file.
        as_file_names: bytes that are not UTF-8 become surrogates, as in the names of files on a disk: a list in GBK
            then still names its files.

    Raises:
        DataError: unreadable, or in another encoding.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return decode_text(data, name=str(path), as_file_names=as_file_names)


def decode_text(data: bytes, *, name: str, as_file_names: bool = False) -> str:
    """`read_text` of bytes; error messages use `name`."""
    encoding = next((encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding, errors="surrogateescape" if as_file_names and encoding == "utf-8" else "strict")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}:{line}: not {encoding.upper()} text; save the file as UTF-8") from error


def printable(text: str) -> str:
    """The text with escapes for what a terminal or a log file cannot show, such as bytes of a name in GBK."""
    return text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="backslashreplace")
