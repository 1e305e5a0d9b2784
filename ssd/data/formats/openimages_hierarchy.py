"""The class hierarchy of Open Images, in which Man is a subclass of Person.

Boxes have the most specific class. As in the Open Images challenge, a box can count for its own class and for all
classes above it; only `Subcategory` defines a parent, `Part` does not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ssd.common.errors import DataError
from ssd.common.untrusted_text import read_json
from ssd.data.formats.openimages_csv import Rows
from ssd.data.index import gather, offsets_of

HIERARCHY = "bbox_labels_600_hierarchy.json"  # its name on the official server
_FILES = "*hierarchy*.json"
_MAX_NAMED = 4


def find_hierarchy(root: Path) -> Path | None:
    """The file of the hierarchy, if there is one."""
    return next(iter(sorted(root.glob(_FILES))), None)


def count_for_parents(root: Path, labels: dict[str, int], mids: dict[str, str]) -> dict[str, list[int]]:
    """The labels that a box of each MID counts for; `labels` holds those of the chosen classes.

    A class may also be written as a text, whose MID is in `mids`.

    Raises:
        DataError: the file of the hierarchy is missing or unusable.
    """
    path = find_hierarchy(root)
    if path is None:
        raise DataError(
            f"dataset.expand_hierarchy=true: no {_FILES} in {root}; put 2018_04/{HIERARCHY} from "
            "https://storage.googleapis.com/openimages/ there"
        )
    lineage = {mid: {mid} for mid in labels} | read_lineage(path)
    lineage |= {text: {text} | lineage.get(mid, set()) for text, mid in mids.items()}
    labels_of = {mid: sorted({labels[other] for other in line & labels.keys()}) for mid, line in lineage.items()}
    return {mid: own for mid, own in labels_of.items() if own}


def read_lineage(path: Path) -> dict[str, set[str]]:
    """For each MID, itself and all classes above it; a class may occur at several places of the tree.

    Raises:
        DataError: the file is not a hierarchy.
    """
    lineage: dict[str, set[str]] = {}
    try:
        todo = [(read_json(path), frozenset[str]())]
        while todo:
            node, above = todo.pop()
            line = above | {node["LabelName"]}
            lineage.setdefault(node["LabelName"], set()).update(line)
            todo += [(child, line) for child in node.get("Subcategory", [])]
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: no tree of LabelName and Subcategory: {error!r}; download the file again") from error
    return lineage


def subclass_hint(root: Path, labels: dict[str, int], names: dict[str, str]) -> str | None:
    """The subclasses of the chosen classes that are skipped because the hierarchy is not used."""
    path = find_hierarchy(root)
    try:
        lineage = read_lineage(path) if path else {}
    except DataError:  # the hierarchy is optional here
        lineage = {}
    skipped = [mid for mid, line in lineage.items() if mid not in labels and line & labels.keys()]
    if not skipped:
        return None
    subclasses = sorted(names.get(mid, mid) for mid in skipped)
    more = f" and {len(subclasses) - _MAX_NAMED} more" if len(subclasses) > _MAX_NAMED else ""
    first = ", ".join(subclasses[:_MAX_NAMED])
    return f"boxes of {first}{more} skipped: subclasses of the chosen classes (dataset.expand_hierarchy)"


def expand(rows: Rows, labels: list[list[int]]) -> Rows:
    """Repeats each row for every label that it counts for: `rows.labels` are positions in `labels`."""
    flat = np.concatenate(labels).astype(np.int32)
    if len(flat) == len(labels):
        return replace(rows, labels=flat[rows.labels])
    counts = np.array([len(own) for own in labels])
    positions, _ = gather(offsets_of(counts), rows.labels)
    repeated = np.repeat(np.arange(len(rows.labels)), counts[rows.labels])
    return replace(rows.take(repeated), labels=flat[positions])
