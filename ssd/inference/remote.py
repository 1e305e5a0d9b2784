"""Downloads an image or video to predict on."""

from __future__ import annotations

import re
import time
from http.client import responses
from pathlib import Path
from urllib.parse import unquote, urlsplit

from urllib3 import exceptions

from ssd.common.errors import ConfigError, DataError, MachineError
from ssd.common.http_addresses import AddressError, without_password
from ssd.common.http_client import HEADERS, Network, connection_pool, explain
from ssd.common.http_requests import Reply, TimeOverError, get

_MAX_BYTES = 2 * 2**30
_READ_TIMEOUT_S = 20.0
_TOTAL_TIMEOUT_S = 1800.0
_MAX_NAME_LENGTH = 80


def fetch(url: str, folder: Path, *, max_bytes: int = _MAX_BYTES, read_timeout_s: float = _READ_TIMEOUT_S) -> Path:
    """Downloads `url` into `folder` under a safe file name and returns the path.

    Raises:
        ConfigError: not a URL, or neither http nor https.
        DataError: the server does not have the file, or it is too large or truncated.
        MachineError: no connection or a timeout, or a redirect to an address that is refused.
    """
    shown = without_password(url)
    network = Network(workers=1, tries=1, connect_timeout_s=read_timeout_s, read_timeout_s=read_timeout_s)
    try:
        pool, hosts = connection_pool(url, network)
    except AddressError as error:
        raise ConfigError(f"source={shown}: {error}; check the spelling") from None
    path, timeouts_s = folder / safe_name(url), (read_timeout_s, read_timeout_s)
    try:
        with pool, get(pool, url, hosts, headers=HEADERS, timeouts_s=timeouts_s, enforce_content_length=False) as reply:
            if (status := reply.response.status) != 200:
                reason = f"{status} {responses.get(status, '')}".strip()
                raise DataError(f"{shown}: the server responded {reason}; check the URL")
            _save_body(reply, path, shown, max_bytes=max_bytes)
    except AddressError as error:
        raise MachineError(f"{shown}: cannot be downloaded: {error}; download it yourself and give the file") from error
    except (exceptions.HTTPError, TimeOverError) as error:
        raise MachineError(f"{shown}: cannot be downloaded: {explain(error)}; check the network") from error
    return path


def safe_name(url: str) -> str:
    """The last part of the path of `url` as a file name without special characters."""
    last = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "_", last).strip("._")[-_MAX_NAME_LENGTH:] or "download"


def _save_body(reply: Reply, path: Path, url: str, *, max_bytes: int) -> None:
    expected, size = reply.response.length_remaining, 0
    deadline = time.monotonic() + _TOTAL_TIMEOUT_S
    with path.open("wb") as file:
        for chunk in reply.chunks():
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
