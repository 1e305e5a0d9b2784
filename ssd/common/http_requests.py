"""One HTTP request with a deadline over all of it, and redirects under the same rules as its first address.

A socket's time-out starts anew with every byte, so a server that sends one from time to time holds a request forever.
Here the connection of a request is shut down from outside, once its time is over: `connect_timeout_s + read_timeout_s`
from its start to the end of the headers, however many redirects there are; after that, `read_timeout_s` for each piece
of the body of that many kilobytes.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import urllib3
from urllib3 import BaseHTTPResponse, exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import connection as sockets

from ssd.common.http_addresses import AddressError, Hosts

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_MIN_BYTES_PER_S = 1024
_CHUNK_BYTES = 1 << 16
_current = threading.local()


class TimeOverError(Exception):
    """The time of a request is over."""


class Deadline:
    """Shuts down the connection of the current thread's request when its time is over."""

    def __init__(self, seconds: float) -> None:
        self.expired = False
        self._ends = time.monotonic() + seconds
        self._changed = threading.Condition()
        self._done = False
        self._socket: socket.socket | None = None

    def __enter__(self) -> Deadline:
        _current.deadline = self
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        _current.deadline = None
        with self._changed:
            self._done = True
            self._changed.notify()

    def set(self, seconds: float) -> None:
        """Gives the request this much time from now on."""
        with self._changed:
            ends = time.monotonic() + seconds
            if ends < self._ends:
                self._changed.notify()
            self._ends = ends

    def watch(self, connection: socket.socket | None) -> None:
        """Names the connection to shut down."""
        with self._changed:
            self._socket = connection
            if self.expired:
                self._shut_down()

    def _watch(self) -> None:
        with self._changed:
            while not self._done and not self.expired:
                left = self._ends - time.monotonic()
                self.expired = left <= 0
                if not self.expired:
                    self._changed.wait(None if left == math.inf else left)
            if self.expired and not self._done:
                self._shut_down()

    def _shut_down(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # closed meanwhile
                self._socket.shutdown(socket.SHUT_RDWR)


class _Watched(HTTPConnection):
    """A connection that its request's deadline can shut down, to addresses that `hosts` allows."""

    hosts: Hosts | None = None
    _handle: socket.socket | None = None  # a duplicate, as TLS takes the first one over

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn() if self.hosts is None else self._connect(self.hosts)
        self._handle = connected.dup()
        self._be_watched()
        return connected

    def _connect(self, hosts: Hosts) -> socket.socket:
        try:
            addresses = hosts.addresses(self.host, self.port)
        except socket.gaierror as error:
            raise exceptions.NameResolutionError(self.host, self, error) from error
        failure: Exception = OSError("no address")
        for address in addresses:
            if (deadline := getattr(_current, "deadline", None)) is not None and deadline.expired:
                break
            try:
                return sockets.create_connection(
                    (address, self.port),
                    self.timeout,
                    source_address=self.source_address,
                    socket_options=self.socket_options,
                )
            except TimeoutError as error:
                failure = exceptions.ConnectTimeoutError(self, f"Connection to {self.host} timed out.")
                failure.__cause__ = error
            except OSError as error:
                failure = exceptions.NewConnectionError(self, f"Failed to establish a new connection: {error}")
                failure.__cause__ = error
        raise failure

    def request(self, *arguments: Any, **settings: Any) -> None:
        self._be_watched()
        super().request(*arguments, **settings)

    def close(self) -> None:
        super().close()
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _be_watched(self) -> None:
        if (deadline := getattr(_current, "deadline", None)) is not None:
            deadline.watch(self._handle)


class _WatchedTLS(_Watched, HTTPSConnection):
    """The same with TLS."""


def watch(pool: urllib3.PoolManager, hosts: Hosts | None) -> None:
    """Has the connections of `pool` obey deadlines, and `hosts` unless they go through a proxy."""

    class Plain(_Watched):
        pass

    class TLS(_WatchedTLS):
        pass

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class TLSPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = TLS

    Plain.hosts = TLS.hosts = hosts
    pool.pool_classes_by_scheme = {"http": PlainPool, "https": TLSPool}


@dataclass(frozen=True, slots=True)
class Reply:
    """The response to a request, and its deadline."""

    response: BaseHTTPResponse
    deadline: Deadline
    read_timeout_s: float

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives, not decoded.

        Raises:
            TimeOverError: it arrives too slowly.
            urllib3.exceptions.HTTPError: the connection breaks.
        """
        left_s, missing = self.read_timeout_s, self.read_timeout_s * _MIN_BYTES_PER_S
        while True:
            start = time.monotonic()
            self.deadline.set(left_s)
            data = self.response.read1(_CHUNK_BYTES, decode_content=False)
            if self.deadline.expired:
                raise TimeOverError
            self.deadline.set(math.inf)  # the time of the reader is not the server's
            if not data:
                return
            left_s, missing = left_s - (time.monotonic() - start), missing - len(data)
            if missing <= 0:
                left_s, missing = self.read_timeout_s, self.read_timeout_s * _MIN_BYTES_PER_S
            yield data


@contextmanager
def get(
    pool: urllib3.PoolManager,
    url: str,
    hosts: Hosts,
    *,
    headers: Mapping[str, str],
    timeouts_s: tuple[float, float],
    enforce_content_length: bool = True,
) -> Iterator[Reply]:
    """The reply to a GET request, after redirects; the body is not read yet.

    Args:
        pool: see `watch`.
        hosts: of `url`.
        timeouts_s: (to connect, to read).

    Raises:
        AddressError: it is redirected too often, or to an address that is refused.
        TimeOverError: the time is over.
        urllib3.exceptions.HTTPError: the request fails.
    """
    with Deadline(sum(timeouts_s)) as deadline:
        try:
            for _ in range(_MAX_REDIRECTS + 1):
                response = pool.request(
                    "GET",
                    url,
                    headers=dict(headers),
                    preload_content=False,
                    redirect=False,
                    enforce_content_length=enforce_content_length,
                )
                with response:
                    location = response.headers.get("Location") if response.status in _REDIRECTS else None
                    if location is None:
                        if deadline.expired:
                            raise TimeOverError
                        yield Reply(response, deadline, timeouts_s[1])
                        return
                    response.close()  # its body, which may be endless, is not read
                url = hosts.redirect(url, location)
            raise AddressError(f"redirected more than {_MAX_REDIRECTS} times")
        except exceptions.HTTPError as error:
            if deadline.expired:
                raise TimeOverError from error
            raise
