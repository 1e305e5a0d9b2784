"""The class hierarchy of Open Images, where a man is a person, too.

Boxes carry the narrowest class. As the Open Images challenge defines it, a box counts for its own class and for all
classes above it; only `Subcategory` makes a class one above, `Part` does not.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssd.common.errors import DataError
from ssd.data.formats.openimages_csv import Rows
from ssd.data.index import gather

HIERARCHY = "bbox_labels_600_hierarchy.json"  # as the official server calls it
_FILES = "*hierarchy*.json"
_NAMED = 4


def find_hierarchy(root: Path) -> Path | None:
    """The file of the hierarchy, where there is one."""
    return next(iter(sorted(root.glob(_FILES))), None)


def count_for_parents(root: Path, labels: dict[str, int]) -> dict[str, list[int]]:
    """By MID, the labels that a box counts for: `labels` has those of the classes chosen.

    Raises:
        DataError: there is no file of the hierarchy, or it is none.
    """
    path = find_hierarchy(root)
    if path is None:
        raise DataError(
            f"dataset.expand_hierarchy=true: no {_FILES} in {root}; put 2018_04/{HIERARCHY} from "
            "https://storage.googleapis.com/openimages/ there"
        )
    lineage = {mid: {mid} for mid in labels} | read_lineage(path)
    counting = {mid: sorted(labels[other] for other in line & labels.keys()) for mid, line in lineage.items()}
    return {mid: own for mid, own in counting.items() if own}


def read_lineage(path: Path) -> dict[str, set[str]]:
    """Of each MID, itself and those above it; a class may stand at several places.

    Raises:
        DataError: the file is no hierarchy.
    """
    lineage: dict[str, set[str]] = {}
    try:
        todo = [(json.loads(path.read_bytes()), frozenset[str]())]
        while todo:
            node, above = todo.pop()
            line = above | {node["LabelName"]}
            lineage.setdefault(node["LabelName"], set()).update(line)
            todo += [(child, line) for child in node.get("Subcategory", [])]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: no tree of LabelName and Subcategory: {error!r}; fetch the file again") from error
    return lineage


def hint(root: Path, labels: dict[str, int], names: dict[str, str]) -> str | None:
    """What is left out when the hierarchy is not used, if it is there."""
    path = find_hierarchy(root)
    try:
        lineage = read_lineage(path) if path else {}
    except DataError:  # nobody asked for it
        lineage = {}
    left_out = [mid for mid, line in lineage.items() if mid not in labels and line & labels.keys()]
    if not left_out:
        return None
    kinds = sorted(names.get(mid, mid) for mid in left_out)
    more = f" and {len(kinds) - _NAMED} more" if len(kinds) > _NAMED else ""
    first = ", ".join(kinds[:_NAMED])
    return f"boxes of {first}{more} left out, which are kinds of the chosen classes (dataset.expand_hierarchy)"


def expand(rows: Rows, labels: list[list[int]]) -> Rows:
    """Repeats each row for the labels that it counts for: `rows.labels` are places in `labels`."""
    flat = np.concatenate(labels).astype(np.int32)
    if len(flat) == len(labels):
        return replace(rows, labels=flat[rows.labels])
    counts = np.array([len(own) for own in labels])
    places, _ = gather(np.concatenate(([0], np.cumsum(counts))), rows.labels)
    again = np.repeat(np.arange(len(rows.labels)), counts[rows.labels])
    return replace(rows.take(again), labels=flat[places])
