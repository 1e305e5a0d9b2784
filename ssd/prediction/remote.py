"""A picture or video from the web, into a file."""

from __future__ import annotations

import re
import time
from http.client import responses
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from urllib3 import BaseHTTPResponse, exceptions

from ssd.downloads import answers
from ssd.downloads.fetch import HEADERS, Network, connections
from ssd.errors import ConfigError, DataError, MachineError

_LIMIT_BYTES = 2 * 2**30
_SILENCE_S = 20.0  # without a byte
_TOTAL_S = 1800.0
_BLOCK_BYTES = 2**16
_LONGEST_NAME = 80


def fetch(url: str, folder: Path, *, limit_bytes: int = _LIMIT_BYTES, silence_s: float = _SILENCE_S) -> Path:
    """Downloads `url` into `folder`, under a name that is safe there.

    Raises:
        ConfigError: no address, or not http or https.
        DataError: the server has no such file, or it is too large or cut short.
        MachineError: no answer, or a way that leads out of the web.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # is read only now
    except ValueError as error:
        raise ConfigError(f"source={url}: not an address: {error}; check its spelling") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"source={url}: only http:// and https:// addresses are fetched")
    path = folder / safe_name(url)
    network = Network(workers=1, tries=1, connect_timeout_s=silence_s, read_timeout_s=silence_s)
    request: dict[str, Any] = {"headers": HEADERS, "preload_content": False, "enforce_content_length": False}
    try:
        with connections(url, network) as pool, pool.request("GET", url, **request) as response:
            if response.status != 200:
                raise DataError(f"{url}: the server answers {response.status} {responses.get(response.status, '')}")
            promised = response.length_remaining
            size = _receive(response, path, url, limit_bytes=limit_bytes)
    except exceptions.HTTPError as error:  # an unknown scheme after a redirect is one, too
        raise MachineError(f"{url}: cannot be fetched: {answers.explain(error)}; is the network there?") from error
    if promised is not None and size != promised:
        raise DataError(f"{url}: {size} of {promised} bytes came; try again")
    return path


def safe_name(url: str) -> str:
    """The last part of the path of `url`, as a file name without anything special."""
    last = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "_", last).strip("._")[-_LONGEST_NAME:] or "download"


def _receive(response: BaseHTTPResponse, path: Path, url: str, *, limit_bytes: int) -> int:
    """Writes the body; returns its bytes."""
    end, size = time.monotonic() + _TOTAL_S, 0
    with path.open("wb") as file:
        for block in response.stream(_BLOCK_BYTES, decode_content=False):
            size += len(block)
            if size > limit_bytes:
                raise DataError(f"{url}: over {limit_bytes} bytes; download it by other means and give the file")
            if time.monotonic() > end:
                raise MachineError(f"{url}: not here after {_TOTAL_S:g} s; download it by other means")
            file.write(block)
    return size
