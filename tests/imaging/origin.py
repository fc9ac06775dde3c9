"""An object storage for tests, with every fault a real one has shown."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_RECENT = "Mon, 02 Nov 2026 10:00:00 GMT"


@dataclass
class Seen:
    """One request as it came in."""

    method: str
    path: str
    range: str | None
    if_match: str | None
    client_port: int


@dataclass
class Behaviour:
    """How the origin treats requests. Faults count ranged reads after the first, sizing one."""

    body: bytes = b""
    file: Path | None = None
    etag: str | None = '"v1"'
    ranges: bool = True
    total_known: bool = True
    chunked: bool = False
    content_length: bool = True
    keep_alive: bool = True
    bytes_per_second: int | None = None
    """Per connection."""
    script: Callable[[int, "Exchange"], bool] | None = None
    """Called with the number of the request, from 0; True if it dealt with it."""

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file else len(self.body)

    def read(self, start: int, count: int) -> bytes:
        if self.file is None:
            return self.body[start : start + count]
        with self.file.open("rb") as file:
            file.seek(start)
            return file.read(count)


@dataclass
class Origin:
    """A running server."""

    port: int
    behaviour: Behaviour
    seen: list[Seen] = field(default_factory=list)
    open_connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)

    def url(self, key: str = "bucket/image", query: str = "X-Amz-Signature=secret") -> str:
        return f"http://127.0.0.1:{self.port}/{key}?{query}"


class Exchange:
    """One request and the tools to answer it, rightly or wrongly."""

    def __init__(self, handler: BaseHTTPRequestHandler, origin: Origin) -> None:
        self.handler = handler
        self.origin = origin
        self.behaviour = origin.behaviour
        value = handler.headers["Range"]
        self.range: tuple[int, int] | None = None
        if value:
            first, _, last = value.removeprefix("bytes=").partition("-")
            self.range = int(first), int(last)

    def status(self, status: int, body: bytes = b"", **headers: str) -> bool:
        self.handler.send_response(status)
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.send_header("Content-Length", str(len(body)))
        self.handler.end_headers()
        self.handler.wfile.write(body)
        return True

    def head(self, *, etag: str | None = None, total: int | None = None) -> tuple[int, int]:
        """Send the headers of a right answer; offset and length of the body."""
        behaviour = self.behaviour
        size = total if total is not None else behaviour.size
        if self.range is None or not behaviour.ranges:
            start, count = 0, size
            self.handler.send_response(200)
        else:
            start, last = self.range[0], min(self.range[1], size - 1)
            count = last - start + 1
            self.handler.send_response(206)
            shown = str(size) if behaviour.total_known else "*"
            self.handler.send_header("Content-Range", f"bytes {start}-{last}/{shown}")
        if chosen := etag or behaviour.etag:
            self.handler.send_header("ETag", chosen)
        self.handler.send_header("Last-Modified", _RECENT)
        if behaviour.chunked:
            self.handler.send_header("Transfer-Encoding", "chunked")
        elif behaviour.content_length:
            self.handler.send_header("Content-Length", str(count))
        if not (behaviour.keep_alive and (behaviour.content_length or behaviour.chunked)):
            self.handler.send_header("Connection", "close")
            self.handler.close_connection = True
        self.handler.end_headers()
        return start, count

    def send(self, start: int, count: int, *, whole: bool = True) -> None:
        """Send bytes of the object, at the configured speed."""
        behaviour = self.behaviour
        end, piece = start + count, 256 * 1024
        if behaviour.bytes_per_second:
            piece = max(1, min(piece, behaviour.bytes_per_second // 50))
        due = time.monotonic()
        while start < end and not self.origin.ended.is_set():
            data = behaviour.read(start, min(piece, end - start))
            if behaviour.chunked:
                self.handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            else:
                self.handler.wfile.write(data)
            start += len(data)
            if behaviour.bytes_per_second:
                due += len(data) / behaviour.bytes_per_second
                self.origin.ended.wait(max(0.0, due - time.monotonic()))
        if behaviour.chunked and whole:
            self.handler.wfile.write(b"0\r\n\r\n")

    def reset(self) -> None:
        """Cut the connection off, as a crashed server does."""
        connection = self.handler.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.handler.close_connection = True
        connection.close()

    def hang_up(self) -> bool:
        """Close the connection politely in the middle of a body."""
        self.handler.wfile.flush()
        with contextlib.suppress(OSError):
            self.handler.connection.shutdown(socket.SHUT_RDWR)
        self.handler.close_connection = True
        return True

    def stall(self) -> bool:
        self.handler.wfile.flush()
        self.origin.ended.wait(30)
        self.handler.close_connection = True
        return True


@contextlib.contextmanager
def serving(behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> Iterator[Origin]:
    """Run an origin on a free port of the loopback address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 0
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            with origin.lock:
                origin.open_connections += 1

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()
            with origin.lock:
                origin.open_connections -= 1

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().handle()

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.send_error(403)  # a pre-signed GET signs its method

        def do_GET(self) -> None:
            exchange = Exchange(self, origin)
            with origin.lock:
                number = len(origin.seen)
                origin.seen.append(
                    Seen(
                        self.command,
                        self.path,
                        self.headers["Range"],
                        self.headers["If-Match"],
                        self.client_address[1],
                    )
                )
            if behaviour.script is not None and behaviour.script(number, exchange):
                return
            expected = self.headers["If-Match"]
            if expected is not None and expected != behaviour.etag:
                exchange.status(412)
            elif exchange.range and behaviour.ranges and exchange.range[0] >= behaviour.size:
                exchange.status(416, Content_Range=f"bytes */{behaviour.size}")
            else:
                exchange.send(*exchange.head())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        # The handshake belongs to the thread of the connection, not to the one that accepts.
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    origin = Origin(server.server_address[1], behaviour)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield origin
    finally:
        origin.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
