"""gRPC over HTTP/2 by hand: exactly the headers that a test gives, and every frame of the answer.

grpcio puts its own user agent first, orders headers as it likes and hides pings; a replay of
another client and a test of keepalive need all of that in their own hands.
"""

import base64
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

import grpc
import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
from google.rpc import status_pb2

PATIENCE_SECONDS = 20.0
_PREFIX = struct.Struct(">BI")
_READ_BYTES = 64 * 1024

Headers = Sequence[tuple[str, str]]


@dataclass
class Reply:
    """What came back for one call."""

    headers: dict[str, str] = field(default_factory=dict)
    """Initial metadata; empty if the server sent trailers only."""
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    reset: str = ""
    """The code of a RST_STREAM, if one came instead of an end."""

    @property
    def code(self) -> grpc.StatusCode:
        number = int(self.trailers["grpc-status"])
        return next(code for code in grpc.StatusCode if code.value[0] == number)

    @property
    def text(self) -> str:
        """The message of the status."""
        return unquote(self.trailers.get("grpc-message", ""))

    @property
    def message(self) -> bytes:
        """The one message of the body, uncompressed."""
        compressed, size = _PREFIX.unpack_from(self.body)
        assert not compressed and size == len(self.body) - _PREFIX.size
        return self.body[_PREFIX.size :]

    @property
    def status(self) -> status_pb2.Status:
        """The status with its details."""
        encoded = self.trailers.get("grpc-status-details-bin", "")
        padded = encoded + "=" * (-len(encoded) % 4)
        return status_pb2.Status.FromString(base64.b64decode(padded))


class Ended(Exception):
    """The server has ended the connection."""


class Connection:
    """One HTTP/2 connection, calls one after the other."""

    def __init__(self, address: str, ca: bytes | None = None) -> None:
        """Connect, over TLS if given the certificate authority to trust."""
        self.address = address
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host.strip("[]"), int(port)), PATIENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if ca is not None:
            context = ssl.create_default_context(cadata=ca.decode())
            context.set_alpn_protocols(["h2"])
            secured = context.wrap_socket(self._socket, server_hostname=host.strip("[]"))
            assert secured.selected_alpn_protocol() == "h2"
            self._socket = secured
        self._http = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True, header_encoding="utf-8", normalize_outbound_headers=False
            )
        )
        self._http.initiate_connection()
        self.pongs = 0
        """How many pings were answered."""
        self.goodbye: tuple[int, bytes] | None = None
        """Code and debug data of the server's GOAWAY."""
        self._replies: dict[int, Reply] = {}
        self._over: set[int] = set()
        self._flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def call(self, headers: Headers, message: bytes) -> Reply:
        """Make a unary call with exactly these headers, in their order. Raises `Ended`."""
        stream = self._http.get_next_available_stream_id()
        self._replies[stream] = Reply()
        self._http.send_headers(stream, list(headers))
        framed = _PREFIX.pack(0, len(message)) + message
        assert len(framed) <= self._http.local_flow_control_window(stream)
        size = self._http.max_outbound_frame_size
        for start in range(0, len(framed), size):
            self._http.send_data(stream, framed[start : start + size])
        self._http.end_stream(stream)
        self._flush()
        self.read_until(lambda: stream in self._over, "the end of a call")
        return self._replies.pop(stream)

    def settings(self) -> h2.settings.Settings:
        """What the server has said so far that it takes."""
        return self._http.remote_settings

    def ping(self) -> None:
        """Send a ping, wait for nothing."""
        self._http.ping(struct.pack(">Q", time.monotonic_ns() & 0xFFFFFFFF))
        self._flush()

    def read_pongs(self, count: int) -> None:
        """Wait until so many pings were answered. Raises `Ended`."""
        self.read_until(lambda: self.pongs >= count or self.goodbye is not None, "a pong")
        if self.goodbye is not None:
            raise Ended(self.goodbye)

    def read_until(self, condition: Callable[[], bool], what: str) -> None:
        """Take in frames until the condition is true. Raises `Ended`; fails after a while."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"waited in vain: {what}"
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(_READ_BYTES)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            if not data:
                raise Ended(self.goodbye)
            for event in self._http.receive_data(data):
                self._take(event)
            self._flush()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived():
                self._replies[event.stream_id].headers = _text(event.headers)
            case h2.events.TrailersReceived():
                self._replies[event.stream_id].trailers = _text(event.headers)
            case h2.events.DataReceived():
                self._replies[event.stream_id].body += event.data
                self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                reply = self._replies[event.stream_id]
                if not reply.trailers:
                    reply.headers, reply.trailers = {}, reply.headers
                self._over.add(event.stream_id)
            case h2.events.StreamReset():
                self._replies[event.stream_id].reset = str(event.error_code)
                self._over.add(event.stream_id)
            case h2.events.PingAckReceived():
                self.pongs += 1
            case h2.events.ConnectionTerminated():
                self.goodbye = (int(event.error_code or 0), event.additional_data or b"")

    def _flush(self) -> None:
        # The server may have hung up already: what it said is then still to be read.
        with contextlib.suppress(OSError):
            self._socket.sendall(self._http.data_to_send())


@contextlib.contextmanager
def connected(address: str, ca: bytes | None = None) -> Iterator[Connection]:
    """A connection that is closed afterwards."""
    made = Connection(address, ca)
    try:
        yield made
    finally:
        made.close()


def _text(headers: object) -> dict[str, str]:
    assert isinstance(headers, list)
    return {str(name): str(value) for name, value in headers}
