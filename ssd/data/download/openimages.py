"""Open Images: downloads the official CSV files and a selection of images, in the layout that the reader expects."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from ssd.common.atomic_files import write_atomically
from ssd.common.console import log
from ssd.common.downloads import download_files
from ssd.common.errors import ConfigError, DataError, MachineError, PartialError
from ssd.common.http_client import DEFAULT_NETWORK, Network
from ssd.common.images import decode_image, read_bytes
from ssd.common.tables import Table
from ssd.common.untrusted_files import open_untrusted
from ssd.data.download.folder import OTHER_DOWNLOADER, DownloadFolder, holds_tables_only
from ssd.data.download.openimages_selection import Selection, select_images, split_limit
from ssd.data.formats.openimages_csv import OFFICIAL_ID, read_rows
from ssd.data.formats.openimages_files import SPLITS, choose_classes, read_class_names
from ssd.data.formats.openimages_hierarchy import HIERARCHY, count_for_parents, expand, find_hierarchy, read_lineage
from ssd.data.validation import Report

_CLASSES = "class-descriptions-boxable.csv"
_BOXES = ("{}-annotations-bbox.csv", "oidv6-{}-annotations-bbox.csv")  # the first is downloaded if both are missing
_MISSING = "missing.csv"
_MAX_TABLE_BYTES = 16 * 10**9
_MAX_IMAGE_BYTES = 10**8


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenImagesDownload:
    """Downloads Open Images into `root`.

    Args:
        root: the dataset folder.
        classes: download only images with these classes; None for all.
        expand_hierarchy: the boxes of a subclass count for the class, too: Man and Woman for Person.
        include_depictions: drawings, photographs and statues count as objects.
        splits: official names.
        max_images: of all splits together, divided 8 : 1 : 1; None for all. A selected image gets all its boxes.
        max_images_per_class: divided likewise; a class gets more only in images that were selected for another.
        balance: select images of the rarest class first, instead of at random.
        seed: of the selection.
        annotations_url: address of the CSV files.
        images_url: address of the images.
        network: connections, attempts and time-outs.

    Raises:
        ConfigError: an unknown split, or none.
    """

    root: str
    classes: Sequence[str] | None = None
    expand_hierarchy: bool = False
    include_depictions: bool = False
    splits: Sequence[str] = tuple(SPLITS.values())
    max_images: int | None = 5000
    max_images_per_class: int | None = None
    balance: bool = True
    seed: int = 0
    annotations_url: str = "https://storage.googleapis.com/openimages/2018_04"
    images_url: str = "https://open-images-dataset.s3.amazonaws.com"
    network: Network = DEFAULT_NETWORK

    def __post_init__(self) -> None:
        if not self.splits or not set(self.splits) <= set(SPLITS.values()):
            raise ConfigError(f"download.splits={list(self.splits)}: choose some of {', '.join(SPLITS.values())}")

    def statistics(self) -> None:
        """Prints how many images and boxes exist and how many would be selected; downloads only the CSV files."""
        with self._lock(wait=False):
            self._select()

    def run(self) -> None:
        """Downloads what is missing.

        Raises:
            ConfigError: the folder belongs to another downloader, or a setting is wrong.
            DataError: an unknown class, or an invalid CSV file.
            PartialError: some images could not be downloaded; missing.csv lists them.
            MachineError: the host is down, the folder cannot be written, or another process is writing it.
        """
        with self._lock(wait=False):
            missing = self._download()
        if missing:
            raise PartialError(f"{missing}; run the same command again to retry them")

    def prepare(self) -> None:
        """Like `run`, before training: only in a folder that is empty or holds an unfinished download of ours.

        Waits for another process that downloads the same. Missing images are a warning, not an error.
        """
        if not self._is_unfinished():
            return
        try:
            with self._lock(wait=True):
                missing = self._download() if self._is_unfinished() else ""
        except MachineError as error:
            raise MachineError(f"{error}; or train on the files that are there with download=null") from error
        if missing:
            log(f"warning: {missing}; training continues without them")

    @property
    def _folder(self) -> DownloadFolder:
        names = ["splits", "include_depictions", "max_images", "max_images_per_class", "balance", "seed", "classes"]
        names += ["expand_hierarchy"] if self.expand_hierarchy else []  # markers are older than this setting
        return DownloadFolder(Path(self.root), {name: getattr(self, name) for name in names})

    def _is_unfinished(self) -> bool:
        root = Path(self.root)
        if self._folder.has_marker:
            files = [self._image_folder(split).is_dir() and self._box_table(split).is_file() for split in self.splits]
            return not all(files) or not self._folder.is_finished
        return holds_tables_only(root) if root.is_dir() else not root.exists()

    def _lock(self, *, wait: bool) -> AbstractContextManager[object]:
        if others := sorted(Path(self.root).glob(OTHER_DOWNLOADER)):
            raise ConfigError(
                f"{others[0]} is from another downloader, whose folder is never changed; choose another dataset.root"
            )
        return self._folder.lock(wait=wait)

    def _download(self) -> str:
        """Downloads what is missing; returns a summary of the images that failed, or an empty string."""
        self._folder.write_marker(finished=False)
        urls: dict[Path, str] = {}
        for split, selection in self._select().items():
            folder = self._image_folder(split)
            folder.mkdir(parents=True, exist_ok=True)
            urls |= {folder / f"{id}.jpg": f"{self.images_url.rstrip('/')}/{split}/{id}.jpg" for id in selection.ids}
        missing = {path: url for path, url in urls.items() if not path.exists() or not path.stat().st_size}
        log(f"downloading {len(missing)} of {len(urls)} images into {self.root}")
        failed = download_files(missing, self.network, title="images", max_bytes=_MAX_IMAGE_BYTES, check=_check_image)
        if failed and len(failed) == len(urls):
            path, url = next(iter(urls.items()))
            raise MachineError(f"{url}: {failed[path]}; no image arrived: check download.images_url")
        self._write_missing(failed)
        self._folder.write_marker(finished=True)
        log(f"{len(missing) - len(failed)} images downloaded, {len(urls) - len(missing)} already existed")
        if not failed:
            return ""
        reasons = ", ".join(f"{reason}: {count}" for reason, count in Counter(failed.values()).most_common(3))
        return f"{len(failed)} of {len(urls)} images are missing ({reasons}), see {Path(self.root, _MISSING)}"

    def _select(self) -> dict[str, Selection]:
        """Selects the images of each split, and prints the numbers. Missing CSV files are downloaded."""
        root, report = Path(self.root), Report()
        if not any(root.glob(f"*{_CLASSES}")):
            self._download_tables([_CLASSES], check=_check_table)
        names = read_class_names(root, [], report).names
        class_names = choose_classes(self.classes, names, where=self.root, report=report)
        labels = {mid: class_names.index(name) for mid, name in names.items() if name in class_names}
        counting = {mid: [own] for mid, own in labels.items()}
        if self.expand_hierarchy:
            if find_hierarchy(root) is None:
                self._download_tables([HIERARCHY], check=read_lineage)
            counting = count_for_parents(root, labels, {})
        missing = [
            f"{split}/{_BOXES[0].format(split)}" for split in self.splits if not self._box_table(split).is_file()
        ]
        self._download_tables(missing, check=_check_table)
        log(f"reading the boxes of {', '.join(self.splits)}")
        positions = {mid: position for position, mid in enumerate(counting)}
        limits = split_limit(self.max_images, self.splits)
        limits_per_class = split_limit(self.max_images_per_class, self.splits)
        selections = {}
        for split in self.splits:
            table = self._box_table(split)
            rows = read_rows(table, labels=positions, report=report, id_pattern=OFFICIAL_ID)
            selections[split] = select_images(
                expand(rows, list(counting.values())),
                num_classes=len(class_names),
                include_depictions=self.include_depictions,
                limit=limits[split],
                limit_per_class=limits_per_class[split],
                balance=self.balance,
                seed=self.seed,
            )
        _statistics_table(selections, class_names).log()
        return selections

    def _download_tables(self, names: Sequence[str], *, check: Callable[[Path], object]) -> None:
        urls = {Path(self.root, Path(name).name): f"{self.annotations_url.rstrip('/')}/{name}" for name in names}
        failed = download_files(urls, self.network, title="tables", max_bytes=_MAX_TABLE_BYTES, check=check)
        for path, reason in failed.items():
            raise MachineError(f"{path.name}: {reason}; check download.annotations_url={self.annotations_url}")

    def _box_table(self, split: str) -> Path:
        """The CSV file of a split, which may not exist yet."""
        paths = [Path(self.root, name.format(split)) for name in _BOXES]
        return next((path for path in paths if path.is_file()), paths[0])

    def _image_folder(self, split: str) -> Path:
        """The folder of a split: one of those where the reader looks for images."""
        folders = [Path(self.root, split), Path(self.root, "images", split)]
        return next((path for path in folders if path.is_dir()), folders[0])

    def _write_missing(self, failed: dict[Path, str]) -> None:
        """Writes missing.csv. No cell is a spreadsheet formula: each starts with a folder name or our own text."""
        path = Path(self.root, _MISSING)
        if not failed:
            path.unlink(missing_ok=True)
            return
        text = io.StringIO()
        rows = [(file.relative_to(self.root).as_posix(), reason) for file, reason in sorted(failed.items())]
        csv.writer(text).writerows([("file", "reason"), *rows])
        write_atomically(path, text.getvalue())


def _statistics_table(selections: dict[str, Selection], class_names: Sequence[str]) -> Table:
    """Images and boxes, selected and in all, of each class and split."""
    rows: list[Sequence[object]] = []
    for split, selection in selections.items():
        for label, name in enumerate(class_names):
            counts = (selection.images[label], selection.boxes[label])
            rows.append((split, name, *(f"{selected:,} / {total:,}" for selected, total in counts)))
        rows.append((split, "all images", f"{len(selection.ids):,}", ""))
    return Table("selected / all (group-of boxes not counted)", ("split", "class", "images", "boxes"), rows)


def _check_table(path: Path) -> None:
    with BufferedReader(open_untrusted(path)) as file:
        start = file.readline(1000).lstrip()
    if not (start.startswith(b"/") or b"LabelName" in start) or b"," not in start:
        raise DataError("not a table of Open Images")


def _check_image(path: Path) -> None:
    try:
        decode_image(read_bytes(path), name="")
    except DataError as error:
        raise DataError(str(error).removeprefix(": ").partition(";")[0]) from error
