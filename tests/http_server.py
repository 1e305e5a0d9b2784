"""A local HTTP server with faults: files by path, and for each path the faults of the next requests."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HTML = b"<html><body>Please sign in to the network</body></html>"
PASSING = ["500", "503", "429", "truncated", "reset", "stall", "longer", "html"]  # temporary faults


class FaultyServer(ThreadingHTTPServer):
    """`files` by path; `faults[path]` iterates over one fault per request; `requests` are (path, Range) in order."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, Iterator[str]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.retry_after = "0"
        self.pause_s = 0.0  # before each response
        self.gate = threading.Event()  # no response is sent until it is set
        self.gate.set()
        self.ranges = True
        self.validators = ("ETag", "Last-Modified")
        self.weak = False  # weak ETags

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fail(self, path: str, faults: Iterable[str]) -> None:
        self.faults[path] = iter(faults)

    def count(self, path: str) -> int:
        return sum(requested == path for requested, _ in self.requests)

    def get_request(self) -> Any:
        self.connections += 1
        return super().get_request()

    def handle_error(self, *_: Any) -> None:
        """Ignores clients that were killed."""


@contextmanager
def serve() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def log_message(self, *_: Any) -> None:
        """Keeps the test output clean."""

    def do_GET(self) -> None:
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        server.headers.append(dict(self.headers))
        time.sleep(server.pause_s)
        server.gate.wait()
        body = server.files.get(self.path)
        fault = next(server.faults.get(self.path, iter(())), None)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        if fault == "html":
            self._respond(200, HTML)
        elif fault == "redirect":
            self._respond(302, b"", Location=f"{self.path}.moved")
        elif fault is not None and fault.isdigit():
            self._respond(int(fault), b"no", **{"Retry-After": server.retry_after})
        elif body is None:
            self._respond(404, b"nothing here")
        else:
            self._send(body, fault)

    def _send(self, body: bytes, fault: str | None) -> None:
        tag = ("W/" if self.server.weak else "") + f'"{hashlib.sha1(body).hexdigest()}"'
        known = {"ETag": tag, "Last-Modified": formatdate(len(body), usegmt=True)}
        status, headers = 200, {name: known[name] for name in self.server.validators}
        range_header = self.headers.get("Range")
        if range_header and self.server.ranges and self.headers.get("If-Range") in (None, *known.values()):
            start = int(range_header.removeprefix("bytes=").rstrip("-"))
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(body) - 1}/{len(body)}"
            if start >= len(body):
                self._respond(416, b"")
                return
            body = body[start:]
        half = body[: len(body) // 2]
        if fault == "truncated":
            self._respond(status, half, length=len(body), **headers)
        elif fault == "longer":
            self._respond(status, body, length=len(body) + 100, **headers)
        elif fault == "part":  # without a Range request
            self._respond(206, half, **headers, **{"Content-Range": f"bytes 0-{len(half) - 1}/{len(body)}"})
        elif fault == "shorter":
            self._respond(status, half, **headers)
        elif fault == "stall":
            self._respond(status, half, length=len(body), **headers)
            self.wfile.flush()
            time.sleep(3)
        elif fault == "chunked":
            self._respond(status, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), length=None, **headers)
        else:
            self._respond(status, body, **headers)

    def _respond(self, status: int, body: bytes, *, length: int | None = -1, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = length not in (-1, None)


@contextmanager
def serve_raw(answer: Callable[[socket.socket, str], object]) -> Iterator[str]:
    """The address of a server that hands each connection to `answer`, in a thread, with the head of its request."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def work(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                head = b""
                while b"\r\n\r\n" not in head:
                    if not (data := connection.recv(4096)):
                        return
                    head += data
                answer(connection, head.decode("latin-1"))

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=work, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def forever(piece: bytes, *, pause_s: float = 0.0, before: bytes = b"") -> Callable[[socket.socket, str], None]:
    """An answer that never ends, until the other side closes the connection."""

    def answer(connection: socket.socket, _head: str) -> None:
        connection.sendall(before)
        while True:
            connection.sendall(piece)
            time.sleep(pause_s)

    return answer


def once(data: bytes) -> Callable[[socket.socket, str], None]:
    """An answer, after which the connection is closed."""
    return lambda connection, _head: connection.sendall(data)
