"""Downloads from a server with every fault that servers have."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import pytest
from http_server import HTML, PASSING, FaultyServer, serve

from ssd.common.downloads import HostDownError, download_files
from ssd.common.errors import ConfigError, DataError, MachineError
from ssd.common.http_client import Network

ROOT = Path(__file__).parents[2]
MB = 10**6
BODY = random.Random(0).randbytes(300_000)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setattr("ssd.common.downloads._BACKOFF_S", 0.01)
    with serve() as server:
        server.files["/a"] = BODY
        yield server


def no_page(path: Path) -> None:
    if path.read_bytes() == HTML:
        raise DataError("a web page")


def fetch(
    server: FaultyServer, folder: Path, *names: str, max_bytes: int = MB, workers: int = 4, tries: int = 5
) -> dict[str, str]:
    """The reasons of the failed files, by name."""
    network = Network(workers=workers, tries=tries, connect_timeout_s=1.0, read_timeout_s=0.3)
    urls = {folder / name: f"{server.url}/{name}" for name in names}
    failed = download_files(urls, network, title="files", max_bytes=max_bytes, check=no_page)
    return {path.name: reason for path, reason in failed.items()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# One file


@pytest.mark.parametrize("fault", [*PASSING, "redirect", "chunked", "part"])
def test_a_temporary_fault_leaves_no_trace(server: FaultyServer, tmp_path: Path, fault: str) -> None:
    server.files["/a.moved"] = BODY
    server.fail("/a", [fault, fault])
    assert fetch(server, tmp_path, "a") == {}
    assert (tmp_path / "a").read_bytes() == BODY
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("fault", "reason", "requests"),
    [
        ("404", "404 Not Found", 1),
        ("403", "403 Forbidden", 1),
        ("500", "500 Internal Server Error", 5),
        ("503", "503 Service Unavailable", 5),
        ("429", "429 Too Many Requests", 5),
        ("html", "a web page", 5),
        ("stall", "timed out", 5),
        ("reset", "connection closed early", 5),
    ],
)
def test_a_permanent_fault_is_reported_and_other_files_arrive(
    server: FaultyServer, tmp_path: Path, fault: str, reason: str, requests: int
) -> None:
    server.fail("/a", repeat(fault))
    server.files["/b"] = b"b"
    assert fetch(server, tmp_path, "a", "b") == {"a": reason}
    assert server.count("/a") == requests
    assert (tmp_path / "b").read_bytes() == b"b"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("after", ["1", "date"])
def test_retry_after_is_obeyed(server: FaultyServer, tmp_path: Path, after: str) -> None:
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
    server.retry_after = soon if after == "date" else after
    server.fail("/a", ["503"])
    start = time.monotonic()
    assert fetch(server, tmp_path, "a") == {}
    assert 0.9 < time.monotonic() - start < 20


@pytest.mark.parametrize("after", ["86400", "=1+1", "", "-5", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_an_excessive_or_invalid_retry_after_is_limited(
    server: FaultyServer, tmp_path: Path, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssd.common.http_client._MAX_RETRY_AFTER_S", 0.05)
    server.retry_after = after
    server.fail("/a", repeat("429"))
    assert fetch(server, tmp_path, "a") == {"a": "429 Too Many Requests"}


def test_an_empty_file_is_a_file(server: FaultyServer, tmp_path: Path) -> None:
    server.files["/a"] = b""
    assert fetch(server, tmp_path, "a") == {}
    assert (tmp_path / "a").read_bytes() == b""


@pytest.mark.parametrize("fault", [None, "chunked", "longer"])
def test_a_file_over_the_limit_is_refused(server: FaultyServer, tmp_path: Path, fault: str | None) -> None:
    server.fail("/a", repeat(fault) if fault else [])
    assert fetch(server, tmp_path, "a", max_bytes=100_000) == {"a": "larger than 0 MB"}
    assert server.count("/a") == 1
    assert names(tmp_path) == []


def test_only_http_addresses_are_accepted(tmp_path: Path) -> None:
    network = Network(workers=1, tries=1, connect_timeout_s=1.0, read_timeout_s=1.0)
    for url in ("file:///etc/passwd", "ftp://host/a", "a.jpg"):
        with pytest.raises(ConfigError, match="not an http"):
            download_files({tmp_path / "a": url}, network, title="", max_bytes=MB, check=no_page)


# Resuming


def test_a_truncated_file_is_resumed(server: FaultyServer, tmp_path: Path) -> None:
    server.fail("/a", ["truncated", "truncated"])
    assert fetch(server, tmp_path, "a") == {}
    assert [header for _, header in server.requests] == [None, "bytes=150000-", "bytes=225000-"]
    assert {headers["Accept-Encoding"] for headers in server.headers} == {"identity"}  # a range of what is stored
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_is_downloaded_again(server: FaultyServer, tmp_path: Path) -> None:
    server.fail("/a", ["truncated"])
    assert fetch(server, tmp_path, "a", tries=1) == {"a": "connection closed early"}
    assert names(tmp_path) == [".a.part", ".a.validator"]
    server.files["/a"] = BODY[::-1]
    assert fetch(server, tmp_path, "a") == {}
    assert (tmp_path / "a").read_bytes() == BODY[::-1]


@pytest.mark.parametrize(
    ("validators", "weak", "resumes"),
    [
        (("ETag",), False, True),
        (("Last-Modified",), False, True),
        (("ETag", "Last-Modified"), True, True),
        (("ETag",), True, False),
        ((), False, False),
    ],
)
def test_only_a_strong_validator_allows_resuming(
    server: FaultyServer, tmp_path: Path, validators: tuple[str, ...], weak: bool, resumes: bool
) -> None:
    server.validators, server.weak = validators, weak
    server.fail("/a", ["truncated"])
    assert fetch(server, tmp_path, "a") == {}
    assert [header for _, header in server.requests] == [None, "bytes=150000-" if resumes else None]
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_server_without_ranges_sends_the_whole_file(server: FaultyServer, tmp_path: Path) -> None:
    server.ranges = False
    server.fail("/a", ["truncated"])
    assert fetch(server, tmp_path, "a") == {}
    assert (tmp_path / "a").read_bytes() == BODY


@pytest.mark.parametrize("part", [BODY, BODY + b"more"])
def test_a_part_that_is_too_long_is_discarded(server: FaultyServer, tmp_path: Path, part: bytes) -> None:
    server.fail("/a", ["truncated"])
    fetch(server, tmp_path, "a", tries=1)
    (tmp_path / ".a.part").write_bytes(part)
    assert fetch(server, tmp_path, "a") == {}
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_part_without_validator_is_discarded(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / ".a.part").write_bytes(b"from who knows where")
    assert fetch(server, tmp_path, "a") == {}
    assert server.requests == [("/a", None)]
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_part_survives_a_server_error(server: FaultyServer, tmp_path: Path) -> None:
    server.fail("/a", ["truncated", "503"])
    assert fetch(server, tmp_path, "a") == {}
    assert [header for _, header in server.requests] == [None, "bytes=150000-", "bytes=150000-"]


# Hosts


def test_a_dead_host_fails_fast(tmp_path: Path, server: FaultyServer) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    network = Network(workers=8, tries=5, connect_timeout_s=1.0, read_timeout_s=1.0)
    urls = {tmp_path / str(number): f"http://{address}/{number}" for number in range(500)}
    start = time.monotonic()
    with pytest.raises(MachineError, match=rf"^{address}: .*Connection refused, 2 times"):
        download_files(urls, network, title="files", max_bytes=MB, check=no_page)
    assert time.monotonic() - start < 30  # every file for itself: minutes
    assert names(tmp_path) == []


def test_one_try_is_enough_to_notice_a_dead_host(tmp_path: Path) -> None:
    network = Network(workers=1, tries=1, connect_timeout_s=1.0, read_timeout_s=1.0)
    with pytest.raises(HostDownError, match=r"^127\.0\.0\.1:9: .*refused, 1 times"):
        download_files({tmp_path / "a": "http://127.0.0.1:9/a"}, network, title="", max_bytes=1, check=len)


def test_a_host_that_never_answers_is_tried_twice(tmp_path: Path) -> None:
    network = Network(workers=8, tries=50, connect_timeout_s=0.2, read_timeout_s=1.0)
    with socket.socket() as deaf, contextlib.ExitStack() as waiting:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):  # fill its queue: the next ones get no answer
            queued = waiting.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(deaf.getsockname())
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        urls = {tmp_path / str(number): f"http://{address}/{number}" for number in range(500)}
        with pytest.raises(HostDownError, match=rf"^{address}: .*, 2 times"):
            download_files(urls, network, title="files", max_bytes=MB, check=no_page)


def test_an_unknown_host_is_an_error(server: FaultyServer, tmp_path: Path) -> None:
    network = Network(workers=1, tries=2, connect_timeout_s=1.0, read_timeout_s=1.0)
    with pytest.raises(MachineError, match=r"^nowhere\.invalid: no such host, 2 times"):
        download_files({tmp_path / "a": "http://nowhere.invalid/a"}, network, title="", max_bytes=1, check=no_page)


def test_a_host_without_tls_is_an_error(server: FaultyServer, tmp_path: Path) -> None:
    network = Network(workers=1, tries=2, connect_timeout_s=1.0, read_timeout_s=1.0)
    urls = {tmp_path / "a": server.url.replace("http", "https")}
    with pytest.raises(MachineError, match=r"^127\.0\.0\.1:\d+: TLS: [a-z]"):
        download_files(urls, network, title="", max_bytes=1, check=no_page)


def test_a_host_that_fails_every_request_counts_as_down(server: FaultyServer, tmp_path: Path) -> None:
    paths = [str(number) for number in range(500)]
    for path in paths:
        server.fail(f"/{path}", repeat("503"))
    with pytest.raises(MachineError, match="503 Service Unavailable, 5 times"):
        fetch(server, tmp_path, *paths)
    assert len(server.requests) < 100


def test_connections_are_kept_alive(server: FaultyServer, tmp_path: Path) -> None:
    paths = [str(number) for number in range(50)]
    server.files = {f"/{path}": path.encode() for path in paths}
    assert fetch(server, tmp_path, *paths, workers=4) == {}
    assert server.connections <= 4


def test_the_proxy_of_the_environment_is_used(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    server.files["http://nowhere.invalid/a"] = BODY
    network = Network(workers=1, tries=1, connect_timeout_s=1.0, read_timeout_s=1.0)
    urls = {tmp_path / "a": "http://nowhere.invalid/a"}
    assert download_files(urls, network, title="", max_bytes=MB, check=no_page) == {}
    assert (tmp_path / "a").read_bytes() == BODY


# Disks and interrupts


def test_a_full_disk_leaves_no_partial_file_under_a_final_name(server: FaultyServer, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    server.files = {f"/{number}": BODY for number in range(20)}
    try:
        with pytest.raises(MachineError, match=f"{os.strerror(errno.ENOSPC)}"):
            fetch(server, folder, *map(str, range(20)))
        whole = [path for path in folder.iterdir() if not path.name.startswith(".")]
        assert all(path.read_bytes() == BODY for path in whole)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_failed_write_is_an_error(server: FaultyServer, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(MachineError, match=f"a: cannot be written: {os.strerror(errno.EFBIG)}"):
            fetch(server, tmp_path, "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "a").exists()


def test_ctrl_c_does_not_wait_for_a_silent_server(server: FaultyServer, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from ssd.common.downloads import *\n"
        "network = Network(workers=2, tries=5, connect_timeout_s=9.0, read_timeout_s=30.0)\n"
        f"download_files({{Path('a'): '{server.url}/a'}}, network, title='', max_bytes=10**6, check=len)"
    )
    server.pause_s = 20.0
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    while not server.requests and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=15)
    assert b"KeyboardInterrupt" in errors
