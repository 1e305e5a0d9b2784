"""Which JSON files of a folder in COCO format belong to which split, and where their images may be."""

from __future__ import annotations

from pathlib import Path

from ssd.common.errors import ConfigError, DataError

_DETECTION = "instances_"  # the official folder has captions_, person_keypoints_, image_info_ as well
DOWNLOAD_HELP = (
    "Get train2017.zip, val2017.zip and annotations_trainval2017.zip from cocodataset.org, unpack them side by side "
    "and give dataset.root=<folder with annotations, train2017 and val2017>"
)


def choose_files(root: Path, chosen: dict[str, str | None]) -> dict[str, Path]:
    """The JSON file of each split: the chosen one, or one found by name if that is None.

    Raises:
        ConfigError: a chosen file does not exist, or there are several for a split.
        DataError: there is no file.
    """
    files = {split: root / name for split, name in chosen.items() if name}
    for split, path in files.items():
        if not path.is_file():
            raise ConfigError(f"dataset.{split}_json={chosen[split]}: no such file in {root}")
    found = [path for path in _candidates(root) if path not in files.values()]
    if len(found) == 1 and not files:
        return {"train": found[0]}
    for split in (split for split, name in chosen.items() if name is None):
        matching = [path for path in found if _split_of(root, path) == split]
        if len(matching) > 1:
            names = ", ".join(str(path.relative_to(root)) for path in matching)
            raise ConfigError(f"dataset.root={root}: several JSON for {split}: {names}; give dataset.{split}_json=")
        if matching:
            files[split] = matching[0]
    if not files:
        raise DataError(f"dataset.root={root}: no JSON of annotations; give dataset.train_json=. {DOWNLOAD_HELP}")
    return files


def _candidates(root: Path) -> list[Path]:
    for pattern in ("annotations/*.json", "*.json", "*/*.json"):
        found = sorted(root.glob(pattern))
        if found:
            return [path for path in found if path.name.startswith(_DETECTION)] or found
    return []


def _split_of(root: Path, path: Path) -> str | None:
    """By the name of the file, or else of its folder."""
    names = (path.stem.lower(), path.parent.relative_to(root).as_posix().lower())
    return next((split for name in names for split in ("train", "val", "test") if split in name), None)


def image_folders(root: Path, path: Path, split: str, images: str | None) -> list[Path]:
    """The folders where the images of a JSON file may be, the most likely first."""
    names = dict.fromkeys((path.stem.removeprefix(_DETECTION), split, "valid" if split == "val" else split))
    if images is not None:
        return [root / images, *(root / images / name for name in names)]
    inside = [folder / name for name in names for folder in (root, root / "images")]
    return [*inside, path.parent, root / "images", root]
