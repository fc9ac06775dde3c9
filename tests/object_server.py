"""An HTTP server on loopback that behaves like object storage towards a pre-signed GET."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SIGNATURE = "X-Amz-Signature=c0ffee5eedc0ffee5eed"
"""What must never be seen in clear anywhere but on the wire."""

_CHUNK_BYTES = 128 * 1024


class ObjectServer:
    """Serves the files of a folder with ranges, refuses HEAD, can be slowed down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bytes_per_second = 0.0
        """Per connection; 0 for as fast as it goes."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.send_response(403)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                outer._answer(self)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def url(self, name: str) -> str:
        """A URL as a signer would make it."""
        return f"{self.origin}/images/{name}?X-Amz-Expires=3600&{SIGNATURE}"

    @contextlib.contextmanager
    def running(self) -> Iterator["ObjectServer"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        name = request.path.partition("?")[0].rpartition("/")[2]
        path = self.folder / name
        if SIGNATURE not in request.path or not path.is_file():
            body = b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>'
            request.send_response(404)
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)
            return
        size = path.stat().st_size
        first, last, status = 0, size - 1, 200
        wanted = request.headers.get("Range", "")
        if wanted.startswith("bytes=") and size:
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last, status = int(start), min(int(end or last), last), 206
        request.send_response(status)
        request.send_header("Content-Length", str(last - first + 1))
        request.send_header("ETag", f'"{path.stat().st_mtime_ns:x}-{size:x}"')
        request.send_header("Accept-Ranges", "bytes")
        if status == 206:
            request.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        request.end_headers()
        with path.open("rb") as file, contextlib.suppress(OSError):
            started, sent = time.monotonic(), 0
            while sent <= last - first:
                # sendfile: the server must not be what a benchmark measures.
                count = min(_CHUNK_BYTES, last - first + 1 - sent)
                sent += os.sendfile(request.wfile.fileno(), file.fileno(), first + sent, count)
                if self.bytes_per_second:
                    due = started + sent / self.bytes_per_second
                    time.sleep(max(0.0, due - time.monotonic()))


class _Server(ThreadingHTTPServer):
    """Says nothing of callers that were killed."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    """Serve FOLDER at BYTES_PER_SECOND per connection until standard input ends."""
    server = ObjectServer(Path(sys.argv[1]))
    server.bytes_per_second = float(sys.argv[2])
    with server.running():
        print(server.origin.removeprefix("http://"), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
