"""Finds out which format a dataset folder has, from a few of its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ssd.common.errors import ConfigError, DataError
from ssd.data.formats import foreign_json, oidv4
from ssd.data.formats.voc_xml import parse_xml
from ssd.data.formats.yolo_files import is_data_yaml, is_label_file
from ssd.data.reading.folder import FileTable, SourceFolder, base_name, stem_of
from ssd.data.validation import Report

NAMES = {"voc": "PASCAL VOC", "coco": "COCO", "yolo": "YOLO", "openimages": "Open Images"}
_SAMPLE = 24  # files of a kind that are opened
_UNREAD = {
    (".tfrecord", ".record", ".tfrecords"): "TFRecord files, which are not read",
    (".csv", ".tsv"): "CSV files without the columns of Open Images, which are not read",
    (".parquet", ".arrow"): "Parquet or Arrow files, which are not read",
    (".mat",): "MATLAB files, which are not read",
}
_CONVERT = "export the annotations as COCO, YOLO or PASCAL VOC"


def detect_format(root: str) -> str:
    """`voc`, `coco`, `yolo` or `openimages`.

    Raises:
        ConfigError: annotations of two formats.
        DataError: no such folder, no annotations, or those of a format that is not read; says what is there.
    """
    if not Path(root).is_dir():
        raise DataError(f"dataset.root={root}: no such folder; give a folder of labelled images")
    folder = SourceFolder(root)
    found = {
        name: example
        for name, find in (("openimages", _openimages), ("coco", _coco), ("voc", _voc), ("yolo", _yolo))
        if (example := find(folder)) is not None
    }
    if not found and (path := _data_yaml(folder)) is not None:
        found["yolo"] = path
    if len(found) > 1:
        listed = " and ".join(f"{NAMES[name]} ({example})" for name, example in found.items())
        raise ConfigError(
            f"dataset.root={root}: annotations in the formats {listed}; choose one: "
            f"{' or '.join(f'dataset={name}' for name in found)}"
        )
    if not found:
        raise _nothing_found(folder)
    return next(iter(found))


def _sample(paths: Sequence[str]) -> list[str]:
    """Some from the beginning, the middle and the end."""
    step = max(1, len(paths) // _SAMPLE)
    return list(paths[::step][:_SAMPLE]) + list(paths[-1:])


def _openimages(folder: SourceFolder) -> str | None:
    named = [path for path in folder.with_suffix(".csv") if path.lower().endswith("-annotations-bbox.csv")]
    toolkit = oidv4.find_folder(folder.root)
    if toolkit is not None:
        return next(toolkit.glob("*/*/Label")).relative_to(folder.root).as_posix()
    return named[0] if named else None


def _coco(folder: SourceFolder) -> str | None:
    paths = folder.with_suffix(".json")
    named = [path for path in paths if base_name(path).startswith(("instances_", "_annotations.coco"))]
    return next((path for path in [*named, *_sample(paths)] if foreign_json.is_coco(folder.root / path)), None)


def _voc(folder: SourceFolder) -> str | None:
    def is_annotation(path: str) -> bool:
        try:
            return parse_xml(folder.root / path, Report(collect_all=True)) is not None
        except DataError:
            return False

    return next(filter(is_annotation, _sample(folder.with_suffix(".xml"))), None)


def _yolo(folder: SourceFolder) -> str | None:
    texts = [path for path in folder.with_suffix(".txt") if "/label/" not in path.lower()]
    images = FileTable(folder.images if texts else ())
    paths = [path for path in texts if images.find(stem_of(base_name(path)), near=path)]
    return next((path for path in _sample(paths) if is_label_file(folder.root / path)), None)


def _data_yaml(folder: SourceFolder) -> str | None:
    paths = (path for path in folder.with_suffix(".yaml", ".yml") if "/" not in path)
    return next((path for path in paths if is_data_yaml(folder.root / path)), None)


def _nothing_found(folder: SourceFolder) -> DataError:
    foreign_json.refuse([folder.root / path for path in folder.with_suffix(".json")], root=folder.root)
    for suffixes, what in _UNREAD.items():
        if paths := folder.with_suffix(*suffixes):
            return DataError(f"dataset.root={folder.root}: {paths[0]}: {what}; {_CONVERT}")
    if xml := folder.with_suffix(".xml"):
        return DataError(f"dataset.root={folder.root}: {xml[0]} and the other XML are no PASCAL VOC; {_CONVERT}")
    files = (
        f"{len(folder.images)} images, but no annotations" if folder.images else f"no images ({_kinds(folder.files)})"
    )
    return DataError(
        f"dataset.root={folder.root}: {files}: no PASCAL VOC XML, COCO JSON, YOLO text files or Open Images CSV in it"
    )


def _kinds(paths: Iterable[str]) -> str:
    counts = Counter(Path(path).suffix.lower() or "files without suffix" for path in paths)
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(4)) or "empty"
