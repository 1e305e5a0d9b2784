"""The class list of a dataset."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from ssd.common.class_names import check_class_names, class_index
from ssd.common.errors import ConfigError, DataError
from ssd.data.validation import Report


def class_renamer(class_map: Mapping[str, str] | None, found: Iterable[str], *, report: Report) -> dict[str, str]:
    """The name of each found class after `dataset.class_map`; its keys may differ in case, unused ones are reported."""
    names = sorted(set(found))
    renamed = {name: name for name in names}
    for old, new in (class_map or {}).items():
        position = class_index(old, names)
        if position is None:
            close = difflib.get_close_matches(old.casefold(), names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"found: {', '.join(names[:20])}"
            report.add(f"dataset.class_map={old}", f"no such class; {hint}")
        else:
            renamed[names[position]] = new
    return renamed


def class_list(
    chosen: Sequence[str] | None, found: Iterable[str], *, where: str, report: Report, defined_in: str | None = None
) -> tuple[str, ...]:
    """The chosen classes, or all found ones in alphabetical order; one list for all splits.

    A chosen class without an object is allowed, unless a found class that is not chosen has nearly the same name.

    Args:
        where: the start of messages.
        defined_in: the file that defines all classes, `found`: a chosen one must be among them, in any case.

    Raises:
        ConfigError: a class is chosen twice.
        DataError: no class at all, a misspelled or an undefined one.
    """
    found = sorted(set(found))
    if chosen is None:
        if not found:
            raise DataError(f"{where}: no object in any annotation, so no class to learn; check the folder")
        check_class_names(found, where=where)
        return tuple(found)
    if defined_in is not None:
        spelling = {name.casefold(): name for name in found}
        chosen = [spelling.get(name.casefold(), name) for name in chosen]
    duplicates = [name for position, name in enumerate(chosen) if name in chosen[:position]]
    if duplicates:
        raise ConfigError(f"dataset.classes={list(chosen)}: {duplicates[0]!r} is listed twice; remove one")
    others = {name.casefold(): name for name in found if name not in chosen}
    for name in (name for name in chosen if name not in found):
        close = difflib.get_close_matches(name.casefold(), others, n=1)
        hint = f"did you mean {others[close[0]]!r}?" if close else f"see {defined_in} for the {len(found)} names"
        if close or defined_in is not None:
            report.add(where, f"no class {name!r}; {hint} (dataset.classes)", fatal=True)
    check_class_names(chosen, where=where)
    return tuple(chosen)
