"""Lookup of classes by name."""

from __future__ import annotations

from collections.abc import Sequence


def class_index(name: str, class_names: Sequence[str]) -> int | None:
    """Index of a class: the exact name, else the only name that differs in case; None if there is none."""
    if name in class_names:
        return class_names.index(name)
    matches = [index for index, other in enumerate(class_names) if other.casefold() == name.casefold()]
    return matches[0] if len(matches) == 1 else None
