"""Envoy as a child of `darkroom gateway`: by itself it drops all calls when it is told to end."""

import contextlib
import fcntl
import http.client
import json
import logging
import math
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from darkroom.cli import signals
from darkroom.gateway.parts import Document
from darkroom.worker import tether

log = logging.getLogger(__name__)

_LOG_FLUSH_MILLISECONDS = 1000
_ANSWER_SECONDS = 5.0
_LOOK_SECONDS = 0.05
_ACTIVE = "http.gateway.downstream_rq_active"
"""Envoy's name for the number of calls under way; `gateway` is our own `stat_prefix`."""
_PRIVATE_SOCKET = 0o600
_FOLDER = "darkroom-gateway-"


def run(
    program: Path,
    document: Document,
    log_level: str,
    *,
    drain_seconds: float,
    grace_seconds: float,
) -> int:
    """Run Envoy until it ends or a SIGTERM or SIGINT has come; its exit status.

    Told to end it first takes calls for `drain_seconds`, rounded up to whole ones, in which it asks
    its clients to connect anew; then it takes no more, and those under way may finish within
    `grace_seconds`. The document's administration interface is used if it has one.
    """
    drain_seconds = math.ceil(drain_seconds)
    with _private_folder() as folder:
        if "admin" not in document:
            pipe = {"path": str(folder / "admin"), "mode": _PRIVATE_SOCKET}
            document = document | {"admin": {"address": {"pipe": pipe}}}
        process = _started(program, document, log_level, drain_seconds)
        stop = threading.Event()
        signals.on({signal.SIGTERM: stop.set, signal.SIGINT: stop.set})

        def wait() -> None:
            process.wait()
            stop.set()

        threading.Thread(target=wait, name="envoy", daemon=True).start()
        stop.wait()
        if process.poll() is None:
            log.info("draining")
            try:
                _drain(document["admin"]["address"], drain_seconds, grace_seconds)
            except (OSError, http.client.HTTPException, ValueError):
                log.warning("calls are cut off: Envoy does not say how many are under way")
            process.terminate()
        status = process.wait()
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """One for this process alone. Those of gateways that were killed are removed."""
    for old in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError):  # somebody else's, or in use
            lock = _locked(old)
            shutil.rmtree(old, ignore_errors=True)
            os.close(lock)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_FOLDER))
        with contextlib.suppress(OSError):
            lock = _locked(folder)
            if folder.exists():
                break
            os.close(lock)
        # Another gateway took it for one that is left over.
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked(folder: Path) -> int:
    """A descriptor that holds a lock on the folder. Raises `OSError` if somebody else does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _started(
    program: Path, document: Document, log_level: str, drain_seconds: int
) -> "subprocess.Popen[bytes]":
    # Two descriptors a call, one towards each side.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    descriptor = _in_memory(json.dumps(document))
    try:
        return subprocess.Popen(
            [
                *("envoy", "--config-path", f"/dev/fd/{descriptor}"),
                # Its shared memory would tie gateways on one machine together.
                "--disable-hot-restart",
                *("--drain-time-s", str(drain_seconds), "--drain-strategy", "immediate"),
                *("--log-level", log_level),
                *("--file-flush-interval-msec", str(_LOG_FLUSH_MILLISECONDS)),
            ],
            executable=program,
            pass_fds=[descriptor],
            # An interrupt from the terminal is for this process, which drains it first.
            process_group=0,
            # Safe: this process has one thread.
            preexec_fn=tether.die_with_parent,
        )
    finally:
        os.close(descriptor)


def _in_memory(text: str) -> int:
    """A descriptor under which Envoy, and nobody else, reads the text.

    On the command line it would fill every listing of processes; a file would be left behind.
    Envoy takes what has no ending that it knows as JSON, and of /dev nothing but /dev/fd.
    """
    descriptor = os.memfd_create("gateway.json", 0)
    with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
        file.write(text)
    return descriptor


def _drain(admin: Document, drain_seconds: float, grace_seconds: float) -> None:
    """Raises `OSError`, `HTTPException` or `ValueError` if Envoy does not answer as it should."""
    closed = time.monotonic() + drain_seconds
    _ask(admin, "POST", "/drain_listeners?graceful")
    while (now := time.monotonic()) < closed + grace_seconds:
        if now >= closed and not _active_calls(admin):
            return
        time.sleep(_LOOK_SECONDS)
    log.warning("calls are cut off: they took longer than the grace period")


def _active_calls(admin: Document) -> int:
    name, _, value = _ask(admin, "GET", f"/stats?filter=^{_ACTIVE}$").partition(":")
    if name != _ACTIVE:
        raise ValueError(f"Envoy has no {_ACTIVE}")
    return int(value)


def _ask(admin: Document, method: str, path: str) -> str:
    connection = _connection(admin)
    try:
        connection.request(method, path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def _connection(admin: Document) -> http.client.HTTPConnection:
    if "pipe" in admin:
        return _LocalConnection(admin["pipe"]["path"])
    address = admin["socket_address"]
    return http.client.HTTPConnection(
        address["address"], address["port_value"], timeout=_ANSWER_SECONDS
    )


class _LocalConnection(http.client.HTTPConnection):
    """HTTP through a socket of the file system."""

    def __init__(self, path: str) -> None:
        super().__init__("envoy")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_ANSWER_SECONDS)
        self.sock.connect(self._path)
