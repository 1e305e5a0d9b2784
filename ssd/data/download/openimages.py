"""Open Images from nothing: the official CSV files, a choice of images, into the layout that the reader knows."""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssd.common.atomic_files import write_atomically
from ssd.common.errors import ConfigError, DataError, MachineError, PartialError
from ssd.common.images import decode_image
from ssd.data.download.http import DownloadFolder, Network, RemoteFile, fetch_all
from ssd.data.download.openimages_choice import Choice, choose_images, share_out
from ssd.data.formats.openimages_csv import SPLITS, choose_classes, read_class_names, read_rows
from ssd.data.formats.openimages_hierarchy import HIERARCHY, count_for_parents, expand, find_hierarchy, read_lineage
from ssd.data.validation import Report

_CLASSES = "class-descriptions-boxable.csv"
_BOXES = ("{}-annotations-bbox.csv", "oidv6-{}-annotations-bbox.csv")  # the first is fetched if there is neither
_OF_OTHERS = "sub-*-annotations-bbox.csv"
_MISSING = "missing.csv"
_MAX_TABLE_BYTES = 16 * 10**9
_MAX_IMAGE_BYTES = 10**8
_log = logging.getLogger("ssd")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenImagesDownload:
    """What to fetch, from where, into which folder; see conf/dataset/openimages.yaml for the settings."""

    root: str
    classes: Sequence[str] | None
    expand_hierarchy: bool
    include_depictions: bool
    splits: Sequence[str]
    max_images: int | None
    max_images_per_class: int | None
    balance: bool
    seed: int
    annotations_url: str
    images_url: str
    network: Network

    def __post_init__(self) -> None:
        if not self.splits or not set(self.splits) <= set(SPLITS.values()):
            raise ConfigError(f"download.splits={list(self.splits)}: give some of {', '.join(SPLITS.values())}")

    def statistics(self) -> None:
        """Says how many images and boxes there are, and how many would be fetched; fetches CSV files only."""
        with self._alone(wait=False):
            self._choose()

    def run(self) -> None:
        """Fetches what is missing.

        Raises:
            ConfigError: the folder is that of another downloader, or a setting is wrong.
            DataError: an unknown class, or a CSV file that cannot be used.
            PartialError: some images could not be had; missing.csv lists them.
            MachineError: the host is down, the folder cannot be written, or another process writes it.
        """
        with self._alone(wait=False):
            missing = self._fetch()
        if missing:
            raise PartialError(f"{missing}; the same command tries them again")

    def prepare(self) -> None:
        """For training: as `run`, in a folder that is empty or holds our own unfinished work; others stay as they are.

        Waits for another process that does the same; a few missing images are no error.
        """
        if not self._is_unfinished():
            return
        try:
            with self._alone(wait=True):
                missing = self._fetch() if self._is_unfinished() else ""
        except MachineError as error:
            raise MachineError(f"{error}; or train with what is there: download=null") from error
        if missing:
            _log.info("warning: %s; training goes on without them", missing)

    @property
    def _folder(self) -> DownloadFolder:
        names = ("splits", "include_depictions", "max_images", "max_images_per_class", "balance", "seed")
        classes = None if self.classes is None else list(self.classes)
        asked = {name: getattr(self, name) for name in names} | {"splits": list(self.splits), "classes": classes}
        return DownloadFolder(Path(self.root), asked | ({"expand_hierarchy": True} if self.expand_hierarchy else {}))

    def _is_unfinished(self) -> bool:
        root = Path(self.root)
        if self._folder.has_note:
            there = all(self._images(split).is_dir() and self._boxes(split) is not None for split in self.splits)
            return not there or not self._folder.is_finished
        if not root.is_dir():
            return not root.exists()
        shown = [path for path in root.iterdir() if not path.name.startswith(".")]
        return not any(root.glob(_OF_OTHERS)) and all(path.suffix in (".csv", ".json") for path in shown)

    @contextmanager
    def _alone(self, *, wait: bool) -> Iterator[None]:
        if others := sorted(Path(self.root).glob(_OF_OTHERS)):
            raise ConfigError(
                f"{others[0]} is of another downloader, whose folder stays as it is; choose another dataset.root"
            )
        with self._folder.alone(wait=wait):
            yield

    def _fetch(self) -> str:
        """Fetches, and returns what is missing, in words."""
        root = Path(self.root)
        self._folder.note(finished=False)
        chosen = {split: choice.ids for split, choice in self._choose().items()}
        files = [
            RemoteFile(f"{self.images_url.rstrip('/')}/{split}/{id}.jpg", self._images(split) / f"{id}.jpg")
            for split, ids in chosen.items()
            for id in ids
        ]
        wanted = [file for file in files if not file.path.exists() or not file.path.stat().st_size]
        for split in self.splits:
            self._images(split).mkdir(parents=True, exist_ok=True)
        _log.info("%d of %d images to fetch into %s", len(wanted), len(files), root)
        failed = fetch_all(wanted, self.network, title="images", max_bytes=_MAX_IMAGE_BYTES, check=_check_image)
        if failed and len(failed) == len(files):
            raise MachineError(f"{wanted[0].url}: {failed[wanted[0].path]}; no image came: see download.images_url")
        self._list(failed)
        self._folder.note(finished=True)
        _log.info("%d images fetched, %d were there", len(wanted) - len(failed), len(files) - len(wanted))
        reasons = ", ".join(f"{reason}: {count}" for reason, count in Counter(failed.values()).most_common(3))
        return f"{len(failed)} of {len(files)} images are missing ({reasons}), see {root / _MISSING}" if failed else ""

    def _choose(self) -> dict[str, Choice]:
        """The images of each split, from the CSV files, which are fetched where they are missing."""
        root = Path(self.root)
        if not any(root.glob(f"*{_CLASSES}")):
            self._get([_CLASSES], check=_check_table)
        report = Report()
        names = read_class_names(root, report)
        class_names = choose_classes(self.classes, names, where=self.root, report=report)
        labels = {mid: class_names.index(name) for mid, name in names.items() if name in class_names}
        counting = {mid: [own] for mid, own in labels.items()}
        if self.expand_hierarchy:
            if find_hierarchy(root) is None:
                self._get([HIERARCHY], check=read_lineage)
            counting = count_for_parents(root, labels)
        missing = [f"{split}/{_BOXES[0].format(split)}" for split in self.splits if self._boxes(split) is None]
        self._get(missing, check=_check_table)
        _log.info("reading the boxes of %s", ", ".join(self.splits))
        limits = share_out(self.max_images, self.splits)
        limits_per_class = share_out(self.max_images_per_class, self.splits)
        choices = {
            split: choose_images(
                expand(
                    read_rows(
                        self._boxes(split) or root,
                        labels={mid: place for place, mid in enumerate(counting)},
                        report=report,
                    ),
                    list(counting.values()),
                ),
                num_classes=len(class_names),
                include_depictions=self.include_depictions,
                limit=limits[split],
                limit_per_class=limits_per_class[split],
                balance=self.balance,
                seed=self.seed,
            )
            for split in self.splits
        }
        _show(choices, class_names)
        return choices

    def _get(self, names: Sequence[str], *, check: Callable[[Path], object]) -> None:
        files = [
            RemoteFile(f"{self.annotations_url.rstrip('/')}/{name}", Path(self.root, Path(name).name)) for name in names
        ]
        failed = fetch_all(files, self.network, title="tables", max_bytes=_MAX_TABLE_BYTES, check=check)
        if failed:
            path, reason = next(iter(failed.items()))
            raise MachineError(f"{path.name}: {reason}; see download.annotations_url={self.annotations_url}")

    def _boxes(self, split: str) -> Path | None:
        """The CSV file of a split, if it is there."""
        paths = [Path(self.root, name.format(split)) for name in _BOXES]
        return next((path for path in paths if path.is_file()), None)

    def _images(self, split: str) -> Path:
        """The folder of a split, where the reader looks, too."""
        folders = [Path(self.root, split), Path(self.root, "images", split)]
        return next((path for path in folders if path.is_dir()), folders[0])

    def _list(self, failed: dict[Path, str]) -> None:
        """missing.csv. No cell begins like a formula: names begin with a folder, reasons are words of ours."""
        path = Path(self.root, _MISSING)
        if not failed:
            path.unlink(missing_ok=True)
            return
        text = io.StringIO()
        rows = [(file.relative_to(self.root).as_posix(), reason) for file, reason in sorted(failed.items())]
        csv.writer(text).writerows([("file", "reason"), *rows])
        write_atomically(path, lambda temporary: temporary.write_text(text.getvalue()))


def _show(choices: dict[str, Choice], class_names: Sequence[str]) -> None:
    """The table of images and boxes per class and split."""
    table = Table("split", "class", title="chosen / all (boxes of groups not counted)", title_justify="left")
    for name in ("images", "boxes"):
        table.add_column(name, justify="right")
    for split, choice in choices.items():
        for label, name in enumerate(class_names):
            cells = (f"{chosen:,} / {total:,}" for chosen, total in (choice.images[label], choice.boxes[label]))
            table.add_row(split, Text(name), *cells)
        table.add_row(split, "images in all", f"{len(choice.ids):,}", end_section=True)
    console = Console(soft_wrap=True, color_system=None)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().rstrip().splitlines():
        _log.info(line)


def _check_table(path: Path) -> None:
    with path.open("rb") as file:
        start = file.readline(1000).lstrip()
    if not (start.startswith(b"/") or b"LabelName" in start) or b"," not in start:
        raise DataError("not a table of Open Images")


def _check_image(path: Path) -> None:
    try:
        decode_image(path.read_bytes(), name="")
    except DataError as error:
        raise DataError(str(error).removeprefix(": ").partition(";")[0]) from error
