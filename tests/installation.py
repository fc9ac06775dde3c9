"""A real installation in subprocesses, for tests that start, kill and look at processes."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from darkroom_pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2, image_service_pb2_grpc
from darkroom_pb.yandex.cloud.operation import (
    operation_pb2,
    operation_service_pb2,
    operation_service_pb2_grpc,
)
from leaks import leaks
from log_schema import check_all

PATIENCE_SECONDS = 30.0
_PROGRAM = (sys.executable, "-m", "darkroom")


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Poll until the condition is true and return its value; fail naming what never came."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.01)
    return value


def children(pid: int) -> list[int]:
    """Pids of the direct children of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(each) for each in (task / "children").read_text().split()]
    return found


def descendants(pid: int) -> list[int]:
    """Pids of everything below a process."""
    below = children(pid)
    return below + [each for child in below for each in descendants(child)]


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class Installation:
    """`darkroom serve` on a data folder of its own; may be killed and started again."""

    def __init__(self, folder: Path, source_origin: str, **settings: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.failpoints = folder / "failpoints"
        self.failpoints.mkdir()
        self.log_path = folder / "serve.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.prefix: list[str] = []
        """A command that runs the server's."""
        self.options: list[str] = []
        """More options of the server's."""
        self.inherited: list[int] = []
        """Descriptors that the server is started with."""
        self.source_origin = source_origin
        self.listen = "127.0.0.1:0"
        self.settings = settings
        """By variable; those of the next start may be others."""
        self.channel: grpc.Channel | None = None

    # --- processes --------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """What every process of it is started with."""
        return {
            **os.environ,
            "DARKROOM_DATA_DIR": str(self.data),
            "DARKROOM_SOURCE_ALLOW": self.source_origin + "/",
            "DARKROOM_FAILPOINTS": str(self.failpoints),
            "DARKROOM_LEASE_SECONDS": "2",
            "DARKROOM_TLS_LISTEN": "",
            "DARKROOM_DRAIN_SECONDS": "0",
            **self.settings,
        }

    @contextlib.contextmanager
    def worker_beside(self, log_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
        """`darkroom work`, which nobody supervises; killed at the end, frozen or not."""
        with log_path.open("wb") as log:
            process = subprocess.Popen([*_PROGRAM, "work"], env=self.environment(), stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
        check_all(log_path.read_text(encoding="utf-8"))

    def freeze(self, pid: int) -> None:
        """Stop a process of it between its transactions: in one it would block all others."""

        def stopped() -> bool:
            os.kill(pid, signal.SIGSTOP)
            with contextlib.closing(sqlite3.connect(self.data / "metadata.sqlite")) as database:
                try:
                    database.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    os.kill(pid, signal.SIGCONT)
                    return False
            return True

        until(stopped, "a moment without a transaction")

    def start(self) -> None:
        """Start and wait until SERVING."""
        logged = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *_PROGRAM, "serve", "--listen", self.listen, *self.options],
                env=self.environment(),
                stderr=log,
                pass_fds=self.inherited,
            )

        def serving() -> dict[str, Any] | None:
            assert self.process is not None and self.process.poll() is None, self.log_text()
            for line in self.log_lines(logged):
                if line["event"] == "serving":
                    return line
            return None

        started = until(serving, "the server to serve")
        self.address = str(started["listen"])
        self.metrics_address = str(started.get("metrics_listen", ""))
        self.tls_address = str(started.get("tls_listen", ""))
        self.channel = grpc.insecure_channel(self.address)
        self.images = image_service_pb2_grpc.ImageServiceStub(self.channel)
        self.operations = operation_service_pb2_grpc.OperationServiceStub(self.channel)

    @property
    def tls_endpoint(self) -> str:
        """Of the TLS listener, by a name that every client knows how to compare."""
        return f"localhost:{self.tls_address.rpartition(':')[2]}"

    @property
    def ca_file(self) -> Path:
        """Of the authority that clients of it must trust, where the server makes it itself."""
        return self.data / "tls" / "ca.pem"

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal `serve` itself and wait for its end; returns its status."""
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE_SECONDS)
        if self.channel is not None:
            self.channel.close()
        return status

    def stop(self) -> None:
        """End whatever is left of it, by pid, and look at every line that it has logged.

        And for secrets in clear, there and in all its files but images.
        """
        if self.process is not None and self.process.poll() is None:
            below = descendants(self.process.pid)
            try:
                self.kill(signal.SIGTERM)
            except subprocess.TimeoutExpired:
                self.process.kill()  # that fails the test, but must not outlive it
                self.process.wait()
                raise
            assert not [pid for pid in below if alive(pid)]
        if self.log_path.exists():
            check_all(self.log_text())
            assert leaks(self.data, self.log_path) == []

    def workers(self) -> list[int]:
        """Pids of the worker processes."""
        assert self.process is not None
        return children(self.process.pid)

    def worker(self) -> int:
        """The pid of the one worker, once it is there."""
        (pid,) = until(self.workers, "a worker")
        return int(pid)

    # --- logs -------------------------------------------------------------------------------------

    def log_text(self) -> str:
        return self.log_path.read_text(encoding="utf-8")

    def log_lines(self, offset: int = 0, path: Path | None = None) -> list[dict[str, Any]]:
        """Every complete line, parsed: a line that is no JSON fails the test."""
        text = (path or self.log_path).read_bytes()[offset:].decode()
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    # --- failpoints -------------------------------------------------------------------------------

    def arm(self, name: str, action: str = "") -> None:
        (self.failpoints / f"{name}.arm").write_text(action)

    def wait_hit(self, name: str) -> None:
        until((self.failpoints / f"{name}.hit").exists, f"failpoint {name}")

    def let_go(self, name: str) -> None:
        (self.failpoints / f"{name}.go").touch()

    # --- the API ----------------------------------------------------------------------------------

    def create(
        self, uri: str, metadata: tuple[tuple[str, str], ...] = (), **fields: Any
    ) -> operation_pb2.Operation:
        request = image_service_pb2.CreateImageRequest(folder_id="folder", uri=uri, **fields)
        return self.images.Create(request, metadata=metadata)

    def operation(self, operation_id: str) -> operation_pb2.Operation:
        request = operation_service_pb2.GetOperationRequest(operation_id=operation_id)
        return self.operations.Get(request)

    def cancel(self, operation_id: str) -> operation_pb2.Operation:
        request = operation_service_pb2.CancelOperationRequest(operation_id=operation_id)
        return self.operations.Cancel(request)

    def done(self, operation_id: str) -> operation_pb2.Operation:
        """The operation, once it is done."""

        def finished() -> operation_pb2.Operation | None:
            operation = self.operation(operation_id)
            return operation if operation.done else None

        ended: operation_pb2.Operation = until(finished, "the operation to end")
        return ended

    def image(self, image_id: str) -> image_pb2.Image:
        return self.images.Get(image_service_pb2.GetImageRequest(image_id=image_id))

    def listed(self) -> list[image_pb2.Image]:
        request = image_service_pb2.ListImagesRequest(folder_id="folder")
        return list(self.images.List(request).images)

    # --- files ------------------------------------------------------------------------------------

    def contents(self) -> list[Path]:
        return [path for path in (self.data / "contents").rglob("*") if path.is_file()]

    def scratch(self) -> list[Path]:
        return list((self.data / "contents.scratch").glob("*"))

    def export(self, image_id: str, target: Path) -> None:
        """`darkroom image export`."""
        result = self.command("image", "export", image_id, str(target))
        assert result.returncode == 0, result.stderr

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command on this installation, with its settings, however it ends."""
        return subprocess.run(
            [sys.executable, "-m", "darkroom", *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )


@contextlib.contextmanager
def installation(folder: Path, source_origin: str, **settings: str) -> Iterator[Installation]:
    """A running installation that is ended whatever happens."""
    made = Installation(folder, source_origin, **settings)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def same_content(first: Path, first_format: str, second: Path, second_format: str) -> bool:
    """Whether two image files hold the same guest-visible bytes, by `qemu-img compare`."""
    command = ["qemu-img", "compare", "-f", first_format, "-F", second_format]
    result = subprocess.run([*command, str(first), str(second)], capture_output=True, check=False)
    return result.returncode == 0
