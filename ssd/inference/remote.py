"""Downloads an image or video to predict on."""

from __future__ import annotations

import re
import time
from http.client import responses
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from urllib3 import BaseHTTPResponse, exceptions

from ssd.common.errors import ConfigError, DataError, MachineError
from ssd.common.http_client import HEADERS, Network, connection_pool, explain

_MAX_BYTES = 2 * 2**30
_READ_TIMEOUT_S = 20.0
_TOTAL_TIMEOUT_S = 1800.0
_CHUNK_BYTES = 2**16
_MAX_NAME_LENGTH = 80


def fetch(url: str, folder: Path, *, max_bytes: int = _MAX_BYTES, read_timeout_s: float = _READ_TIMEOUT_S) -> Path:
    """Downloads `url` into `folder` under a safe file name and returns the path.

    Raises:
        ConfigError: not a URL, or neither http nor https.
        DataError: the server does not have the file, or it is too large or truncated.
        MachineError: no connection or a timeout, or a redirect to another protocol.
    """
    _check_url(url)
    path = folder / safe_name(url)
    network = Network(workers=1, tries=1, connect_timeout_s=read_timeout_s, read_timeout_s=read_timeout_s)
    request: dict[str, Any] = {"headers": HEADERS, "preload_content": False, "enforce_content_length": False}
    try:
        with connection_pool(url, network) as pool, pool.request("GET", url, **request) as response:
            if response.status != 200:
                status = f"{response.status} {responses.get(response.status, '')}".strip()
                raise DataError(f"{url}: the server responded {status}; check the URL")
            _save_body(response, path, url, max_bytes=max_bytes)
    except exceptions.HTTPError as error:  # includes a redirect to an unknown scheme
        raise MachineError(f"{url}: cannot be downloaded: {explain(error)}; check the network") from error
    return path


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed on access only
    except ValueError as error:
        raise ConfigError(f"source={url}: not a valid URL: {error}; check the spelling") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"source={url}: only http:// and https:// URLs are supported")


def safe_name(url: str) -> str:
    """The last part of the path of `url` as a file name without special characters."""
    last = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "_", last).strip("._")[-_MAX_NAME_LENGTH:] or "download"


def _save_body(response: BaseHTTPResponse, path: Path, url: str, *, max_bytes: int) -> None:
    expected, size = response.length_remaining, 0
    deadline = time.monotonic() + _TOTAL_TIMEOUT_S
    with path.open("wb") as file:
        for chunk in response.stream(_CHUNK_BYTES, decode_content=False):
            size += len(chunk)
            if size > max_bytes:
                raise DataError(f"{url}: larger than {max_bytes} bytes; download it yourself and give the file")
            if time.monotonic() > deadline:
                raise MachineError(
                    f"{url}: not complete after {_TOTAL_TIMEOUT_S:g} s; download it yourself and give the file"
                )
            file.write(chunk)
    if expected not in (None, size):
        raise DataError(f"{url}: received {size} of {expected} bytes; try again")
