"""`darkroom gateway` in a process of its own, and calls through it."""

import contextlib
import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from installation import PATIENCE_SECONDS, until
from log_schema import check_all
from published import faults, served_at


@dataclass(frozen=True)
class Reply:
    """One HTTP reply; `body` is what its JSON says."""

    status: int
    headers: dict[str, str]
    body: Any


class Gateway:
    """A running gateway."""

    keeps_promises = True
    """Whether every answer must be one that the OpenAPI document has."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        self._log = log
        (port,) = until(self._ports, "the gateway to listen")
        self.address = f"127.0.0.1:{port}"

    def _envoys(self) -> list[psutil.Process]:
        assert self._process.poll() is None, self.log_text()
        children = psutil.Process(self._process.pid).children()
        return [each for each in children if each.name() == "envoy"]

    def _ports(self) -> set[int]:
        connections = [each for envoy in self._envoys() for each in envoy.net_connections("tcp")]
        return {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}

    def envoy(self) -> psutil.Process:
        """The process that serves."""
        (found,) = self._envoys()
        return found

    def log_text(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self) -> int:
        """Wait for its end; returns its status."""
        return self._process.wait(PATIENCE_SECONDS)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait for its end; returns its status."""
        self.send(number)
        return self.ended()

    def raw(
        self, method: str, path: str, body: str | bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """One call; underscores in the names of headers are hyphens."""
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, sent)
            reply = connection.getresponse()
            return reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One REST call; a body that is no text is sent as JSON."""
        sent = body if body is None or isinstance(body, str) else json.dumps(body)
        status, received, content = self.raw(method, path, sent, **headers)
        assert received["content-type"] == "application/json", (received, content)
        reply = Reply(status, received, json.loads(content))
        found = served_at(method, path)
        if found is not None and self.keeps_promises:
            assert faults(reply.body, found.answer(status)) == [], reply
        return reply


@contextlib.contextmanager
def gateway(folder: Path, upstream: str, *flags: str) -> Iterator[Gateway]:
    """A gateway in front of a server, ended whatever happens."""
    log = folder / "gateway.log"
    command = [sys.executable, "-m", "darkroom", "gateway", "--gateway-upstream", upstream]
    # Nobody stands before it who would have to notice its end.
    command += ["--gateway-listen", "127.0.0.1:0", "--drain-seconds", "0", *flags]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stderr=output)
    try:
        yield Gateway(process, log)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(PATIENCE_SECONDS)
    check_all(log.read_text(encoding="utf-8"))
