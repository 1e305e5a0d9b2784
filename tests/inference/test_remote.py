"""URLs as sources, with a local server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from media import WhiteSquarePredictor, predict, read_video, write_animation, write_image, write_video

from ssd.common.errors import ConfigError, DataError, MachineError
from ssd.common.images import read_image
from ssd.inference.remote import fetch, safe_name


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    write_image(tmp_path / "cat.png")
    write_video(tmp_path / "street.mp4", frames=5)
    write_animation(tmp_path / "dance.gif", frames=4)
    content = {
        "/images/cat.png": (tmp_path / "cat.png").read_bytes(),
        "/show": (tmp_path / "cat.png").read_bytes(),
        "/dance.jpg": (tmp_path / "dance.gif").read_bytes(),
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


def test_image_url(server: str, tmp_path: Path) -> None:
    url = f"{server}/to/{server}/images/cat.png?size=large"
    (record,) = predict(WhiteSquarePredictor(), url, tmp_path / "out")
    assert (record["source"], record["frame"]) == (url, None)
    assert read_image(tmp_path / "out" / "cat.png").shape == read_image(tmp_path / "cat.png").shape


def test_content_not_name_decides_between_image_animation_and_video(server: str, tmp_path: Path) -> None:
    assert len(predict(WhiteSquarePredictor(), f"{server}/trip.jpg", tmp_path / "out")) == 5
    assert len(read_video(tmp_path / "out" / "trip.jpg.mp4")[0]) == 5
    assert len(predict(WhiteSquarePredictor(), f"{server}/dance.jpg", tmp_path / "out")) == 4
    assert len(read_video(tmp_path / "out" / "dance.jpg.mp4")[0]) == 4
    assert len(predict(WhiteSquarePredictor(), f"{server}/show?id=7", tmp_path / "out")) == 1
    assert np.any(read_image(tmp_path / "out" / "show.jpg"))


def test_web_page_is_a_data_error(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"page\.jpg: neither an image nor a video"):
        predict(WhiteSquarePredictor(), f"{server}/page.jpg", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("url", ["ftp://a.b/c.jpg", "file:///etc/passwd", "rtsp://a/b", "http://", "s3://a/b"])
def test_other_protocols_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"source={url}: .*http:// and https://"):
        predict(WhiteSquarePredictor(), url, tmp_path / "out")


@pytest.mark.parametrize("url", ["http://[::1", "http://a.b:99999/c.jpg", "http://a.b:c/d.jpg"])
def test_invalid_url_is_a_config_error(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"source=http://.*: not a valid URL"):
        predict(WhiteSquarePredictor(), url, tmp_path / "out")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a.jpg", "data:,hello"])
def test_redirect_to_another_protocol_is_refused(server: str, target: str, tmp_path: Path) -> None:
    with pytest.raises((DataError, MachineError)):
        fetch(f"{server}/to/{target}", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.png", "dance.gif", "street.mp4"]


@pytest.mark.parametrize("path", ["/large", "/without_length"])
def test_too_large_file_is_refused(server: str, path: str, tmp_path: Path) -> None:
    assert fetch(f"{server}{path}", tmp_path, max_bytes=10_000).stat().st_size == 10_000
    with pytest.raises(DataError, match=f"{path}: .*9999 bytes"):
        fetch(f"{server}{path}", tmp_path, max_bytes=9_999)


def test_truncated_body_is_a_data_error(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/cut: .*10000 of 20000 bytes"):
        fetch(f"{server}/cut", tmp_path)


def test_stalled_server_times_out(server: str, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="/stalled: "):
        fetch(f"{server}/stalled", tmp_path, read_timeout_s=0.3)


def test_missing_file_is_a_data_error_and_missing_server_a_machine_error(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/nothing: .*404"):
        fetch(f"{server}/nothing", tmp_path)
    with pytest.raises(MachineError, match=r"127\.0\.0\.1:9/a\.jpg: .*refused"):
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
def test_file_names_from_urls_are_safe(url: str, name: str) -> None:
    assert safe_name(url) == name
