"""Downloads over HTTP(S): parallel, with retries, and resumed after an interruption.

A file grows as `.NAME.part` and gets its name once it is complete and checked: unlike the temporary file of
`write_atomically`, the part survives a killed process. Beside it lies the server's validator (ETag or date), which the
next attempt sends with its range: if the file has changed on the server, all of it is sent again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import urlsplit

from urllib3 import PoolManager, exceptions

from ssd.common.atomic_files import flush
from ssd.common.errors import ConfigError, DataError, MachineError
from ssd.common.http_addresses import AddressError, Hosts, check_address
from ssd.common.http_client import (
    HEADERS,
    Network,
    RefusedError,
    RetryableError,
    connection_pool,
    explain,
    is_continuation,
    validator,
)
from ssd.common.http_requests import Reply, TimeOverError, get
from ssd.common.progress import DownloadProgress
from ssd.common.text import read_text

_BACKOFF_S = 0.5  # doubled after each attempt
_RANDOM = random.Random()  # separate: the global one is seeded for training
_MAX_FAILED_IN_A_ROW = 10  # files, after which the host counts as down
_FIRST_CONTACT_TRIES = 2  # for a host that has never answered


class HostDownError(MachineError):
    """A host does not answer; another host may."""


def download_files(
    urls: Mapping[Path, str], network: Network, *, title: str, max_bytes: int, check: Callable[[Path], object]
) -> dict[Path, str]:
    """Downloads files of one host in parallel and shows the progress.

    Args:
        urls: the address of each file.
        title: of the progress display.
        max_bytes: a larger file is refused.
        check: validates a complete file before it gets its name. It raises DataError for a wrong file (a web page in
            place of an image), which is then downloaded again, or RefusedError if that would not help.

    Returns:
        The reason for each file that failed, by path; all others exist now.

    Raises:
        ConfigError: an address is not http(s).
        HostDownError: the host does not answer.
        MachineError: a file cannot be written.
    """
    for url in urls.values():
        try:
            check_address(url)
        except AddressError as error:
            raise ConfigError(f"{url}: not an http:// or https:// address: {error}; correct it") from error
    if not urls:
        return {}
    pool, hosts = connection_pool(next(iter(urls.values())), network)
    with DownloadProgress(title, total=len(urls)) as progress:
        return _Job(urls, network, pool, hosts, progress, max_bytes, check).run()


@dataclass
class _Job:
    """Files, and the threads that share them."""

    urls: Mapping[Path, str]
    network: Network
    pool: PoolManager
    hosts: Hosts
    progress: DownloadProgress
    max_bytes: int
    check: Callable[[Path], object]
    failed: dict[Path, str] = field(default_factory=dict)
    failed_in_a_row: int = 0
    responses: int = 0
    waiting: SimpleQueue[tuple[Path, str] | None] = field(default_factory=SimpleQueue)
    ended: SimpleQueue[BaseException | None] = field(default_factory=SimpleQueue)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> dict[Path, str]:
        threads = min(self.network.workers, len(self.urls))
        for item in (*self.urls.items(), *[None] * threads):
            self.waiting.put(item)
        for _ in range(threads):  # daemons: Ctrl-C and a full disk do not wait for threads that wait for a server
            threading.Thread(target=self._work, daemon=True).start()
        try:
            for _ in range(threads):
                if (error := self.ended.get()) is not None:
                    raise error
        finally:
            self.stop.set()
            self.pool.clear()
        return self.failed

    def _work(self) -> None:
        try:
            while (item := self.waiting.get()) is not None and not self.stop.is_set():
                self._download(*item)
                self.progress.finished(item[0])
            self.ended.put(None)
        except BaseException as error:
            self.ended.put(error)

    def _download(self, path: Path, url: str) -> None:
        responses_before = self.responses
        for number in range(1, self.network.tries + 1):
            try:
                self._attempt(path, url)
                self.failed_in_a_row = 0
                return
            except RefusedError as error:
                _discard_part(path)
                self.failed_in_a_row = 0
                self.failed[path] = str(error)
                return
            except RetryableError as error:
                if not error.keep:
                    _discard_part(path)
                reachable = error.connected or self.responses > 0
                if number >= (self.network.tries if reachable else min(self.network.tries, _FIRST_CONTACT_TRIES)):
                    answered = error.connected or self.responses > responses_before
                    self._give_up(path, url, error, tries=number, answered=answered)
                    return
                if self.stop.wait(max(error.wait_s, _BACKOFF_S * 2 ** (number - 1) * _RANDOM.uniform(0.5, 1.5))):
                    return

    def _give_up(self, path: Path, url: str, error: RetryableError, *, tries: int, answered: bool) -> None:
        self.failed[path] = str(error)
        self.failed_in_a_row += 1
        if self.failed_in_a_row >= _MAX_FAILED_IN_A_ROW or not answered:
            host = urlsplit(url).netloc.rpartition("@")[2]  # without a password
            raise HostDownError(f"{host}: {error}, {tries} times; check the network connection and the address")

    def _attempt(self, path: Path, url: str) -> None:
        part, tag = _part_paths(path)
        for link in (part, tag, path):  # of a stranger, which would be written through
            if link.is_symlink():
                link.unlink()
        start = part.stat().st_size if part.is_file() and tag.is_file() else 0
        headers = HEADERS | ({"Range": f"bytes={start}-", "If-Range": read_text(tag)} if start else {})
        try:
            timeouts_s = self.network.connect_timeout_s, self.network.read_timeout_s
            with get(self.pool, url, self.hosts, headers=headers, timeouts_s=timeouts_s) as reply:
                self.responses += 1
                if not is_continuation(reply.response, start=start):
                    _discard_part(path)
                    if value := validator(reply.response):
                        tag.write_text(value)
                self._receive(reply, path)
            self.check(part)
            flush(part)
            part.replace(path)
            tag.unlink(missing_ok=True)
        except AddressError as error:
            raise RefusedError(str(error)) from error
        except (exceptions.HTTPError, TimeOverError) as error:
            raise explain(error) from error
        except DataError as error:
            raise RetryableError(str(error), keep=False) from error
        except OSError as error:
            raise MachineError(
                f"{path}: cannot be written: {error.strerror or error}; free space or choose another folder"
            ) from error

    def _receive(self, reply: Reply, path: Path) -> None:
        with _part_paths(path)[0].open("ab") as output:
            size = output.tell()
            total = size + (reply.response.length_remaining or 0)
            for chunk in reply.chunks():
                size += len(chunk)
                if max(size, total) > self.max_bytes:
                    raise RefusedError(f"larger than {self.max_bytes / 1e6:.0f} MB")
                if self.stop.is_set():
                    raise RetryableError("stopped")
                output.write(chunk)
                self.progress.received(path, count=len(chunk), share=size / max(size, total))


def _part_paths(path: Path) -> tuple[Path, Path]:
    """(the part of a file that has arrived, the validator that came with it)."""
    return path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.validator")


def _discard_part(path: Path) -> None:
    for file in _part_paths(path):
        file.unlink(missing_ok=True)
