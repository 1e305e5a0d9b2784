"""Fetching files over http(s): several at a time, gone on with after a kill, under their names only when whole.

A file grows as `.<name>.part`. Beside it lies the server's validator (ETag or date), with which the next try asks for
the rest only; a file that changed meanwhile is fetched anew.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import responses
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import BaseHTTPResponse, exceptions
from urllib3.util import Retry, Timeout, make_headers, parse_url

from ssd.errors import ConfigError, DataError, MachineError
from ssd.files import flush
from ssd.meter import Meter

_CHUNK = 1 << 16  # bytes
_BACKOFF_S = 0.5  # the first pause; each further one is twice as long
_MAX_PAUSE_S = 120.0  # however long the server asks for
_HOST_DOWN = 10  # files given up in a row
_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_WRONG_RANGE = (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
_NO_CONNECTION = (exceptions.ConnectTimeoutError, exceptions.SSLError, exceptions.ProxyError)
_RETRIES = Retry(total=None, connect=0, read=0, status=0, other=0, redirect=5)  # all but redirects are counted here
_HEADERS = {"User-Agent": "ssd-detector", "Accept-Encoding": "identity"}  # ranges count the bytes of the file itself


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
        check: raises DataError for a whole file that is not of its kind, such as a web page in place of a picture.

    Returns:
        Why a file could not be had, by its path.

    Raises:
        ConfigError: an address is not http(s).
        MachineError: the host is down, or a file cannot be written.
    """
    for file in files:
        if urlsplit(file.url).scheme not in ("http", "https"):
            raise ConfigError(f"{file.url}: not an http:// or https:// address")
    if not files:
        return {}
    with Meter(title, total=len(files)) as meter:
        return _Job(files, network, meter=meter, max_bytes=max_bytes, check=check).run()


class _AgainError(Exception):
    """A try failed in a way that may pass."""

    def __init__(self, reason: str, *, wait_s: float = 0.0, connected: bool = True) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.connected = connected


class _RefusedError(Exception):
    """Every try would end like this one."""


class _Job:
    """One list of files, and the threads that share it."""

    def __init__(
        self,
        files: Sequence[RemoteFile],
        network: Network,
        *,
        meter: Meter,
        max_bytes: int,
        check: Callable[[Path], object],
    ) -> None:
        self._queue = iter(files)
        self._threads = min(network.workers, len(files))
        self._network = network
        self._meter = meter
        self._max_bytes = max_bytes
        self._check = check
        self._connections = _connections(files[0].url, network)
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
            except _RefusedError as error:
                self._given_up_in_a_row = 0
                self._failed[file.path] = str(error)
                return
            except _AgainError as error:
                if number == self._network.tries:
                    self._give_up(file, error, host_answered=self._answers > answers_before)
                elif self._stop.wait(max(error.wait_s, _BACKOFF_S * 2 ** (number - 1) * random.uniform(0.5, 1.5))):
                    return

    def _give_up(self, file: RemoteFile, error: _AgainError, *, host_answered: bool) -> None:
        self._failed[file.path] = str(error)
        self._given_up_in_a_row += 1
        if self._given_up_in_a_row >= _HOST_DOWN or not (error.connected or host_answered):
            host = urlsplit(file.url).netloc.rpartition("@")[2]
            raise MachineError(f"{host}: {error}, {self._network.tries} times; check the connection and the address")

    def _try(self, file: RemoteFile) -> None:
        partial, validator = _beside(file.path)
        start = partial.stat().st_size if partial.is_file() and validator.is_file() else 0
        headers = {"Range": f"bytes={start}-", "If-Range": validator.read_text()} if start else {}
        try:
            with self._connections.request(
                "GET", file.url, headers=_HEADERS | headers, preload_content=False
            ) as response:
                self._answers += 1
                if not _goes_on(response, start):
                    _accept(response)
                    _forget(file.path)
                    if tag := _strong_validator(response):
                        validator.write_text(tag)
                self._receive(response, file, partial)
            self._check(partial)
            flush(partial)
            partial.replace(file.path)
            validator.unlink(missing_ok=True)
        except exceptions.HTTPError as error:
            raise self._explained(error) from error
        except _RefusedError:
            _forget(file.path)
            raise
        except DataError as error:
            _forget(file.path)
            raise _AgainError(str(error)) from error
        except OSError as error:
            raise MachineError(f"{file.path}: cannot be written: {error.strerror or error}") from error

    def _receive(self, response: BaseHTTPResponse, file: RemoteFile, partial: Path) -> None:
        with partial.open("ab") as output:
            size = output.tell()
            total = size + (response.length_remaining or 0)
            for chunk in response.stream(_CHUNK, decode_content=False):
                size += len(chunk)
                if max(size, total) > self._max_bytes:
                    raise _RefusedError(f"larger than {self._max_bytes / 1e6:.0f} MB")
                if self._stop.is_set():
                    raise _AgainError("stopped")
                output.write(chunk)
                self._meter.received(file.path, count=len(chunk), share=size / max(size, total))

    def _explained(self, error: exceptions.HTTPError) -> _AgainError:
        if isinstance(error, exceptions.MaxRetryError) and error.reason is not None:
            error = error.reason  # type: ignore[assignment]
        text = f"failed: {str(error).rpartition(': ')[2]}"
        if isinstance(error, exceptions.NameResolutionError):
            text = "no such host"
        elif isinstance(error, exceptions.ReadTimeoutError):
            text = f"silent for {self._network.read_timeout_s:g} s"
        elif isinstance(error, exceptions.ConnectTimeoutError) and not isinstance(error, exceptions.NewConnectionError):
            text = f"no connection within {self._network.connect_timeout_s:g} s"
        elif isinstance(error, exceptions.ProtocolError):
            text = "cut short"
        return _AgainError(text, connected=not isinstance(error, _NO_CONNECTION))


def _connections(url: str, network: Network) -> urllib3.PoolManager:
    """Connections that are kept and used again, through the proxy of the environment if there is one."""
    timeout = Timeout(connect=network.connect_timeout_s, read=network.read_timeout_s)
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    if proxy is None:
        return urllib3.PoolManager(maxsize=network.workers, timeout=timeout, retries=_RETRIES)
    user = parse_url(proxy).auth
    headers = make_headers(proxy_basic_auth=unquote(user)) if user else None
    return urllib3.ProxyManager(
        proxy, proxy_headers=headers, maxsize=network.workers, timeout=timeout, retries=_RETRIES
    )


def _goes_on(response: BaseHTTPResponse, start: int) -> bool:
    """Whether the body is what follows the first `start` bytes of the same file."""
    asked_for = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    return bool(start) and response.status == HTTPStatus.PARTIAL_CONTENT and asked_for


def _accept(response: BaseHTTPResponse) -> None:
    """Passes a response that carries a whole file.

    Raises:
        DataError: a part that nobody asked for, so what is there does not fit.
    """
    status = response.status
    if status == HTTPStatus.OK:
        return
    reason = f"{status} {responses.get(status, '')}".strip()
    if status in _LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise _AgainError(reason, wait_s=_asked_to_wait(response))
    if status in _WRONG_RANGE:
        raise DataError(reason)
    raise _RefusedError(reason)


def _asked_to_wait(response: BaseHTTPResponse) -> float:
    """Seconds until the server wants to be asked again."""
    try:
        return min(_MAX_PAUSE_S, _RETRIES.parse_retry_after(response.headers.get("Retry-After", "0")))
    except exceptions.InvalidHeader:
        return 0.0


def _strong_validator(response: BaseHTTPResponse) -> str:
    """What tells this content from any other: a strong ETag, or the date of the last change; may be empty."""
    tag = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified", "") if tag.startswith("W/") else tag


def _beside(path: Path) -> tuple[Path, Path]:
    """(the part that is there, the validator that it came with) of a file under way."""
    return path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.validator")


def _forget(path: Path) -> None:
    for file in _beside(path):
        file.unlink(missing_ok=True)
