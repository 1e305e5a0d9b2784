"""What an HTTP answer means for a file: it comes, its rest comes, ask again later, or never."""

from __future__ import annotations

from http import HTTPStatus
from http.client import responses

from urllib3 import BaseHTTPResponse, exceptions
from urllib3.util import Retry

_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_NOT_THE_REST = (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
_NO_CONNECTION = (exceptions.ConnectTimeoutError, exceptions.SSLError, exceptions.ProxyError)
_MAX_PAUSE_S = 120  # however long the server asks for


class AgainError(Exception):
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
        AgainError, RefusedError: it is neither.
    """
    status = response.status
    if status == HTTPStatus.OK:
        return False
    follows = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    if status == HTTPStatus.PARTIAL_CONTENT and start and follows:
        return True
    reason = f"{status} {responses.get(status, '')}".strip()  # the server's own words could be anything
    if status in _LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise AgainError(reason, wait_s=_pause(response))
    if status in _NOT_THE_REST:
        raise AgainError(reason, keep=False)
    raise RefusedError(reason)


def validator(response: BaseHTTPResponse) -> str:
    """What tells this content from any other, for If-Range: a strong ETag, else the date of change; may be empty."""
    tag = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified", "") if tag.startswith("W/") else tag


def explain(error: exceptions.HTTPError) -> AgainError:
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
    return AgainError(text, connected=not isinstance(cause, _NO_CONNECTION))


def _pause(response: BaseHTTPResponse) -> float:
    try:
        return min(_MAX_PAUSE_S, Retry().parse_retry_after(response.headers.get("Retry-After", "0")))
    except exceptions.InvalidHeader:
        return 0.0
