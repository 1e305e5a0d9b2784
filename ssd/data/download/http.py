"""Fetching files over http(s): several at a time, gone on with after a kill, under their names only when whole.

A file grows as `.<name>.part`. Beside it lies the server's validator (ETag or date), with which the next try asks for
the rest only; a file that changed meanwhile is fetched anew.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import responses
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from filelock import FileLock
from filelock import Timeout as LockTimeout
from urllib3 import BaseHTTPResponse, exceptions
from urllib3.util import Retry, Timeout, make_headers, parse_url

from ssd.common.atomic_files import flush, write_atomically
from ssd.common.errors import ConfigError, DataError, MachineError
from ssd.common.progress import TransferMeter

_NOTE, _LOCK = ".download.json", ".download.lock"
_log = logging.getLogger("ssd")


@dataclass(frozen=True, slots=True)
class DownloadFolder:
    """`asked` tells one choice from another; where it comes from is no part of it."""

    root: Path
    asked: Mapping[str, object]

    @property
    def has_note(self) -> bool:
        """Whether a download was begun here."""
        return (self.root / _NOTE).is_file()

    @property
    def is_finished(self) -> bool:
        """Whether this very choice was tried to its end."""
        return self.has_note and (self.root / _NOTE).read_text() == self._note(finished=True)

    def note(self, *, finished: bool) -> None:
        """Leaves word for the next process."""
        write_atomically(self.root / _NOTE, lambda path: path.write_text(self._note(finished=finished)))

    def _note(self, *, finished: bool) -> str:
        return json.dumps({"finished": finished, **self.asked}, indent=1)

    @contextmanager
    def alone(self, *, wait: bool) -> Iterator[None]:
        """Keeps other processes from writing into the folder. The lock goes with its process, however that ends.

        Raises:
            MachineError: the folder cannot be written, or another process writes it and there is no `wait`.
        """
        lock = FileLock(self.root / _LOCK)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except LockTimeout:
            if not wait:
                raise MachineError(
                    f"dataset.root={self.root}: another process downloads into it; wait for its end"
                ) from None
            _log.info("waiting for another process, which downloads into %s", self.root)
            lock.acquire()
        except OSError as error:
            raise MachineError(f"dataset.root={self.root}: cannot be written: {error.strerror}") from error
        try:
            yield
        finally:
            lock.release()


_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_NOT_THE_REST = (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
_NO_CONNECTION = (exceptions.ConnectTimeoutError, exceptions.SSLError, exceptions.ProxyError)
_MAX_PAUSE_S = 120  # however long the server asks for


class RetryableError(Exception):
    """A try failed in a way that may pass.

    `wait_s` is the pause that the server asks for; `keep` says whether what came so far is of use; not `connected`
    means that the host itself was out of reach.
    """

    def __init__(self, reason: str, *, wait_s: float = 0.0, keep: bool = True, connected: bool = True) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.keep = keep
        self.connected = connected


class RefusedError(Exception):
    """Every try would end like this one."""


def is_rest(response: BaseHTTPResponse, *, start: int) -> bool:
    """Whether the body is what follows the first `start` bytes, and not a whole file.

    Raises:
        RetryableError, RefusedError: it is neither.
    """
    status = response.status
    if status == HTTPStatus.OK:
        return False
    follows = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    if status == HTTPStatus.PARTIAL_CONTENT and start and follows:
        return True
    reason = f"{status} {responses.get(status, '')}".strip()  # the server's own words could be anything
    if status in _LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise RetryableError(reason, wait_s=_pause(response))
    if status in _NOT_THE_REST:
        raise RetryableError(reason, keep=False)
    raise RefusedError(reason)


def validator(response: BaseHTTPResponse) -> str:
    """What tells this content from any other, for If-Range: a strong ETag, else the date of change; may be empty."""
    tag = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified", "") if tag.startswith("W/") else tag


def explain(error: exceptions.HTTPError) -> RetryableError:
    """A failure below HTTP, in our own words."""
    cause = getattr(error, "reason", None) or error  # too many redirects come wrapped
    text = f"failed: {str(cause).rpartition(': ')[2].rpartition('] ')[2]}"
    for kind, words in (
        (exceptions.NameResolutionError, "no such host"),
        (exceptions.NewConnectionError, text),
        (exceptions.SSLError, text.replace("failed", "TLS", 1)),
        (exceptions.TimeoutError, "no answer in time"),
        (exceptions.ProtocolError, "cut short"),
    ):
        if isinstance(cause, kind):
            text = words
            break
    return RetryableError(text, connected=not isinstance(cause, _NO_CONNECTION))


def _pause(response: BaseHTTPResponse) -> float:
    try:
        return min(_MAX_PAUSE_S, Retry().parse_retry_after(response.headers.get("Retry-After", "0")))
    except exceptions.InvalidHeader:
        return 0.0


_CHUNK = 1 << 16  # bytes
_BACKOFF_S = 0.5  # the first pause; each further one is twice as long
_RANDOM = random.Random()  # of its own: the seeded one belongs to the training
_HOST_DOWN = 10  # files given up in a row
_FIRST_CONTACTS = 2  # tries with a host that has never answered
_RETRIES = Retry(total=None, connect=0, read=0, status=0, other=0, redirect=5)  # all but redirects are counted here
HEADERS = {"User-Agent": "ssd-detector", "Accept-Encoding": "identity"}  # ranges count the bytes of the file itself


class HostDownError(MachineError):
    """A host does not answer; another one may."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An address, and where its content goes."""

    url: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """`workers` connections at a time, `tries` for each file, and how long to wait for a sign of life."""

    workers: int
    tries: int
    connect_timeout_s: float
    read_timeout_s: float


def fetch_all(
    files: Sequence[RemoteFile], network: Network, *, title: str, max_bytes: int, check: Callable[[Path], object]
) -> dict[Path, str]:
    """Fetches files that are not there yet; the last word on each is its name in the folder or in what is returned.

    Args:
        title: of the progress bar.
        max_bytes: a larger file is refused.
        check: raises DataError for a whole file that is not of its kind, such as a web page in place of an image; it
            is tried again, unless RefusedError says that this address has no better one.

    Returns:
        Why a file could not be had, by its path.

    Raises:
        ConfigError: an address is not http(s).
        HostDownError: the host does not answer.
        MachineError: a file cannot be written.
    """
    for file in files:
        if urlsplit(file.url).scheme not in ("http", "https"):
            raise ConfigError(f"{file.url}: not an http:// or https:// address")
    if not files:
        return {}
    meter = TransferMeter(title, total=len(files))
    with meter:
        return _Job(files, network, meter=meter, max_bytes=max_bytes, check=check).run()


class _Job:
    """One list of files, and the threads that share it."""

    def __init__(
        self,
        files: Sequence[RemoteFile],
        network: Network,
        *,
        meter: TransferMeter,
        max_bytes: int,
        check: Callable[[Path], object],
    ) -> None:
        self._queue = iter(files)
        self._threads = min(network.workers, len(files))
        self._network = network
        self._meter = meter
        self._max_bytes = max_bytes
        self._check = check
        self._connections = connections(files[0].url, network)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ended: SimpleQueue[BaseException | None] = SimpleQueue()
        self._answers = 0
        self._given_up_in_a_row = 0
        self._failed: dict[Path, str] = {}

    def run(self) -> dict[Path, str]:
        for _ in range(self._threads):  # daemons: Ctrl-C and a full disk do not wait for those that wait for a server
            threading.Thread(target=self._work, daemon=True).start()
        try:
            for _ in range(self._threads):
                error = self._ended.get()
                if error is not None:
                    raise error
        finally:
            self._stop.set()
            self._connections.clear()
        return self._failed

    def _work(self) -> None:
        try:
            while (file := self._next()) is not None:
                self._fetch(file)
                self._meter.finished(file.path)
            self._ended.put(None)
        except BaseException as error:
            self._ended.put(error)

    def _next(self) -> RemoteFile | None:
        with self._lock:
            return None if self._stop.is_set() else next(self._queue, None)

    def _fetch(self, file: RemoteFile) -> None:
        answers_before = self._answers
        for number in range(1, self._network.tries + 1):
            try:
                self._try(file)
                self._given_up_in_a_row = 0
                return
            except RefusedError as error:
                _forget(file.path)
                self._given_up_in_a_row = 0
                self._failed[file.path] = str(error)
                return
            except RetryableError as error:
                if not error.keep:
                    _forget(file.path)
                if number >= (self._network.tries if error.connected or self._answers else _FIRST_CONTACTS):
                    self._give_up(file, error, tries=number, host_answered=self._answers > answers_before)
                elif self._stop.wait(max(error.wait_s, _BACKOFF_S * 2 ** (number - 1) * _RANDOM.uniform(0.5, 1.5))):
                    return

    def _give_up(self, file: RemoteFile, error: RetryableError, *, tries: int, host_answered: bool) -> None:
        self._failed[file.path] = str(error)
        self._given_up_in_a_row += 1
        if self._given_up_in_a_row >= _HOST_DOWN or not (error.connected or host_answered):
            host = urlsplit(file.url).netloc.rpartition("@")[2]
            raise HostDownError(f"{host}: {error}, {tries} times; check the connection and the address")

    def _try(self, file: RemoteFile) -> None:
        partial, tag = _beside(file.path)
        start = partial.stat().st_size if partial.is_file() and tag.is_file() else 0
        headers = HEADERS | ({"Range": f"bytes={start}-", "If-Range": tag.read_text()} if start else {})
        try:
            with self._connections.request("GET", file.url, headers=headers, preload_content=False) as response:
                self._answers += 1
                if not is_rest(response, start=start):
                    _forget(file.path)
                    if text := validator(response):
                        tag.write_text(text)
                self._receive(response, file, partial)
            self._check(partial)
            flush(partial)
            partial.replace(file.path)
            tag.unlink(missing_ok=True)
        except exceptions.HTTPError as error:
            raise explain(error) from error
        except DataError as error:
            raise RetryableError(str(error), keep=False) from error
        except OSError as error:
            raise MachineError(f"{file.path}: cannot be written: {error.strerror or error}") from error

    def _receive(self, response: BaseHTTPResponse, file: RemoteFile, partial: Path) -> None:
        with partial.open("ab") as output:
            size = output.tell()
            total = size + (response.length_remaining or 0)
            for chunk in response.stream(_CHUNK, decode_content=False):
                size += len(chunk)
                if max(size, total) > self._max_bytes:
                    raise RefusedError(f"larger than {self._max_bytes / 1e6:.0f} MB")
                if self._stop.is_set():
                    raise RetryableError("stopped")
                output.write(chunk)
                self._meter.received(file.path, count=len(chunk), share=size / max(size, total))


def connections(url: str, network: Network) -> urllib3.PoolManager:
    """Connections that are kept and used again, through the proxy of the environment if there is one."""
    settings: dict[str, Any] = {
        "maxsize": network.workers,
        "timeout": Timeout(connect=network.connect_timeout_s, read=network.read_timeout_s),
        "retries": _RETRIES,
    }
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    if proxy is None:
        return urllib3.PoolManager(**settings)
    user = parse_url(proxy).auth
    return urllib3.ProxyManager(
        proxy, proxy_headers=make_headers(proxy_basic_auth=unquote(user)) if user else None, **settings
    )


def _beside(path: Path) -> tuple[Path, Path]:
    """(the part that is there, the validator that it came with) of a file under way."""
    return path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.validator")


def _forget(path: Path) -> None:
    for file in _beside(path):
        file.unlink(missing_ok=True)
