"""Servers that mean to hold a request, or to lead it elsewhere."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from http_server import forever, once, serve_raw

from ssd.common import http_addresses
from ssd.common.downloads import download_files
from ssd.common.errors import ConfigError, DataError, MachineError
from ssd.common.http_addresses import AddressError, Hosts, check_address
from ssd.common.http_client import Network
from ssd.inference.remote import fetch

OK = b"HTTP/1.1 200 OK\r\n"
SLOW = {
    "a status line at one byte a time": forever(b"x", pause_s=0.05),
    "a header at one byte a time": forever(b"x", pause_s=0.05, before=OK + b"A: "),
    "100 Continue forever": forever(b"HTTP/1.1 100 Continue\r\n\r\n", pause_s=0.01),
    "a body at one byte a time": forever(b"x", pause_s=0.05, before=OK + b"\r\n"),
    "a body of known length at one byte a time": forever(
        b"x", pause_s=0.05, before=OK + b"Content-Length: 1000000\r\n\r\n"
    ),
    "chunks of one byte": forever(b"1\r\nx\r\n", pause_s=0.05, before=OK + b"Transfer-Encoding: chunked\r\n\r\n"),
    "the size of a chunk at one byte a time": forever(
        b"0", pause_s=0.05, before=OK + b"Transfer-Encoding: chunked\r\n\r\n"
    ),
    "a body that stalls": forever(b"", pause_s=0.05, before=OK + b"\r\n" + b"x" * 100_000),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_request_times_out(tmp_path: Path, name: str) -> None:
    start = time.monotonic()
    with serve_raw(SLOW[name]) as url:
        with pytest.raises(MachineError, match="timed out"):
            fetch(f"{url}/a.jpg", tmp_path, read_timeout_s=0.4)
        network = Network(workers=1, tries=1, connect_timeout_s=0.3, read_timeout_s=0.4)
        failed = download_files({tmp_path / "b": f"{url}/b"}, network, title="", max_bytes=10**6, check=len)
    assert failed == {tmp_path / "b": "timed out"}
    assert time.monotonic() - start < 8


def test_redirects_share_the_time_of_one_request(tmp_path: Path) -> None:
    def answer(connection: socket.socket, _head: str) -> None:
        time.sleep(0.3)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n")

    with serve_raw(answer) as url, pytest.raises(MachineError, match="timed out"):
        fetch(url, tmp_path, read_timeout_s=0.4)


@pytest.mark.parametrize(
    "answer",
    [
        forever(b"x" * 65536, before=OK + b"\r\n"),
        forever(b"10000\r\n" + b"x" * 65536 + b"\r\n", before=OK + b"Transfer-Encoding: chunked\r\n\r\n"),
    ],
)
def test_an_endless_body_is_bounded(tmp_path: Path, answer: Callable[[socket.socket, str], None]) -> None:
    with serve_raw(answer) as url, pytest.raises(DataError, match="larger than 1000000 bytes"):
        fetch(url, tmp_path, max_bytes=10**6)


def redirect(location: bytes, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "location",
    [
        *(b"http://[::1", b"http://", b"http://a:b/", b"http://a:99999/", b"file:///etc/passwd", b"data:,x", b"//[x]/"),
        *(b"http://a\x01b/", b"ftp://127.0.0.1/", b"javascript:1", b"http:///x", b"http://" + b"a" * 9000, b"/again"),
        *(b"http://" + b"a" * 70 + b".example.com/", b"http://xn--\xff/", b"http://..../"),
    ],
)
def test_a_redirect_elsewhere_is_refused(tmp_path: Path, location: bytes) -> None:
    with serve_raw(once(redirect(location))) as url, pytest.raises(MachineError) as caught:
        fetch(url, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_body_of_a_redirect_is_not_read(tmp_path: Path) -> None:
    def answer(connection: socket.socket, head: str) -> None:
        if head.startswith("GET /first "):
            forever(b"x" * 1000, before=redirect(b"/second"))(connection, head)
        connection.sendall(OK + b"Content-Length: 2\r\n\r\nok")

    with serve_raw(answer) as url:
        assert fetch(f"{url}/first", tmp_path).read_bytes() == b"ok"


def test_nothing_of_the_user_is_sent_to_another_host(tmp_path: Path) -> None:
    heads: list[str] = []

    def answer(connection: socket.socket, head: str) -> None:
        heads.append(head)
        connection.sendall(OK + b"Content-Length: 2\r\n\r\nok")

    with serve_raw(answer) as second, serve_raw(once(redirect(f"{second}/b".encode()))) as first:
        fetch(first.replace("://", "://user:secret@") + "/a?token=1", tmp_path)
    sent = {line.partition(":")[0] for line in heads[0].splitlines()[1:] if line}
    assert sent == {"Host", "User-Agent", "Accept-Encoding"}
    assert "secret" not in heads[0]


def test_a_password_is_not_printed(tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught:
        fetch("http://user:secret@127.0.0.1:9/a.jpg", tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("header", [b"A: b\r\n" * 200, b"A: " + b"b" * 70_000 + b"\r\n"])
def test_headers_are_bounded(tmp_path: Path, header: bytes) -> None:
    with serve_raw(once(OK + header + b"\r\nok")) as url, pytest.raises(MachineError):
        fetch(url, tmp_path)


@pytest.mark.parametrize("url", ["http://a\nb/", "http://a/\x1b[31m", "http://a/\x00", "https://a:x/", "http://", "a"])
def test_other_addresses_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(AddressError):
        check_address(url)
    with pytest.raises(ConfigError):
        fetch(url, tmp_path)
    with pytest.raises(ConfigError):
        download_files({tmp_path / "a": url}, Network(), title="", max_bytes=1, check=len)


DNS = {
    "public.example.com": ["93.184.216.34"],
    "mine.example.com": ["10.0.0.5"],
    "rebind.example.com": ["127.0.0.1"],
    "mixed.example.com": ["93.184.216.34", "169.254.169.254"],
    "metadata.example.com": ["169.254.169.254"],
    "mapped.example.com": ["::ffff:127.0.0.1"],
    "nas": ["192.168.0.9"],
    "localhost": ["127.0.0.1", "::1"],
}


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (address, port)) for address in DNS.get(host, [host])]

    monkeypatch.setattr(http_addresses.socket, "getaddrinfo", look_up)


@pytest.mark.usefixtures("dns")
@pytest.mark.parametrize(
    "name", ["public.example.com", "mine.example.com", "nas", "localhost", "10.0.0.1", "127.0.0.1"]
)
def test_the_first_address_may_be_private(name: str) -> None:
    assert Hosts(f"http://{name}/").addresses(name, 80) == DNS.get(name, [name])


@pytest.mark.usefixtures("dns")
@pytest.mark.parametrize(
    "name", ["rebind.example.com", "mixed.example.com", "metadata.example.com", "mapped.example.com"]
)
def test_a_public_name_is_not_this_machine(name: str) -> None:
    with pytest.raises(AddressError, match="give that address if you mean it"):
        Hosts(f"http://{name}/").addresses(name, 80)


@pytest.mark.usefixtures("dns")
@pytest.mark.parametrize("name", [name for name in DNS if name != "public.example.com"])
def test_a_public_host_cannot_lead_to_a_private_one(name: str) -> None:
    hosts = Hosts("http://public.example.com/")
    hosts.addresses("public.example.com", 80)
    with pytest.raises(AddressError, match="private network"):
        hosts.addresses(name, 80)


@pytest.mark.parametrize(
    "literal", ["127.0.0.1", "[::1]", "[::ffff:10.0.0.1]", "169.254.169.254", "0.0.0.0", "[fd00::1]"]
)
def test_a_redirect_to_a_private_literal_is_refused_even_through_a_proxy(literal: str) -> None:
    with pytest.raises(AddressError, match="private network"):
        Hosts("http://public.example.com/").redirect("http://public.example.com/", f"http://{literal}/")


@pytest.mark.usefixtures("dns")
def test_a_private_host_may_lead_to_another() -> None:
    for first in ("nas", "10.0.0.5", "mine.example.com"):
        hosts = Hosts(f"http://{first}/")
        hosts.addresses(first, 80)
        assert hosts.addresses("localhost", 80) == DNS["localhost"]
        assert hosts.redirect(f"http://{first}/", "http://127.0.0.1/x") == "http://127.0.0.1/x"
