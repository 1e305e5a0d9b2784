"""Servers that do harm, or mean to, and addresses of strangers."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from http_server import forever, once, serve_raw

from hostile_inputs.cases_run_folders import good_run
from hostile_inputs.harness import HostileCase

_servers = ExitStack()
Answer = Callable[[socket.socket, str], object]
OK = b"HTTP/1.1 200 OK\r\n"
FOUND = b"HTTP/1.1 302 Found\r\nLocation: "
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def predict(answer: Answer | str, path: str = "/a.jpg") -> Callable[[Path], list[str]]:
    """Predicts on an address of a server, or on `answer` if that is an address."""

    def make(folder: Path) -> list[str]:
        shutil.copy(good_run() / "model.safetensors", folder)
        url = answer if isinstance(answer, str) else _servers.enter_context(serve_raw(answer)) + path
        return ["predict", "checkpoint=model.safetensors", f"source={url}", "output=out", "device=cpu"]

    return make


def download(answer: Answer, *, suffix: str = "/{name}") -> Callable[[Path], list[str]]:
    """Downloads an archive from a server, with short time-outs."""

    def make(folder: Path) -> list[str]:
        url = _servers.enter_context(serve_raw(answer)) + suffix
        archive = "{_target_: ssd.data.download.voc.Archive, name: a.tar, folder: x, bytes: 1000000, md5: abc}"
        limits = ["tries=1", "connect_timeout_s=0.5", "read_timeout_s=0.5"]
        return [
            *("download", "dataset=voc", "dataset.root=data", f"download.mirrors=['{url}']"),
            *(f"download.archives=[{archive}]", *(f"download.network.{limit}" for limit in limits)),
        ]

    return make


def _redirect(location: bytes) -> Callable[[Path], list[str]]:
    return predict(once(FOUND + location + b"\r\n\r\n"))


def _validator_with_a_fold(connection: socket.socket, _head: str) -> None:
    connection.sendall(OK + b'ETag: "a\r\n b\x1b[31m\xff"\r\nContent-Length: 100\r\n\r\nhalf')


_SLOW: dict[str, Answer] = {
    "a status line at a byte a time": forever(b"x", pause_s=0.05),
    "a header at a byte a time": forever(b"x", pause_s=0.05, before=OK + b"A: "),
    "100 Continue forever": forever(b"HTTP/1.1 100 Continue\r\n\r\n", pause_s=0.01),
    "a body at a byte a time": forever(b"x", pause_s=0.05, before=OK + b"\r\n"),
    "chunks of a byte": forever(b"1\r\nx\r\n", pause_s=0.05, before=CHUNKED),
    "the size of a chunk at a byte a time": forever(b"0", pause_s=0.05, before=CHUNKED),
    "an endless body of a redirect": forever(b"x" * 1000, before=FOUND + b"/again\r\n\r\n"),
    "an endless body": forever(b"x" * 65536, before=OK + b"\r\n"),
    "a validator with a fold": _validator_with_a_fold,
}
_LOCATIONS = {
    "http://[::1": b"http://[::1",
    "a file": b"file:///etc/passwd",
    "data:": b"data:,x",
    "ftp": b"ftp://127.0.0.1/a",
    "no host": b"http:///x",
    "a port of letters": b"http://a:b/",
    "control characters": b"http://a\x01\x1b[31m/",
    "9,000 characters": b"http://" + b"a" * 9000,
    "itself": b"/a.jpg",
}
_ANSWERS = {
    "garbage": (b"\x00\xff" * 1000, (5,)),
    "nothing": (b"", (5,)),
    "HTTP/9.9 with a status of letters": (b"HTTP/9.9 abc\r\n\r\n", (5,)),
    "a status with control characters": (b"HTTP/1.1 404 \x1b[31mNot\r\n\r\n", (3,)),
    "200 headers": (OK + b"A: b\r\n" * 200 + b"\r\nx", (5,)),
    "a header of 70,000 characters": (OK + b"A: " + b"b" * 70_000 + b"\r\n\r\nx", (5,)),
    "a length of 5,000 digits": (OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nx", (3, 5)),
    "a negative length": (OK + b"Content-Length: -5\r\n\r\nx", (3, 5)),
    "two lengths": (OK + b"Content-Length: 5, 6\r\n\r\nx", (3, 5)),
    "a length larger than the body": (OK + b"Content-Length: 1000\r\n\r\nx", (3,)),
    "a negative chunk": (CHUNKED + b"-5\r\nabc\r\n0\r\n\r\n", (3, 5)),
    "a chunk of letters": (CHUNKED + b"xyz\r\n", (3, 5)),
    "a chunk of 10,000 digits": (CHUNKED + b"f" * 10_000 + b"\r\nabc", (3, 5)),
    "a gzip that it does not ask for": (OK + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", (3, 5)),
    "a page": (OK + b"Content-Type: image/jpeg\r\nContent-Length: 13\r\n\r\n<html></html>", (3,)),
    "an empty body": (OK + b"Content-Length: 0\r\n\r\n", (3,)),
}
_ADDRESSES = {
    "http://[::1": (2,),
    "http://a:99999/b.jpg": (2,),
    "file:///etc/passwd": (2, 3),
    "http://a\x1b[31m/b.jpg": (2,),
    "http://a\nb/c.jpg": (2,),
    "http://user:secret@127.0.0.1:9/a.jpg": (5,),
    "gopher://127.0.0.1:9/_x": (2, 3),
}

CASES = [
    *(
        HostileCase(f"download: {name}", download(answer), codes=(5,), text="a.tar", network=True)
        for name, answer in _SLOW.items()
    ),
    HostileCase(
        "download: a redirect to http://[::1",
        download(once(FOUND + b"http://[::1\r\n\r\n")),
        codes=(5,),
        text="not a valid URL",
        network=True,
    ),
    HostileCase(
        "download: Retry-After of 5,000 digits",
        download(once(b"HTTP/1.1 503 x\r\nRetry-After: " + b"9" * 5000 + b"\r\nContent-Length: 0\r\n\r\n")),
        codes=(5,),
        text="503",
        network=True,
    ),
    *(
        HostileCase(f"predict: redirected to {name}", _redirect(location), codes=(5,), text="127.0.0.1", network=True)
        for name, location in _LOCATIONS.items()
    ),
    *(
        HostileCase(f"predict: the server sends {name}", predict(once(data)), codes=codes, text="a.jpg", network=True)
        for name, (data, codes) in _ANSWERS.items()
    ),
    *(
        HostileCase(f"predict: source={url!r}", predict(url), codes=codes, network=True)
        for url, codes in _ADDRESSES.items()
    ),
]
