"""Open Images: one CSV of boxes for each split, images in <split>/<ImageID>.jpg, a list of class names.

Understood are the official files of versions 4 to 7, and those that the downloader of dusty-nv and jetsonai writes
(sub-<split>-annotations-bbox.csv, which name the classes themselves). Official files come first where both are there:
a `sub-` file may lack boxes of its images. 14.6 million rows are streamed; only those of the classes stay.

Only images with a box of the classes are used: in Open Images nobody looked for every class in every image.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from ssd.common.errors import DataError
from ssd.common.images import IMAGE_SUFFIXES, read_below, read_size
from ssd.common.runtime import is_first_process
from ssd.data.formats.openimages_csv import (
    DOWNLOAD_HELP,
    SPLITS,
    Rows,
    choose_classes,
    find_files,
    read_class_names,
    read_rows,
)
from ssd.data.formats.openimages_files import find_places
from ssd.data.formats.openimages_hierarchy import count_for_parents, expand, hint
from ssd.data.index import DetectionIndex, PackedStrings
from ssd.data.splits import Splits, class_list
from ssd.data.validation import Report, check_set_aside, repair

_AT_ONCE, _THREADS = 256, 8  # images measured in a go, and how many goes at a time


def read_openimages(
    root: str,
    *,
    classes: Sequence[str] | None,
    expand_hierarchy: bool,
    include_depictions: bool,
    strict: bool,
    report: Report | None = None,
) -> Splits:
    """Reads a folder in the layout of Open Images.

    Args:
        root: the folder of the CSV files.
        classes: names as in the class file, in any case; None takes all that have a box.
        expand_hierarchy: a box counts for its class and for all above it, as in the Open Images challenge: one of Man
            is one of Person, and of both where both are among the classes.
        include_depictions: keeps drawings, photographs and statues of objects.
        strict: a box that would have to be mended is an error.
        report: takes down what is wrong.

    Raises:
        ConfigError: a class listed twice.
        DataError: a file that cannot be used, an unknown class, or no image to train on; names file, line and fix.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"dataset.root={root}: no such folder. {DOWNLOAD_HELP}")
    files = find_files(folder)
    report = Report() if report is None else report
    names = read_class_names(folder, report)
    class_names = choose_classes(classes, names, where=root, report=report)
    labels = {mid: class_names.index(name) for mid, name in names.items() if name in class_names}
    counting = count_for_parents(folder, labels) if expand_hierarchy else {mid: [own] for mid, own in labels.items()}
    rows: dict[str, Rows] = {}
    for split, path in files.items():
        with report.collect_errors():
            rows[split] = _rows(path, counting, include_depictions, report)
    own_names = {mid: [class_names[label] for label in own] for mid, own in counting.items()}
    if classes is None:
        class_names, rows = _only_used(class_names, rows, where=root, report=report)
    elif not expand_hierarchy and (line := hint(folder, labels, names)):
        report.add(root, line)
    indexes = {}
    for split in list(rows):
        index = _index(folder, files[split], SPLITS[split], rows.pop(split), class_names, report)
        if len(index):
            places = partial(find_places, file=files[split], names=own_names, depictions=include_depictions)
            indexes[split] = repair(index, report, strict=strict, places=places)
    if "train" not in indexes:
        why = "; ".join(report.summary_lines())
        raise DataError(f"dataset.root={root}: no image to train on: {why}. {DOWNLOAD_HELP}")
    return Splits(indexes.get("train"), indexes.get("val"), indexes.get("test"), report)


def _rows(path: Path, counting: dict[str, list[int]], include_depictions: bool, report: Report) -> Rows:
    rows = read_rows(path, labels={mid: place for place, mid in enumerate(counting)}, report=report)
    if not include_depictions and rows.depiction.any():
        report.add(path.name, f"{int(rows.depiction.sum())} depictions left out (dataset.include_depictions)")
        rows = rows.take(np.flatnonzero(~rows.depiction))
    return expand(rows, list(counting.values()))


def _only_used(
    names: tuple[str, ...], rows: dict[str, Rows], *, where: str, report: Report
) -> tuple[tuple[str, ...], dict[str, Rows]]:
    """The class list without those that have no box in any split, and the rows with labels to fit."""
    used = np.unique(np.concatenate([np.unique(item.labels) for item in rows.values()]))
    labels = {split: np.searchsorted(used, item.labels).astype(np.int32) for split, item in rows.items()}
    fewer = class_list(None, (names[label] for label in used), where=where, report=report)
    return fewer, {split: replace(item, labels=labels[split]) for split, item in rows.items()}


def _index(
    root: Path, file: Path, split: str, rows: Rows, class_names: tuple[str, ...], report: Report
) -> DetectionIndex:
    folder = next((path for path in (root / split, root / "images" / split) if path.is_dir()), root / split)
    files = _find(folder, rows.ids)
    wanted = np.bincount(rows.image, minlength=len(rows.ids)) > 0
    present = np.flatnonzero(wanted & np.array([name is not None for name in files], dtype=bool))
    if not wanted.any():
        report.add(file.name, "no box of the classes, so no such split")
    missing = np.flatnonzero(wanted & np.array([name is None for name in files], dtype=bool))
    if report.keep_going:  # one by one: training counts them, as millions may be missing on purpose
        for number in missing.tolist():
            report.add(f"{folder.relative_to(root)}/{rows.ids[number]}", "no such image; left out")
    elif len(missing):
        report.add(file.name, f"{len(missing)} of {wanted.sum()} images left out: not in {folder}")
    below = folder.relative_to(root).as_posix()
    paths = PackedStrings.pack(f"{below}/{files[number]}" for number in present.tolist())
    sizes = _sizes(root, paths, report)
    numbers = np.full(len(rows.ids), -1, dtype=np.int32)
    numbers[present] = np.arange(len(present))
    image = numbers[rows.image]
    order = np.argsort(image, kind="stable")[np.count_nonzero(image < 0) :]
    counts = np.bincount(image[order], minlength=len(present))
    index = DetectionIndex(
        class_names=class_names,
        load=partial(read_below, str(root)),
        paths=paths,
        ids=PackedStrings.pack(rows.ids[number] for number in present.tolist()),
        sizes=sizes,
        box_offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        boxes=rows.boxes[order],
        labels=rows.labels[order],
        ignore=rows.group_of[order],
    )
    readable = sizes.any(axis=1)
    return index if readable.all() else index.take(np.flatnonzero(readable))


def _find(folder: Path, ids: list[str]) -> list[str | None]:
    """The name of each image's file, or None; Path objects would take seconds for each million."""
    names = sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []
    by_id = {name.rpartition(".")[0]: name for name in names if name.lower().endswith(IMAGE_SUFFIXES)}
    return [by_id.get(id) for id in ids]


def _sizes(root: Path, paths: PackedStrings, report: Report) -> np.ndarray:
    """Upright (H, W) of each image; (0, 0) of one that is set aside."""
    sizes = np.zeros((len(paths), 2), dtype=np.int32)
    broken: dict[int, tuple[str, str]] = {}

    def measure(start: int) -> None:
        for position in range(start, min(start + _AT_ONCE, len(paths))):
            try:
                sizes[position] = read_size(f"{root}/{paths[position]}")
            except DataError as error:
                broken[position] = (paths[position], str(error))

    blocks = range(0, len(paths), _AT_ONCE)
    quiet = not (Console().is_terminal and is_first_process())
    with ThreadPoolExecutor(_THREADS) as pool:  # a disk answers several at once
        for _ in track(pool.map(measure, blocks), "image sizes", len(blocks), transient=True, disable=quiet):
            pass
    check_set_aside([item for _, item in sorted(broken.items())], images=len(paths), report=report)
    return sizes
