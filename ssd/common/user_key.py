"""A secret of this user, to recognise files that this program wrote for them in folders that strangers may fill."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from ssd.common.atomic_files import write_atomically
from ssd.common.errors import DataError
from ssd.common.untrusted_files import read_untrusted

_KEY_BYTES = 32


def keyed_digest(parts: Iterable[bytes | memoryview]) -> str | None:
    """A digest that only this user's processes can compute; None where no secret can be kept."""
    key = _key()
    if key is None:
        return None
    digest = hashlib.blake2b(key=key, digest_size=16)
    for part in parts:
        digest.update(memoryview(part).nbytes.to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


@cache
def _key() -> bytes | None:
    """The content of `key` in the user's state folder, which the first call creates."""
    folder = os.environ.get("XDG_STATE_HOME") or (os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None)
    path = Path(folder or Path("~/.local/state").expanduser(), "ssd-detector", "key")
    with suppress(DataError, OSError, RuntimeError):  # RuntimeError: no home
        if not path.exists():
            write_atomically(path, secrets.token_bytes(_KEY_BYTES))
            path.chmod(0o600)
        key = read_untrusted(path, max_bytes=_KEY_BYTES)  # of two processes the later one wins, for both
        return key if len(key) == _KEY_BYTES else None
    return None
