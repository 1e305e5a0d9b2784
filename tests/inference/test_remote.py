"""Addresses of the web, against a server on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from media import SeesWhite, image, predict, read_video, video

from ssd.common.errors import ConfigError, DataError, MachineError
from ssd.common.images import read_image
from ssd.inference.sources import fetch, safe_name


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    image(tmp_path / "cat.png")
    video(tmp_path / "street.mp4", frames=5)
    content = {
        "/images/cat.png": (tmp_path / "cat.png").read_bytes(),
        "/show": (tmp_path / "cat.png").read_bytes(),
        "/trip.jpg": (tmp_path / "street.mp4").read_bytes(),
        "/page.jpg": b"<!doctype html><html>Not here</html>",
        "/large": bytes(10_000),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to/"))
                self.end_headers()
            elif path == "/stalled":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"begin")
                self.wfile.flush()
                time.sleep(3)
            elif path in ("/cut", "/without_length"):
                self.send_response(200)
                if path == "/cut":
                    self.send_header("Content-Length", "20000")
                self.end_headers()
                self.wfile.write(content["/large"])
            elif path in content:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content[path])))
                self.end_headers()
                self.wfile.write(content[path])
            else:
                self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_image_from_the_web(server: str, tmp_path: Path) -> None:
    url = f"{server}/to/{server}/images/cat.png?size=large"
    (record,) = predict(SeesWhite(), url, tmp_path / "out")
    assert (record["source"], record["frame"]) == (url, None)
    assert read_image(tmp_path / "out" / "cat.png").shape == read_image(tmp_path / "cat.png").shape


def test_what_it_is_goes_by_content_not_by_name(server: str, tmp_path: Path) -> None:
    assert len(predict(SeesWhite(), f"{server}/trip.jpg", tmp_path / "out")) == 5
    assert len(read_video(tmp_path / "out" / "trip.jpg.mp4")[0]) == 5
    assert len(predict(SeesWhite(), f"{server}/show?id=7", tmp_path / "out")) == 1
    assert np.any(read_image(tmp_path / "out" / "show.jpg"))


def test_a_web_page_is_neither_image_nor_video(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"page\.jpg: neither an image nor a video came"):
        predict(SeesWhite(), f"{server}/page.jpg", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("url", ["ftp://a.b/c.jpg", "file:///etc/passwd", "rtsp://a/b", "http://", "s3://a/b"])
def test_only_the_web_is_fetched(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"source=.*: only http:// and https:// addresses"):
        predict(SeesWhite(), url, tmp_path / "out")


@pytest.mark.parametrize("url", ["http://[::1", "http://a.b:99999/c.jpg", "http://a.b:c/d.jpg"])
def test_what_is_no_address_is_a_config_error(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"source=http://.*: not an address: .*; check its spelling"):
        predict(SeesWhite(), url, tmp_path / "out")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a.jpg", "data:,hello"])
def test_a_redirect_out_of_the_web_is_refused(server: str, target: str, tmp_path: Path) -> None:
    with pytest.raises((DataError, MachineError)):
        fetch(f"{server}/to/{target}", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.png", "street.mp4"]


@pytest.mark.parametrize("path", ["/large", "/without_length"])
def test_what_is_too_large_is_refused(server: str, path: str, tmp_path: Path) -> None:
    assert fetch(f"{server}{path}", tmp_path, limit_bytes=10_000).stat().st_size == 10_000
    with pytest.raises(DataError, match="over 9999 bytes"):
        fetch(f"{server}{path}", tmp_path, limit_bytes=9_999)


def test_a_body_cut_short_is_noticed(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="10000 of 20000 bytes came"):
        fetch(f"{server}/cut", tmp_path)


def test_a_server_that_stalls_is_given_up(server: str, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="/stalled: cannot be fetched: no answer in time"):
        fetch(f"{server}/stalled", tmp_path, silence_s=0.3)


def test_missing_is_a_data_error_and_no_server_one_of_the_machine(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="/nothing: the server answers 404"):
        fetch(f"{server}/nothing", tmp_path)
    with pytest.raises(MachineError, match=r"cannot be fetched: .*refused"):
        fetch("http://127.0.0.1:9/a.jpg", tmp_path)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://a/b/cat.png?x=1#y", "cat.png"),
        ("http://a/..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("http://a/%2e%2e", "download"),
        ("http://a", "download"),
        ("http://a/a%00b%20;rm.jpg", "a_b_rm.jpg"),
        ("http://a/%EA%B3%A0%EC%96%91%EC%9D%B4.jpg", "고양이.jpg"),
        ("http://a/" + "x" * 300 + ".jpg", "x" * 76 + ".jpg"),
    ],
)
def test_names_from_the_web_are_safe(url: str, name: str) -> None:
    assert safe_name(url) == name
