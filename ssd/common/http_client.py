"""The HTTP client: keep-alive connections, time-outs, and the distinction of retryable and final failures.

It is urllib3, not `requests`: that would save 9 lines and add four packages, and it decodes bodies and reads ~/.netrc.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from http.client import responses
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import BaseHTTPResponse, exceptions
from urllib3.util import Retry, Timeout, make_headers, parse_url

from ssd.common.http_addresses import Hosts
from ssd.common.http_requests import TimeOverError, watch

HEADERS = {"User-Agent": "ssd-detector", "Accept-Encoding": "identity"}  # ranges count the bytes of the file itself

_MAX_RETRY_AFTER_S = 120  # whatever the server requests
_RETRY_STATUS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_WRONG_RANGE = (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)


class RetryableError(Exception):
    """An attempt failed, but another one may succeed.

    Args:
        reason: for the user.
        wait_s: pause that the server requests.
        keep: whether the part that has arrived is valid.
        connected: whether the host could be reached.
    """

    def __init__(self, reason: str, *, wait_s: float = 0.0, keep: bool = True, connected: bool = True) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.keep = keep
        self.connected = connected


class RefusedError(Exception):
    """An attempt failed, and every other one would fail the same way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Settings of a download.

    Args:
        workers: parallel connections.
        tries: attempts for each file.
        connect_timeout_s: seconds until a connection is given up; at most two attempts for a host that never answered.
        read_timeout_s: seconds without a byte until a transfer is given up.
    """

    workers: int = 16
    tries: int = 5
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0


DEFAULT_NETWORK = Network()


def connection_pool(url: str, network: Network) -> tuple[urllib3.PoolManager, Hosts]:
    """Kept-alive connections, through the environment's proxy for `url` if there is one; nothing is retried.

    The first return value is for `http_requests.get`, with the second.

    Raises:
        AddressError: not an http(s) address.
    """
    hosts = Hosts(url)
    settings: dict[str, Any] = {
        "maxsize": network.workers,
        "timeout": Timeout(connect=network.connect_timeout_s, read=network.read_timeout_s),
        "retries": Retry(total=None, connect=0, read=0, status=0, other=0, redirect=0),
    }
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    if proxy is None:
        pool = urllib3.PoolManager(**settings)
    else:
        login = make_headers(proxy_basic_auth=unquote(parse_url(proxy).auth or ""))
        pool = urllib3.ProxyManager(proxy, proxy_headers=login, **settings)
    watch(pool, hosts if proxy is None else None)
    return pool, hosts


def explain(error: exceptions.HTTPError | TimeOverError) -> RetryableError:
    """The error for an attempt that failed below HTTP, with a short reason."""
    if isinstance(error, TimeOverError):
        return RetryableError("timed out")
    cause = getattr(error, "reason", None) or error  # a failed redirect wraps it
    reason = str(cause).rpartition(": ")[2].rpartition("] ")[2]
    match cause:
        case exceptions.NameResolutionError():
            reason = "no such host"
        case exceptions.NewConnectionError():
            pass
        case exceptions.SSLError():
            reason = f"TLS: {reason}"
        case exceptions.TimeoutError():
            reason = "timed out"
        case exceptions.ProtocolError():
            reason = "connection closed early"
    no_connection = isinstance(cause, exceptions.ConnectTimeoutError | exceptions.SSLError | exceptions.ProxyError)
    return RetryableError(reason, connected=not no_connection)


def is_continuation(response: BaseHTTPResponse, *, start: int) -> bool:
    """Whether the body continues a part of `start` bytes; False for a body that is the whole file.

    Raises:
        RetryableError, RefusedError: it is neither.
    """
    status = response.status
    if status == HTTPStatus.OK:
        return False
    follows = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    if status == HTTPStatus.PARTIAL_CONTENT and start and follows:
        return True
    reason = f"{status} {responses.get(status, '')}".strip()  # the server's own text could be anything
    if status in _RETRY_STATUS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise RetryableError(reason, wait_s=_retry_after_s(response))
    if status in _WRONG_RANGE:
        raise RetryableError(reason, keep=False)
    raise RefusedError(reason)


def _retry_after_s(response: BaseHTTPResponse) -> float:
    try:
        return min(_MAX_RETRY_AFTER_S, Retry().parse_retry_after(response.headers.get("Retry-After", "0")))
    except (exceptions.InvalidHeader, ValueError, OverflowError):  # a date that is none, thousands of digits
        return 0.0


def validator(response: BaseHTTPResponse) -> str:
    """The value for If-Range: a strong ETag, else the date of the last change; may be empty."""
    tag = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified", "") if tag.startswith("W/") else tag
