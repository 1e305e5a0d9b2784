"""Which annotations of a folder in VOC format belong to which split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ssd.common.errors import ConfigError, DataError
from ssd.data.reading.division import UNDIVIDED
from ssd.data.validation import Report

_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
DOWNLOAD_HELP = (
    "Give dataset.root=<folder of images and XML files>; ssd download dataset=voc dataset.root=DIR downloads "
    "PASCAL VOC 2007 and 2012"
)


def choose_splits(root: Path, *, chosen: dict[str, Sequence[str] | None], report: Report) -> dict[str, list[str]]:
    """The annotations of each split: paths below root without .xml.

    Args:
        chosen: for each split the names of its lists; None selects lists automatically, an empty list means no split.

    Raises:
        ConfigError: a chosen list does not exist.
        DataError: no image for training, or an unusable list.
    """
    lists = _split_lists(root)
    if not lists:
        if any(chosen.values()):
            raise ConfigError(
                f"dataset.root={root} has no ImageSets/Main, so splits cannot be chosen by name; omit dataset.*_splits"
            )
        return _splits_without_lists(root)
    automatic = _automatic_lists(lists)
    names: dict[str, list[str]] = {}
    for split, entries in chosen.items():
        entries = automatic[split] if entries is None else entries
        found = (name for entry in entries for name in _read_list(root, entry, lists, report))
        names[split] = list(dict.fromkeys(found))
    if not names["train"]:
        raise DataError(f"{root}/ImageSets/Main: no image in the training split; give dataset.train_splits=[...]")
    return names


def _split_lists(root: Path) -> dict[str, Path]:
    """Lists in ImageSets/Main by name; in a VOCdevkit the name starts with the folder of the year."""
    years = [root, *sorted(root.glob("VOC20[0-9][0-9]")), *sorted(root.glob("VOCdevkit/VOC20[0-9][0-9]"))]
    lists: dict[str, Path] = {}
    for year in years:
        for path in sorted((year / "ImageSets" / "Main").glob("*.txt")):
            if path.stem in ("train", "val", "trainval", "test") or year == root:
                lists[f"{year.name}/{path.stem}" if year != root else path.stem] = path
    return lists


def _automatic_lists(lists: dict[str, Path]) -> dict[str, list[str]]:
    years = {name.rpartition("/")[0] for name in lists}
    if years != {""}:  # the 07+12 recipe
        trainval = [f"{year}/trainval" for year in sorted(years) if f"{year}/trainval" in lists]
        return {"train": trainval, "val": [], "test": [name for name in lists if name.endswith("/test")]}
    has_val = "val" in lists and bool(_read_text(lists["val"]).split())
    train = "train" if "train" in lists and (has_val or "trainval" not in lists) else "trainval"
    return {
        "train": [train] if train in lists else [],
        "val": ["val"] if has_val else [],
        "test": ["test"] if "test" in lists else [],
    }


def _read_list(root: Path, entry: str, lists: dict[str, Path], report: Report) -> Iterator[str]:
    if entry not in lists:
        raise ConfigError(f"dataset.root={root}: no split {entry!r}; choose from {', '.join(lists)}")
    year = lists[entry].parents[2].relative_to(root)
    for number, line in enumerate(_read_text(lists[entry]).splitlines(), start=1):
        name, _, flag = line.strip().rpartition(" ")
        if flag not in ("1", "0", "-1") or not name:  # a list for one class has a flag in its second column
            name, flag = line.strip(), "1"
        if not name or flag == "-1":
            continue
        name = name.strip()
        if "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
            report.add(f"{lists[entry]}:{number}", f"{name!r} is not an image's name; correct the line", fatal=True)
        else:
            yield (year / "Annotations" / name).as_posix()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}; save it as UTF-8") from error


def _splits_without_lists(root: Path) -> dict[str, list[str]]:
    names = sorted(
        path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*") if path.suffix.lower() == ".xml"
    )
    if not names:
        raise DataError(f"dataset.root={root}: no XML file in it. {DOWNLOAD_HELP}")
    by_folder: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name in names:
        parts = Path(name.lower()).parts[:-1]
        split = next((split for part in parts for split, folders in _FOLDERS.items() if part in folders), None)
        if split is None:
            return {UNDIVIDED: names}
        by_folder[split].append(name)
    if not by_folder["train"]:
        return {UNDIVIDED: names}
    return by_folder
