"""PASCAL VOC from nothing: the official archives, from the first mirror that has them, unpacked for the reader."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from ssd.common.errors import DataError, MachineError
from ssd.common.progress import ProgressDisplay
from ssd.data.download.http import DownloadFolder, HostDownError, Network, RefusedError, RemoteFile, fetch_all

_DEVKIT = "VOCdevkit"
_WANTED = re.compile(rf"{_DEVKIT}/VOC\d{{4}}/(Annotations|ImageSets/Main|JPEGImages)/\w[\w.-]*")  # not segmentation
_log = logging.getLogger("ssd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A tar file: `folder` is that of its year on the official server, `bytes` and `md5` are of the whole file."""

    name: str
    folder: str
    bytes: int
    md5: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VocDownload:
    """What to fetch, from where, into which folder; see conf/dataset/voc.yaml for the settings.

    Args:
        root: gets VOCdevkit/VOC2007 and so on; archives that lie there are taken instead of fetched.
        training_root: the one folder that training fills by itself: a mistyped one must not cost gigabytes.
        mirrors: addresses with {folder} and {name} of an archive, tried in turn.
    """

    root: str
    training_root: str
    archives: Sequence[Archive]
    mirrors: Sequence[str]
    network: Network

    def statistics(self) -> None:
        """Says what there is to fetch."""
        for archive in self.archives:
            there = "is there" if self._path(archive).is_file() else "to fetch"
            state = "unpacked" if self._is_complete() else there
            _log.info("%s: %.0f MB, %s", archive.name, archive.bytes / 1e6, state)

    def run(self) -> None:
        """Fetches and unpacks what is missing.

        Raises:
            DataError: an archive that lies there is not the official one.
            MachineError: no mirror has an archive, the folder cannot be written, or another process writes it.
        """
        with self._folder.alone(wait=False):
            if self._is_complete():
                _log.info("all is there: %s", Path(self.root, _DEVKIT))
            else:
                self._fill()

    def prepare(self) -> None:
        """For training: as `run`, in `training_root` while nothing else is there; others stay as they are.

        Waits for another process that does the same.
        """
        if Path(self.root) != Path(self.training_root) or not self._is_unfinished():
            return
        with self._folder.alone(wait=True):
            if self._is_unfinished():
                self._fill()

    @property
    def _folder(self) -> DownloadFolder:
        return DownloadFolder(Path(self.root), {"archives": [archive.md5 for archive in self.archives]})

    def _path(self, archive: Archive) -> Path:
        return Path(self.root, archive.name)

    def _is_complete(self) -> bool:
        return self._folder.is_finished and Path(self.root, _DEVKIT).is_dir()

    def _is_unfinished(self) -> bool:
        root = Path(self.root)
        if self._folder.has_note or not root.is_dir():
            return not self._is_complete()
        return all(path.suffix == ".tar" for path in root.iterdir() if not path.name.startswith("."))

    def _fill(self) -> None:
        self._folder.note(finished=False)
        self._check_room()
        for archive in self.archives:
            self._fetch(archive)
        for archive in self.archives:
            self._unpack(archive)
        self._folder.note(finished=True)
        _log.info("unpacked into %s; the archives beside it are not needed any more", Path(self.root, _DEVKIT))

    def _check_room(self) -> None:
        to_fetch = sum(archive.bytes for archive in self.archives if not self._path(archive).is_file())
        needed = to_fetch + sum(archive.bytes for archive in self.archives)
        if (free := shutil.disk_usage(self.root).free) < needed:
            raise MachineError(
                f"dataset.root={self.root}: {free / 1e9:.1f} GB are free, {needed / 1e9:.1f} GB needed; "
                "free some space or choose another folder"
            )

    def _fetch(self, archive: Archive) -> None:
        path = self._path(archive)
        if path.is_file():
            try:
                _check(archive, path)
            except RefusedError as error:
                raise DataError(f"{path}: {error}; remove it, to have it fetched") from error
            return
        reasons = []
        for mirror in self.mirrors:
            file = RemoteFile(mirror.format(folder=archive.folder, name=archive.name), path)
            try:
                failed = fetch_all(
                    [file],
                    self.network,
                    title=archive.name,
                    max_bytes=archive.bytes,
                    check=partial(_check, archive),
                )
            except HostDownError as error:
                reasons.append(str(error).partition(";")[0])
                continue
            if not failed:
                return
            reasons.append(f"{urlsplit(file.url).netloc}: {failed[path]}")
        raise MachineError(
            f"{archive.name}: no mirror has it ({', '.join(reasons)}); get it by other means, put it into {self.root} "
            "and give the command again"
        )

    def _unpack(self, archive: Archive) -> None:
        """What the reader needs. Only plain files of the expected names are written, so no archive leads elsewhere."""
        title = f"unpacking {archive.name}"
        meter, files = ProgressDisplay(title, total=archive.bytes), 0
        try:
            with meter, tarfile.open(self._path(archive), "r:") as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isreg() and _WANTED.fullmatch(member.name) else None
                    if content is None:
                        continue
                    path = Path(self.root, member.name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    partial_path = path.with_name(f".{path.name}.part")
                    with partial_path.open("wb") as output:
                        shutil.copyfileobj(content, output)
                    partial_path.replace(path)
                    files += 1
                    meter.show(title, f"{files} files", done=member.offset)
        except tarfile.TarError as error:
            raise DataError(f"{self._path(archive)}: not a tar file: {error}; remove it, to have it fetched") from error
        _log.info("%s: %d files", archive.name, files)


def _check(archive: Archive, path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != archive.md5:
        raise RefusedError(f"not the official file ({path.stat().st_size} bytes of {archive.bytes}, MD5 {found})")
