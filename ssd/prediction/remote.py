"""A picture or video from the web, into a file."""

from __future__ import annotations

import re
import time
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import (
    BaseHandler,
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from ssd.errors import ConfigError, DataError, MachineError

_LIMIT_BYTES = 2 * 2**30
_SILENCE_S = 20.0  # without a byte
_TOTAL_S = 1800.0
_BLOCK_BYTES = 2**18
_LONGEST_NAME = 80
_HANDLERS: tuple[type[BaseHandler], ...] = (
    ProxyHandler,
    UnknownHandler,
    HTTPHandler,
    HTTPSHandler,
    HTTPDefaultErrorHandler,
    HTTPRedirectHandler,
    HTTPErrorProcessor,
)


def fetch(url: str, folder: Path, *, limit_bytes: int = _LIMIT_BYTES, silence_s: float = _SILENCE_S) -> Path:
    """Downloads `url` into `folder`, under a name that is safe there.

    Raises:
        ConfigError: not http or https.
        DataError: the server has no such file, or it is too large, cut short or moved to another kind of address.
        MachineError: no answer.
    """
    if urlsplit(url).scheme.lower() not in ("http", "https") or not urlsplit(url).hostname:
        raise ConfigError(f"source={url}: only http:// and https:// addresses are fetched")
    path = folder / safe_name(url)
    try:
        with _opener().open(Request(url, headers={"User-Agent": "ssd-detector"}), timeout=silence_s) as answer:
            promised = answer.headers.get("Content-Length")
            _copy(answer, path, url, limit_bytes=limit_bytes)
    except HTTPError as error:
        raise DataError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise MachineError(f"{url}: cannot be fetched: {error}; is the network there?") from error
    if promised is not None and path.stat().st_size != int(promised):
        raise DataError(f"{url}: {path.stat().st_size} of {promised} bytes came; try again")
    return path


def safe_name(url: str) -> str:
    """The last part of the path of `url`, as a file name without anything special."""
    last = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "_", last).strip("._")[-_LONGEST_NAME:] or "download"


def _opener() -> OpenerDirector:
    """urllib's, less its handlers of ftp:, file: and data: addresses, to which a server might redirect."""
    opener = OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(handler())
    return opener


def _copy(answer: HTTPResponse, path: Path, url: str, *, limit_bytes: int) -> None:
    end, size = time.monotonic() + _TOTAL_S, 0
    with path.open("wb") as file:
        while block := answer.read(_BLOCK_BYTES):
            size += len(block)
            if size > limit_bytes:
                raise DataError(f"{url}: over {limit_bytes} bytes; download it by other means and give the file")
            if time.monotonic() > end:
                raise MachineError(f"{url}: not here after {_TOTAL_S:g} s; download it by other means")
            file.write(block)
