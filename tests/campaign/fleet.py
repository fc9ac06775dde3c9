"""The processes of one installation, each of which may be killed, frozen and started again."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil

from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2_grpc
from darkroom_pb.yandex.cloud.operation import operation_service_pb2_grpc
from database_server import DatabaseServer
from installation import until
from log_schema import check

LEASE_SECONDS = 1.0
"""The shortest there is: what a killed worker held goes on soonest."""

GONE_SECONDS = 10.0
"""How long what a process started may outlive it."""


class Member:
    """One process of the fleet: `darkroom serve` or `darkroom work`, and its successors."""

    def __init__(self, name: str, arguments: list[str], environment: dict[str, str], log: Path):
        self.name = name
        self.log = log
        self.frozen_until = 0.0
        """By the monotonic clock; 0 while it runs."""
        self._command = [sys.executable, "-m", "darkroom", *arguments]
        self.environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._logged = 0
        self._channel: tuple[int, Any] | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        self._logged = self.log.stat().st_size if self.log.exists() else 0
        self.frozen_until = 0.0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self.environment, stderr=log)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def ended(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll() if self._process is not None else 0

    def wait(self, seconds: float) -> int:
        assert self._process is not None
        return self._process.wait(seconds)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def channel(self) -> Any:
        """A channel to it; None while it does not serve. Thread-safe."""
        with self._lock:
            pid = self.pid
            if self._channel is None or self._channel[0] != pid:
                serving = self.said("serving")
                if not serving:
                    return None
                self._close()
                self._channel = pid, grpc.insecure_channel(serving["listen"])
            return self._channel[1]

    def hang_up(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._channel is not None:
            self._channel[1].close()
            self._channel = None

    def said(self, event: str) -> dict[str, Any]:
        """The first line with that event that the present process has logged, if any."""
        with self.log.open("rb") as log:
            log.seek(self._logged)
            for line in log:
                if f'"{event}"'.encode() in line and line.endswith(b"\n"):
                    return dict(json.loads(line))
        return {}


@dataclass
class Stub:
    """The two services of one API process."""

    images: Any
    operations: Any


@dataclass
class Fleet:
    """API processes and workers on one database and one content store."""

    folder: Path
    environment: dict[str, str]
    """Where database, contents and sources are."""
    apis: int
    workers: int
    """Workers that nobody supervises; the first API process has one more, as its child."""
    database: DatabaseServer | None = None
    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data = self.folder / "data"
        self.failpoints = self.folder / "failpoints"
        self.failpoints.mkdir()
        for number in range(self.apis):
            options = ["--listen", "127.0.0.1:0", "--tls-listen", ""]
            options += ["--workers", "0" if number else "1"]
            # What one of them begins ends at once, what the other begins is left to the workers.
            options += ["--operation-delay", "0.05" if number else "0"]
            self._add(f"api-{number}", ["serve", *options])
        for number in range(self.workers):
            self._add(f"worker-{number}", ["work"])

    def _add(self, name: str, arguments: list[str]) -> None:
        environment = {
            **os.environ,
            "DARKROOM_DATA_DIR": str(self.data),
            "DARKROOM_LEASE_SECONDS": str(LEASE_SECONDS),
            "DARKROOM_GRACE_SECONDS": "5",
            "DARKROOM_DRAIN_SECONDS": "0",
            "DARKROOM_FAILPOINTS": str(self.failpoints),
            **self.environment,
        }
        log = self.folder / f"{name}.log"
        self.members.append(Member(name, arguments, environment, log))

    @property
    def serving(self) -> list[Member]:
        return self.members[: self.apis]

    @property
    def working(self) -> list[Member]:
        return self.members[self.apis :]

    def start(self) -> None:
        for member in self.members:
            member.start()
            # The first one makes the database and the key.
            if member is self.members[0]:
                until(member.channel, f"{member.name} to serve")

    def stub(self, number: int) -> Stub | None:
        """The services of an API process; None while it does not serve."""
        channel = self.serving[number % self.apis].channel()
        if channel is None:
            return None
        return Stub(
            image_service_pb2_grpc.ImageServiceStub(channel),
            operation_service_pb2_grpc.OperationServiceStub(channel),
        )

    # --- crashes ----------------------------------------------------------------------------------

    def kill(self, member: Member) -> None:
        """As a crash does, and start it again."""
        if member.ended() is None:
            member.signal(signal.SIGKILL)
        member.wait(GONE_SECONDS)
        member.start()

    def drain(self, member: Member) -> int:
        """Have it end in order, and start it again; its exit status."""
        self.thaw(member)
        member.signal(signal.SIGTERM)
        status = until(lambda: self._drained(member), f"{member.name} to drain")[0]
        member.start()
        return int(status)

    def _drained(self, member: Member) -> tuple[int, ...]:
        # On its way it may come to a failpoint that freezes it.
        if (status := member.ended()) is None:
            member.signal(signal.SIGCONT)
            return ()
        return (status,)

    def freeze(self, member: Member, seconds: float) -> None:
        member.signal(signal.SIGSTOP)
        member.frozen_until = time.monotonic() + seconds

    def thaw(self, member: Member) -> None:
        if member.frozen_until:
            member.frozen_until = 0.0
            member.signal(signal.SIGCONT)

    def supervised(self) -> psutil.Process | None:
        """The worker below the first API process, if it is there at the moment."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.members[0].pid).children():
                return child
        return None

    def holder(self, pid: int) -> Member | None:
        """The member with that process id, None for a process below one."""
        return next((each for each in self.members if each.pid == pid), None)

    # --- the end ----------------------------------------------------------------------------------

    def stop(self) -> list[str]:
        """End everything in order; what went wrong with that, in words."""
        problems = []
        for member in self.members:
            self.thaw(member)
            if member.ended() is None:
                member.signal(signal.SIGTERM)
                member.signal(signal.SIGCONT)
        for member in self.members:
            member.hang_up()
            try:
                status = member.wait(30.0)
            except subprocess.TimeoutExpired:
                problems.append(f"{member.name} does not end")
            else:
                if status:
                    problems.append(f"{member.name} ended with status {status}")
        return problems + self.outlived()

    def outlived(self) -> list[str]:
        """What is still there although it was started by something that has ended, in words."""
        _, alive = psutil.wait_procs(list(self._remains()), timeout=GONE_SECONDS)
        found = []
        for process in alive:
            with contextlib.suppress(psutil.Error):
                found.append(f"process left behind: {process.cmdline()}")
                process.kill()
        return found

    def _remains(self) -> Iterator[psutil.Process]:
        """Processes that know of the folder."""
        folder = str(self.folder)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = [*process.cmdline(), *process.environ().values()]
                if process.pid != os.getpid() and any(folder in word for word in words):
                    yield process

    def collect(self, clean: Any) -> None:
        """Run one worker until `clean()` is true."""
        worker = self.working[0]
        worker.start()
        try:
            until(lambda: worker.said("working"), "the collector to begin")
            until(clean, "the collector to have collected everything")
            worker.signal(signal.SIGTERM)
            assert worker.wait(30.0) == 0
        finally:
            self._end(worker)

    def _end(self, member: Member) -> None:
        if member.ended() is None:
            member.signal(signal.SIGKILL)
            member.wait(GONE_SECONDS)

    @contextlib.contextmanager
    def running(self) -> Iterator["Fleet"]:
        """Whatever happens, nothing of it is left afterwards."""
        try:
            yield self
        finally:
            for member in self.members:
                self._end(member)
                member.hang_up()
            self.outlived()

    def log_lines(self) -> Iterator[dict[str, Any]]:
        """Every log line of every process; those that a kill cut off are left out."""
        for member in self.members:
            if not member.log.exists():
                continue
            for line in member.log.read_bytes().splitlines():
                try:
                    fields = json.loads(line)
                except ValueError:
                    continue
                check(fields)
                yield {"member": member.name, **fields}
