"""Lookup of classes by name, and the limits of their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ssd.common.errors import DataError
from ssd.common.text import one_line

MAX_CLASSES = 10_000
_MAX_LENGTH = 256


def check_class_names(names: Sequence[str], *, where: str = "class_names") -> None:
    """Checks the classes of a network; messages begin with `where`.

    Raises:
        DataError: none, too many, a name that is too long, empty, has control characters, or occurs twice.
    """
    if not 1 <= len(names) <= MAX_CLASSES:
        raise DataError(f"{where}: {len(names)} classes: a network has from 1 to {MAX_CLASSES}")
    for name in names:
        if not name.strip() or len(name) > _MAX_LENGTH:
            raise DataError(f"{where}: {one_line(name[:40])!r}: a name has from 1 to {_MAX_LENGTH} characters")
        if one_line(name) != name:
            raise DataError(f"{where}: {one_line(name)}: a name has no control characters; rename the class")
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise DataError(f"{where}: {twice!r} occurs twice; each class has a name of its own")


def class_index(name: str, class_names: Sequence[str]) -> int | None:
    """Index of a class: the exact name, else the only name that differs in case; None if there is none."""
    if name in class_names:
        return class_names.index(name)
    matches = [index for index, other in enumerate(class_names) if other.casefold() == name.casefold()]
    return matches[0] if len(matches) == 1 else None
