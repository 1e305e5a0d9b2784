"""Divides the images of a dataset that brings no splits, or no validation split of its own."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ssd.data.reading.folder import split_of_folders
from ssd.data.reading.options import ReadOptions
from ssd.data.validation import Report

UNDIVIDED = "all"  # images that belong to no split yet
_MAX_NAMED = 3  # folders in a note


def divide(
    names: Mapping[str, Sequence[str]], *, options: ReadOptions, report: Report, hold_out_val: bool = True
) -> dict[str, list[str]]:
    """The names of the images of train, val and test; what was drawn is noted in the report.

    Args:
        names: of the images of each split, or under UNDIVIDED if there are no splits.
        options: seed, shares and groups.
        hold_out_val: draw validation images from the training images if there is no val split.
    """
    split = {name: list(members) for name, members in names.items() if members}
    seed, chosen_by = options.seed, f"drawn with seed {options.seed}"
    if UNDIVIDED in split:
        everything = split.pop(UNDIVIDED)
        split = seeded_split(everything, options=options)
        parts = ", ".join(f"{len(members)} {name}" for name, members in split.items())
        report.note(f"no splits found, so {chosen_by}: {parts} (dataset.val_share, dataset.test_share)")
    elif "train" in split and "val" not in split and hold_out_val and options.val_share:
        split["train"], split["val"] = hold_out(
            split["train"], share=options.val_share, seed=seed, group_by=options.group_by
        )
        report.note(f"no val split found: {len(split['val'])} of the train images, {chosen_by} (dataset.val_share)")
    return split


def divide_by_folder(paths: Sequence[str], *, kind: str, report: Report) -> dict[str, list[str]]:
    """The paths of each split, by the names of their folders; the folders are noted in the report.

    They are under UNDIVIDED if there is no folder for training, or most are in no folder of a split.

    Args:
        paths: below the root.
        kind: what they are, in the note about those that are not used.
        report: gets the notes.
    """
    names: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    others: list[str] = []
    for path in paths:
        split = split_of_folders(path)
        (others if split is None else names[split]).append(path)
    if not names["train"] or 2 * len(others) > len(paths):
        return {UNDIVIDED: list(paths)}
    for split, members in names.items():
        if members:
            folders = list(dict.fromkeys(path.rpartition("/")[0] for path in members))
            more = f" and {len(folders) - _MAX_NAMED} more" if len(folders) > _MAX_NAMED else ""
            report.note(f"{split}: {len(members)} images of {', '.join(folders[:_MAX_NAMED])}{more}")
    if others:
        report.note(f"{len(others)} {kind} are in no folder of the splits, so they are not used: {others[0]}")
    return names


def seeded_split(names: Sequence[str], *, options: ReadOptions) -> dict[str, list[str]]:
    """By default 80 % train, 10 % val, 10 % test; at least one name each if there are three or more."""
    val_share, test_share, group_by = options.val_share, options.test_share, options.group_by
    train, test = hold_out(names, share=test_share, seed=options.seed, group_by=group_by)
    share = val_share * len(names) / max(1, len(train))
    train, val = hold_out(train, share=share, seed=options.seed + 1, group_by=group_by)
    return {"train": train, "val": val, "test": test}


def hold_out(
    names: Sequence[str], *, share: float, seed: int, group_by: str | None = None
) -> tuple[list[str], list[str]]:
    """Draws a seeded `share` (0..1) of `names`: (the rest, the drawn ones), both sorted.

    Names whose matches of the pattern `group_by` are equal stay together.
    """
    groups = _groups(sorted(names), group_by)
    wanted = max(1, round(share * len(names))) if share else 0
    order = np.random.default_rng(seed).permutation(len(groups))
    drawn: list[str] = []
    for group in (groups[position] for position in order[: max(0, len(groups) - 1)]):
        if len(drawn) >= wanted:
            break
        drawn += group
    chosen = set(drawn)
    return [name for name in sorted(names) if name not in chosen], sorted(drawn)


def _groups(names: Sequence[str], group_by: str | None) -> list[list[str]]:
    if group_by is None:
        return [[name] for name in names]
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        match = re.search(group_by, name)
        groups[name if match is None else repr(match.groups() or match.group())].append(name)
    return list(groups.values())
