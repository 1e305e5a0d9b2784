"""Open Images: one CSV file of boxes for each split, images in <split>/<ImageID>.jpg, a file of class names.

Accepted are the official files of versions 4 to 7, those of the downloader by dusty-nv and jetsonai
(sub-<split>-annotations-bbox.csv, which contain the class names), and folders of the OIDv4_ToolKit. Official files take
precedence: a `sub-` file may lack boxes of its images. The 14.6 million rows are streamed; only those of the chosen
classes are kept.

Only images with a box of the classes are used: in Open Images no image was annotated for every class.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np
from jaxtyping import Int32

from ssd.common.errors import DataError
from ssd.common.image_header import read_size
from ssd.common.images import read_below
from ssd.common.progress import tracked
from ssd.data.formats import oidv4
from ssd.data.formats.openimages_csv import Rows, read_rows
from ssd.data.formats.openimages_files import (
    DOWNLOAD_HELP,
    choose_classes,
    find_files,
    image_folder,
    read_class_names,
)
from ssd.data.formats.openimages_hierarchy import count_for_parents, expand, subclass_hint
from ssd.data.index import DetectionIndex, PackedStrings, offsets_of
from ssd.data.reading.box_units import BoxUnits, check_units
from ssd.data.reading.classes import class_list, class_renamer
from ssd.data.reading.division import divide
from ssd.data.reading.folder import images_by_stem
from ssd.data.reading.options import CommonOptions, ReadOptions
from ssd.data.splits import Splits
from ssd.data.validation import Report, check_unreadable, report_extra_frames, validate

_BLOCK, _THREADS = 256, 8  # images per task of a thread


def read_openimages(
    root: str,
    *,
    expand_hierarchy: bool = False,
    include_depictions: bool = False,
    report: Report | None = None,
    **options: Unpack[CommonOptions],
) -> Splits:
    """Reads a folder in the layout of Open Images.

    Args:
        root: the folder of the CSV files.
        expand_hierarchy: a box counts for its class and for all classes above it, as in the Open Images challenge: a
            box of Man counts for Person, and for both if both are chosen.
        include_depictions: keeps drawings, photographs and statues of objects.
        report: gets every problem.
        options: see ReadOptions. `classes` are names in any case; None takes all that have a box.

    Raises:
        ConfigError: a class listed twice.
        DataError: an unusable file, an unknown class, or no image to train on; names file, line and fix.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"dataset.root={root}: no such folder. {DOWNLOAD_HELP}")
    report, settings = report or Report(), ReadOptions(**options)
    if (toolkit := oidv4.find_folder(folder)) is not None:
        return oidv4.read_folder(folder, toolkit, options=settings, report=report)
    files = find_files(folder)
    defined = read_class_names(folder, list(files.values()), report)
    renamed = class_renamer(settings.class_map, defined.names.values(), report=report)
    names = {key: renamed[name] for key, name in defined.names.items()}
    class_names = choose_classes(settings.classes, names, where=root, report=report)
    labels = {key: class_names.index(name) for key, name in names.items() if name in class_names}
    labels_of = {key: [own] for key, own in labels.items()}
    if expand_hierarchy:
        labels_of = count_for_parents(folder, labels, defined.mids)
    rows: dict[str, Rows] = {}
    for split, path in files.items():
        with report.collect_errors():
            rows[split] = _rows(path, labels_of, include_depictions, report)
    if settings.classes is None:
        class_names, rows = _only_used(class_names, rows, root=root, report=report)
    elif not expand_hierarchy and (hint := subclass_hint(folder, labels, names)):
        report.add(root, hint)
    indexes = {}
    for split in list(rows):
        index = _index(folder, files[split], split, rows.pop(split), class_names, report, strict=settings.strict)
        if len(index):
            indexes[split] = validate(index, report, strict=settings.strict)
    if "train" not in indexes:
        reasons = "; ".join(report.summary_lines())
        raise DataError(f"dataset.root={root}: no image to train on: {reasons}. {DOWNLOAD_HELP}")
    return Splits(**_with_val(indexes, settings, report), report=report)


def _with_val(indexes: dict[str, DetectionIndex], options: ReadOptions, report: Report) -> dict[str, DetectionIndex]:
    """The splits; without a val split, some of the training images are held out."""
    if "val" in indexes:
        return indexes
    train = indexes["train"]
    position = {path: number for number, path in enumerate(train.paths)}
    divided = divide({"train": list(position)}, options=options, report=report)
    held_out = {
        split: train.take(np.array([position[path] for path in members], dtype=np.int64))
        for split, members in divided.items()
        if members
    }
    return indexes | held_out


def _rows(path: Path, labels_of: dict[str, list[int]], include_depictions: bool, report: Report) -> Rows:
    rows = read_rows(path, labels={mid: number for number, mid in enumerate(labels_of)}, report=report)
    check_units(rows.boxes, BoxUnits("fractions"), report, locate=lambda row: f"{path}:{rows.lines[row]}")
    if not include_depictions and rows.depiction.any():
        report.add(path.name, f"{int(rows.depiction.sum())} depictions skipped (dataset.include_depictions)")
        rows = rows.take(np.flatnonzero(~rows.depiction))
    return expand(rows, list(labels_of.values()))


def _only_used(
    names: tuple[str, ...], rows: dict[str, Rows], *, root: str, report: Report
) -> tuple[tuple[str, ...], dict[str, Rows]]:
    """The class list without those that have no box in any split, and the rows with matching labels."""
    used = np.unique(np.concatenate([np.unique(item.labels) for item in rows.values()]))
    labels = {split: np.searchsorted(used, item.labels).astype(np.int32) for split, item in rows.items()}
    used_names = class_list(None, (names[label] for label in used), where=root, report=report)
    return used_names, {split: replace(item, labels=labels[split]) for split, item in rows.items()}


def _index(
    root: Path, file: Path, split: str, rows: Rows, class_names: tuple[str, ...], report: Report, *, strict: bool
) -> DetectionIndex:
    """The images of a split that exist and can be read, with their boxes."""
    folder = image_folder(root, split)
    prefix = folder.relative_to(root).as_posix()
    file_names = images_by_stem(folder)
    used = np.unique(rows.image).tolist()
    present = [number for number in used if rows.ids[number] in file_names]
    missing = [number for number in used if rows.ids[number] not in file_names]
    if not used:
        report.add(file.name, "no box of the classes, so the split is skipped")
    if report.collect_all:  # in training they are only counted, as millions may be missing on purpose
        for number in missing:
            report.add(f"{prefix}/{rows.ids[number]}", "no such image; skipped")
    elif missing:
        report.add(file.name, f"{len(missing)} of {len(used)} images skipped: not in {folder}")
    paths = PackedStrings.pack(f"{prefix}/{file_names[rows.ids[number]]}" for number in present)
    report.note(f"{split}: {len(present)} images of {prefix}, boxes of {file.relative_to(root).as_posix()}")
    sizes = _sizes(root, paths, report, split=split, strict=strict)
    position = np.full(len(rows.ids), -1, dtype=np.int32)
    position[present] = np.arange(len(present))
    image = position[rows.image]
    order = np.argsort(image, kind="stable")[np.count_nonzero(image < 0) :]
    index = DetectionIndex(
        class_names=class_names,
        load=partial(read_below, str(root)),
        paths=paths,
        ids=PackedStrings.pack(rows.ids[number] for number in present),
        sizes=sizes,
        box_offsets=offsets_of(np.bincount(image[order], minlength=len(present))),
        boxes=rows.boxes[order],
        labels=rows.labels[order],
        ignore=rows.group_of[order],
        source_lines=rows.lines[order],
        sources=PackedStrings.pack([f"{file}:"]),
        source_of=np.zeros(len(present), dtype=np.int32),
    )
    readable = sizes.any(axis=1)
    return index if readable.all() else index.take(np.flatnonzero(readable))


def _sizes(root: Path, paths: PackedStrings, report: Report, *, split: str, strict: bool) -> Int32[np.ndarray, "N 2"]:
    """Upright (H, W) of each image; (0, 0) for an unreadable one."""
    sizes = np.zeros((len(paths), 2), dtype=np.int32)
    unreadable: dict[int, tuple[str, str]] = {}

    def read_block(start: int) -> None:
        for position in range(start, min(start + _BLOCK, len(paths))):
            try:
                sizes[position] = read_size(f"{root}/{paths[position]}")
            except DataError as error:
                unreadable[position] = (paths[position], str(error))

    blocks = range(0, len(paths), _BLOCK)
    with ThreadPoolExecutor(_THREADS) as pool:  # a disk serves several requests at once
        for _ in tracked(pool.map(read_block, blocks), "image sizes", total=len(blocks)):
            pass
    errors = [item for _, item in sorted(unreadable.items())]
    check_unreadable(errors, images=len(paths), report=report, split=split, strict=strict)
    report_extra_frames(root, paths, report=report, split=split)
    return sizes
