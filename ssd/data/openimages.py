"""Open Images: one CSV of boxes for each split, pictures in <split>/<ImageID>.jpg, a list of class names.

Understood are the official files of versions 4 to 7, and those that the downloader of dusty-nv and jetsonai writes
(sub-<split>-annotations-bbox.csv, which name the classes themselves). Official files come first where both are there:
a `sub-` file may lack boxes of its pictures. 14.6 million rows are streamed; only those of the classes stay.

Only pictures with a box of the classes are used: in Open Images nobody looked for every class in every picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ssd.data.index import DetectionIndex, PackedStrings
from ssd.data.openimages_rows import (
    DOWNLOAD_HELP,
    SPLITS,
    Rows,
    choose_classes,
    find_files,
    read_class_names,
    read_rows,
)
from ssd.data.repair import Report, check_set_aside, repair
from ssd.data.splits import Splits, class_list
from ssd.errors import DataError
from ssd.images import IMAGE_SUFFIXES, read_below, read_size


def read_openimages(
    root: str, *, classes: Sequence[str] | None, include_depictions: bool, strict: bool, report: Report | None = None
) -> Splits:
    """Reads a folder in the layout of Open Images.

    Args:
        root: the folder of the CSV files.
        classes: names as in the class file, in any case; None takes all that have a box.
        include_depictions: keeps drawings, photographs and statues of objects.
        strict: a box that would have to be mended is an error.
        report: takes down what is wrong.

    Raises:
        ConfigError: a class listed twice.
        DataError: a file that cannot be used, an unknown class, or no picture to train on; names file, line and fix.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"dataset.root={root}: no such folder. {DOWNLOAD_HELP}")
    files = find_files(folder)
    report = Report() if report is None else report
    names = read_class_names(folder, report)
    class_names = choose_classes(classes, names, where=root, report=report)
    labels = {mid: class_names.index(name) for mid, name in names.items() if name in class_names}
    rows: dict[str, Rows] = {}
    for split, path in files.items():
        with report.leaving_out():
            rows[split] = read_rows(path, labels=labels, report=report)
    if not include_depictions:
        rows = {split: _without_depictions(item, files[split].name, report) for split, item in rows.items()}
    if classes is None:
        class_names, rows = _only_used(class_names, rows, where=root, report=report)
    found = {s: _index(folder, files[s], SPLITS[s], item, class_names, report) for s, item in rows.items()}
    indexes = {split: repair(index, report, strict=strict) for split, index in found.items() if len(index)}
    if "train" not in indexes:
        why = "; ".join(report.summary_lines())
        raise DataError(f"dataset.root={root}: no picture to train on: {why}. {DOWNLOAD_HELP}")
    return Splits(indexes.get("train"), indexes.get("val"), indexes.get("test"), report)


def _only_used(
    names: tuple[str, ...], rows: dict[str, Rows], *, where: str, report: Report
) -> tuple[tuple[str, ...], dict[str, Rows]]:
    """The class list without those that have no box in any split, and the rows with labels to fit."""
    used = np.unique(np.concatenate([item.labels for item in rows.values()]))
    labels = {split: np.searchsorted(used, item.labels).astype(np.int32) for split, item in rows.items()}
    fewer = class_list(None, (names[label] for label in used), where=where, report=report)
    return fewer, {split: replace(item, labels=labels[split]) for split, item in rows.items()}


def _without_depictions(rows: Rows, file: str, report: Report) -> Rows:
    if not rows.depiction.any():
        return rows
    report.add(file, f"{int(rows.depiction.sum())} depictions left out (dataset.include_depictions)")
    by_box = ("picture", "boxes", "labels", "group_of", "depiction")
    return replace(rows, **{name: getattr(rows, name)[~rows.depiction] for name in by_box})


def _index(
    root: Path, file: Path, split: str, rows: Rows, class_names: tuple[str, ...], report: Report
) -> DetectionIndex:
    folder = next((path for path in (root / split, root / "images" / split) if path.is_dir()), root / split)
    on_disk = _pictures(folder)
    wanted = np.unique(rows.picture).tolist()
    present = [number for number in wanted if rows.ids[number] in on_disk]
    if not wanted:
        report.add(file.name, "no box of the classes, so no such split")
    if report.keep_going:  # one by one: training counts them, as millions may be missing on purpose
        for number in sorted(set(wanted) - set(present)):
            report.add(f"{folder.relative_to(root)}/{rows.ids[number]}", "no such picture; left out")
    elif missing := len(wanted) - len(present):
        report.add(file.name, f"{missing} of {len(wanted)} pictures left out: not in {folder}")
    paths = {number: (folder / on_disk[rows.ids[number]]).relative_to(root).as_posix() for number in present}
    sizes = _sizes(root, paths, report)
    numbers = np.full(len(rows.ids), -1, dtype=np.int64)
    numbers[list(sizes)] = np.arange(len(sizes))
    picture = numbers[rows.picture]
    order = np.argsort(picture, kind="stable")[np.count_nonzero(picture < 0) :]
    counts = np.bincount(picture[order], minlength=len(sizes))
    return DetectionIndex(
        class_names=class_names,
        load=partial(read_below, str(root)),
        paths=PackedStrings.pack(paths[number] for number in sizes),
        ids=PackedStrings.pack(rows.ids[number] for number in sizes),
        sizes=np.array(list(sizes.values()), dtype=np.int32).reshape(-1, 2),
        box_offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        boxes=rows.boxes[order],
        labels=rows.labels[order],
        ignore=rows.group_of[order],
    )


def _pictures(folder: Path) -> dict[str, str]:
    """File names by stem."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return {Path(name).stem: name for name in names if name.lower().endswith(IMAGE_SUFFIXES)}


def _sizes(root: Path, paths: dict[int, str], report: Report) -> dict[int, tuple[int, int]]:
    sizes, broken = {}, []
    for number, path in paths.items():
        try:
            sizes[number] = read_size(root / path)
        except DataError as error:
            broken.append((path, str(error)))
    check_set_aside(broken, pictures=len(paths), report=report)
    return sizes
