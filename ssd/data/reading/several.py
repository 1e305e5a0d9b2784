"""Several folders as one dataset, and folders of images without objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ssd.common.errors import DataError
from ssd.common.image_header import read_size
from ssd.common.images import read_below
from ssd.data.index import DetectionIndex, ImageRecord, PackedStrings, build_index, offsets_of
from ssd.data.reading.folder import SourceFolder
from ssd.data.splits import Splits
from ssd.data.validation import Problem, Report, check_unreadable, report_extra_frames


def read_negatives(root: str, *, report: Report | None = None) -> Splits:
    """All images of a folder as training images without objects.

    Raises:
        DataError: no such folder, no image in it, or too many unreadable ones.
    """
    folder, report = Path(root), report or Report()
    paths = SourceFolder(folder).images if folder.is_dir() else []
    if not paths:
        raise DataError(f"dataset.negatives={root}: no image there; give a folder of images without objects")
    records, unreadable = [], []
    for path in paths:
        try:
            records.append(ImageRecord(path, path, read_size(folder / path), [], [], [], []))
        except DataError as error:
            unreadable.append((path, str(error)))
    check_unreadable(unreadable, images=len(paths), report=report, split="train")
    report_extra_frames(folder, [record.path for record in records], report=report, split="train")
    report.note(f"train: {len(records)} images without objects from {root}")
    return Splits(train=build_index(records, class_names=[], load=partial(read_below, root)), report=report)


def read_several(
    readers: Mapping[str, Callable[..., Splits]], *, sort_classes: bool = True, report: Report | None = None
) -> Splits:
    """The datasets that the readers of several roots return as one; paths and ids begin with the root.

    The class list has the classes of all roots, in alphabetical order or in that of the roots.

    Raises:
        DataError: as the readers.
    """
    parts: dict[str, Splits] = {}
    collected = report or Report()
    for root, read in readers.items():
        parts[root] = read() if report is None else read(report=report)
        if report is None:
            collected.problems += [replace(item, file=_below(root, item)) for item in parts[root].report.problems]
            collected.notes += [f"{root}: {note}" for note in parts[root].report.notes]
    found = list(dict.fromkeys(name for splits in parts.values() for name in splits.class_names))
    class_names = sorted(found) if sort_classes else found
    names = [name for name in ("train", "val", "test") if any(name in dict(item.items()) for item in parts.values())]
    return Splits(
        **{
            name: _concatenate(
                [
                    _rooted(index, root, class_names)
                    for root, splits in parts.items()
                    for split, index in splits.items()
                    if split == name
                ]
            )
            for name in names
        },
        report=collected,
    )


def _below(root: str, problem: Problem) -> str:
    return problem.file if problem.file.startswith(root) else f"{root}/{problem.file}"


def _rooted(index: DetectionIndex, root: str, class_names: Sequence[str]) -> DetectionIndex:
    """The index with paths that begin with the root, and labels that refer to `class_names`."""
    position = np.array([class_names.index(name) for name in index.class_names], dtype=np.int32)
    return replace(
        index,
        class_names=tuple(class_names),
        load=partial(read_below, ""),
        paths=PackedStrings.pack(f"{root}/{path}" for path in index.paths),
        ids=PackedStrings.pack(f"{root}/{id}" for id in index.ids),
        labels=position[index.labels] if len(position) else index.labels,
    )


def _concatenate(indexes: Sequence[DetectionIndex]) -> DetectionIndex:
    """The images of all indexes, which have the same classes, one after the other."""

    def strings(lists: Iterable[PackedStrings]) -> PackedStrings:
        return PackedStrings.pack(item for items in lists for item in items)

    first_source = np.cumsum([0, *(len(index.sources) for index in indexes)])
    return replace(
        indexes[0],
        paths=strings(index.paths for index in indexes),
        ids=strings(index.ids for index in indexes),
        sources=strings(index.sources for index in indexes),
        sizes=np.concatenate([index.sizes for index in indexes]),
        box_offsets=offsets_of(np.concatenate([np.diff(index.box_offsets) for index in indexes])),
        boxes=np.concatenate([index.boxes for index in indexes]),
        labels=np.concatenate([index.labels for index in indexes]),
        ignore=np.concatenate([index.ignore for index in indexes]),
        source_lines=np.concatenate([index.source_lines for index in indexes]),
        source_of=np.concatenate(
            [index.source_of + np.int32(start) for index, start in zip(indexes, first_source, strict=False)]
        ),
    )
