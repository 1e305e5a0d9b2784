"""Splits: what a reader returns, and seeded ones for datasets that come without."""

from __future__ import annotations

from collections.abc import Sequence


def class_index(name: str, class_names: Sequence[str]) -> int | None:
    """Where a class is in a list: spelt alike, or else the only one that differs in upper and lower case."""
    if name in class_names:
        return class_names.index(name)
    places = [place for place, other in enumerate(class_names) if other.casefold() == name.casefold()]
    return places[0] if len(places) == 1 else None
