"""A server of a test run's own: started on free ports, wiped between tests, ended with the run.

It imports the standard library only: it lives in the process of the tests, which may have the
official SDK's messages loaded, and two copies of one .proto file do not fit into one process.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import unittest
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

_START_SECONDS = 30.0
_ANSWER_SECONDS = 30.0
_STOP_SECONDS = 5.0
_LOOPBACK = "127.0.0.1"
_DEFAULTS: Mapping[str, object] = {
    "listen": f"{_LOOPBACK}:0",
    "tls_listen": f"{_LOOPBACK}:0",
    "drain_seconds": 0,
    "grace_seconds": 1,
}


class ServerError(Exception):
    """The server did not start, ended early or did not do as told; the text has what it said."""


class Darkroom:
    """`darkroom serve` in a subprocess. As a context manager: started on entry, ended on exit.

    It ends when this process does, however that comes about.
    """

    endpoint: str
    """HOST:PORT of the TLS listener: what the official SDKs take for their endpoint."""
    plaintext_endpoint: str
    """HOST:PORT of the plaintext listener."""
    token: str
    """An IAM token that the server accepts."""
    folder_id: str
    """A folder that exists; so does any other."""

    def __init__(self, folder: Path, settings: Mapping[str, object] | None = None) -> None:
        """
        Args:
            folder: takes the server's log and its data, in `data`, which must not exist.
            settings: what differs from the defaults of `darkroom serve`, by name, for instance
                `{"operation_delay": 0.5}`; a list for what is repeatable. Data are always kept
                in `folder`, and nothing is taken from DARKROOM_ variables.
        """
        self._data = folder / "data"
        self._settings = {**_DEFAULTS, **(settings or {}), "data_dir": self._data}
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def start(self) -> None:
        """Start and wait until it serves. Raises `ServerError`."""
        try:
            self._data.mkdir(parents=True)
        except FileExistsError:
            raise ServerError(f"{self._data} exists: somebody else's data are in it") from None
        ours, theirs = socket.socketpair()
        self._line = ours
        command = [sys.executable, "-m", "darkroom", "serve", f"--control-fd={theirs.fileno()}"]
        with theirs, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *_flags(self._settings)],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                # An interrupt at the terminal is the test run's to handle.
                process_group=0,
            )
        try:
            told = self._answer(_START_SECONDS)
        except BaseException:
            self.stop()
            raise
        self.plaintext_endpoint = told["listen"]
        # By its name, which every client's TLS library knows how to compare.
        _, _, tls_port = told.get("tls_listen", "").rpartition(":")
        self.endpoint = f"localhost:{tls_port}" if tls_port else ""
        self._ca_file = told["ca_file"]
        self.token, self.folder_id = told["token"], told["folder_id"]

    def stop(self) -> None:
        """End it and remove its data; the log stays. Does nothing to one that is not there."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._line is not None:
            self._line.close()
            self._line = None
            shutil.rmtree(self._data, ignore_errors=True)

    def __enter__(self) -> "Darkroom":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def ca_file(self) -> Path:
        """PEM file of the authority that clients of `endpoint` must trust."""
        assert self._ca_file, "the settings say that the server makes no certificate"
        return Path(self._ca_file)

    @property
    def root_certificates(self) -> bytes:
        """What `ca_file` holds."""
        return self.ca_file.read_bytes()

    def reset(self) -> None:
        """Have it forget all images, disks, snapshots, operations, idempotency keys and contents.

        Images of its catalogue are made anew. Raises `ServerError`.
        """
        self._order("reset")

    @cached_property
    def import_obstacle(self) -> str:
        """Why no image can be made from a `uri` here, for instance without qemu-img; else empty.

        Everything that moves no bytes works all the same.
        """
        return str(self._order("obstacle")["obstacle"])

    def require_imports(self) -> None:
        """Skip the calling test if no image can be made from a `uri` here."""
        if self.import_obstacle:
            raise unittest.SkipTest(self.import_obstacle)

    def output(self, offset: int = 0) -> str:
        """What the server and its worker have written, from that byte on."""
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")
        return ""

    @property
    def output_bytes(self) -> int:
        """How much the server and its worker have written."""
        return self._log.stat().st_size if self._log.exists() else 0

    def _order(self, word: str) -> dict[str, Any]:
        assert self._line is not None, "the server was not started"
        with contextlib.suppress(OSError):  # it has ended: the answer says so
            self._line.sendall(word.encode() + b"\n")
        answer = self._answer(_ANSWER_SECONDS)
        if "error" in answer:
            raise ServerError(self._with_output(answer["error"]))
        return answer

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._line is not None and self._process is not None
        deadline, received = time.monotonic() + seconds, b""
        while not received.endswith(b"\n"):
            self._line.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._line.recv(65536)
            except TimeoutError:
                raise ServerError(self._with_output(f"no answer within {seconds:g} s")) from None
            except OSError:
                data = b""
            if not data:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_STOP_SECONDS)
                status = self._process.returncode
                raise ServerError(self._with_output(f"the server has ended, status {status}"))
            received += data
        return dict(json.loads(received))

    def _with_output(self, problem: str) -> str:
        return f"{problem}\n{self.output()[-4000:]}".rstrip()


def _flags(settings: Mapping[str, object]) -> Iterator[str]:
    for name, value in settings.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            yield f"--{name.replace('_', '-')}={each}"


def _environment() -> dict[str, str]:
    """Ours, without what is meant for another server or for the tests' own interpreter."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("DARKROOM_") and name != "PYTHONWARNINGS"
    }
    # Otherwise a `grpc.py` of the tests' working folder would be imported instead of grpc.
    return {**kept, "PYTHONSAFEPATH": "1"}
