"""A real SeaweedFS for contents, and a proxy before it that breaks what a test wants broken."""

import contextlib
import functools
import os
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore import exceptions
from botocore.config import Config

from darkroom.cli import seaweedfs
from darkroom.imaging.s3_calls import CallLimits, Calls
from installation import until

BUCKET = "contents"
_HEAD_END = b"\r\n\r\n"
_PIECE_BYTES = 64 * 1024
_LINGER_NOT = b"\1\0\0\0\0\0\0\0"
"""Closing sends a reset."""


@dataclass(frozen=True)
class Storage:
    """An object storage that runs."""

    running: seaweedfs.Running

    @property
    def port(self) -> int:
        return self.running.port

    def environment(self, port: int | None = None) -> dict[str, str]:
        """The variables that lead any AWS client to it, or to the proxy at a port."""
        return {
            **replace(self.running, port=port or self.port).environment(),
            # Nothing of whoever runs the tests.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @contextlib.contextmanager
    def in_environment(self, port: int | None = None) -> Iterator[None]:
        """Whoever reads the AWS variables in the block is led here."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment(port).items():
                patch.setenv(name, value)
            yield

    def calls(self, port: int | None = None, limits: CallLimits | None = None) -> Calls:
        """What a content store is made of, led to the storage or to the proxy at a port."""
        with self.in_environment(port):
            return Calls(BUCKET, limits)

    @functools.cached_property
    def client(self) -> Any:
        """For looking past the content store."""
        with self.in_environment():
            config = Config(retries={"total_max_attempts": 1})
            return botocore.session.Session().create_client("s3", config=config)

    def keys(self, prefix: str) -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return sorted(each["Key"] for each in found.get("Contents", ()))

    def uploads(self, prefix: str) -> list[str]:
        """Keys of the multipart uploads that are neither completed nor aborted."""
        found = self.client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)
        return sorted(each["Key"] for each in found.get("Uploads", ()))


@contextlib.contextmanager
def object_storage(folder: Path) -> Iterator[Storage]:
    """Run SeaweedFS on loopback, with an empty bucket."""
    with seaweedfs.running(folder / "storage") as running:
        storage = Storage(running)
        until(lambda: _has_bucket(storage), "the object storage")
        yield storage


def _has_bucket(storage: Storage) -> bool:
    assert storage.running.process.poll() is None
    try:
        storage.client.create_bucket(Bucket=BUCKET)
    except exceptions.ClientError as error:
        return str(error.response["Error"]["Code"]).startswith("BucketAlready")
    except (exceptions.ConnectionError, exceptions.HTTPClientError):
        return False
    return True


# --- faults ---------------------------------------------------------------------------------------


@dataclass
class Request:
    """One request on its way through the proxy."""

    method: str
    target: str
    body_bytes: int
    head: bytes
    client: socket.socket
    proxy: "FaultyProxy"
    early: bytes = b""
    """What of the body came with the head."""

    @property
    def is_part(self) -> bool:
        return self.method == "PUT" and "partNumber=" in self.target

    @property
    def is_completion(self) -> bool:
        return self.method == "POST" and "uploadId=" in self.target

    @property
    def is_read(self) -> bool:
        return self.method == "GET" and "?" not in self.target

    def body(self, count: int | None = None) -> Iterator[bytes]:
        """The body as it arrives, or as much of it."""
        left = self.body_bytes if count is None else min(count, self.body_bytes)
        while left:
            piece, self.early = self.early[:left], self.early[left:]
            piece = piece or self.client.recv(min(_PIECE_BYTES, left))
            if not piece:
                return
            left -= len(piece)
            yield piece

    # --- what a fault may do with it: each is the end of the request ------------------------------

    def refuse(self, status: int, code: str) -> None:
        for _ in self.body():
            pass
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
        head = f"HTTP/1.1 {status} No\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        self.client.sendall((head + text).encode())

    def reset(self, after_bytes: int = 0) -> None:
        """Cut the connection off after so much of the body, as a crashed server does."""
        for _ in self.body(after_bytes):
            pass
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self.client.close()

    def stall(self, after_bytes: int = 0) -> None:
        """Take so much of the body, then nothing, and never answer."""
        for _ in self.body(after_bytes):
            pass
        self.proxy.stalled.set()
        self.proxy.ended.wait(60)

    def forward(
        self,
        *,
        corrupt: bool = False,
        lose_answer: bool = False,
        answer_bytes: int | None = None,
        then_stall: bool = False,
    ) -> None:
        """Let the storage answer; then break the request or the answer as told."""
        with socket.create_connection(("127.0.0.1", self.proxy.storage.port)) as upstream:
            upstream.sendall(self.head)
            for number, piece in enumerate(self.body()):
                if corrupt and number == 0:
                    piece = bytes([piece[0] ^ 1]) + piece[1:]
                upstream.sendall(piece)
            if lose_answer:
                assert upstream.recv(_PIECE_BYTES)
                self.reset()
                return
            sent = 0
            while answer := upstream.recv(_PIECE_BYTES):
                if answer_bytes is not None:
                    answer = answer[: answer_bytes - sent]
                self.client.sendall(answer)
                sent += len(answer)
                if sent == answer_bytes:
                    if then_stall:
                        self.stall()
                    return


Script = Callable[[Request], bool]
"""Called with each request, one at a time for each kind; True if it dealt with it."""


class FaultyProxy:
    """Stands between a client and the storage; forwards what its script leaves alone."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.port = 0
        self.begin(lambda request: False)

    def begin(self, script: Script) -> None:
        """Follow that script from now on."""
        self._script = script
        self.stalled = threading.Event()
        """Set once a request is stalled."""
        self.ended = threading.Event()
        """Lets stalled requests go."""

    @contextlib.contextmanager
    def running(self) -> Iterator["FaultyProxy"]:
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                # The client may hang up at any time.
                with contextlib.suppress(OSError):
                    proxy._handle(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

        with Server(("127.0.0.1", 0), Handler) as server:
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            try:
                yield self
            finally:
                self.ended.set()
                server.shutdown()
                thread.join()

    def _handle(self, client: socket.socket) -> None:
        data = b""
        while _HEAD_END not in data:
            piece = client.recv(_PIECE_BYTES)
            if not piece:
                return
            data += piece
        head, _, early = data.partition(_HEAD_END)
        found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if re.search(rb"(?i)\r\nexpect:", head):
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", head)
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        # One request a connection: where an answer ends is seen by its end.
        head += b"\r\nConnection: close" + _HEAD_END
        body_bytes = int(found[1]) if found else 0
        request = Request(method, target, body_bytes, head, client, self, early)
        if not self._script(request):
            request.forward()


def first(
    matches: Callable[[Request], bool], fault: Callable[[Request], None], times: int = 1
) -> Script:
    """A script: that fault for the first requests of a kind."""
    lock = threading.Lock()
    left = times

    def script(request: Request) -> bool:
        nonlocal left
        if not matches(request):
            return False
        with lock:
            if not left:
                return False
            left -= 1
        fault(request)
        return True

    return script
