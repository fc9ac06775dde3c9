"""Keeps worker processes running beside `serve`, and never lets one outlive it."""

import contextlib
import logging
import os
import secrets
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from darkroom.domain.errors import Failure

log = logging.getLogger(__name__)

BEATS = 5
"""A supervised worker writes a byte, or a line of what it has counted, this often in the time after
which it counts as frozen."""

BEAT = b"."
_PIPE_BYTES = 65536

STOP_CLAIMING = signal.SIGUSR1
"""What a supervised worker is sent that shall finish what it runs, begin nothing and end."""

_RESTART_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Pauses before restarts in a row; a worker that lived for a minute starts the row anew."""

LAST_SECONDS = 2.0
"""How long killed workers may take to be gone and their leases to be given back."""

_START_SECONDS = 30.0
"""How long a new worker may take to its first beat."""


def new_owner() -> str:
    """A name for a worker that no other worker ever had."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Supervisor:
    """Runs `count` workers, each watched by a thread of its own.

    Two pipes join parent and child. The child reads one: its end means that the parent is gone,
    and the child ends too. The parent reads the other: a child that sends no beat for
    `silence_seconds` is frozen (perhaps inside a write transaction, blocking every writer), so it
    is killed. Once a child is reaped nothing of it can write any more, so what it held is given
    back at once instead of waiting for its leases to expire.
    """

    def __init__(
        self,
        count: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        silence_seconds: float,
        died: Callable[[str], object],
        told: Callable[[str, bytes], object] = lambda _owner, _line: None,
    ) -> None:
        """`command` is started with `--owner NAME --beat-fd N` added; `died` gets the owner.

        A worker may beat with lines instead of single bytes: `told` gets the owner and each line.
        """
        self._command = list(command)
        self._environment = dict(environment)
        self._silence_seconds = silence_seconds
        self._died = died
        self._told = told
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep_one, name=f"worker-{number}", daemon=True)
            for number in range(count)
        ]
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[bytes]] = set()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop_claiming(self) -> None:
        """Have no worker begin anything more, and start none anew. What they run goes on."""
        self._stopping.set()
        self._signal(STOP_CLAIMING)

    def stop(self, grace_seconds: float) -> None:
        """Ask every worker to give its lease back and end; kill those that do not in time.

        What is left to do then, with a database that may be away, takes at most `LAST_SECONDS`.
        """
        self._stopping.set()
        self._signal(signal.SIGTERM)
        self._join(grace_seconds)
        self._signal(signal.SIGKILL)
        self._join(LAST_SECONDS)

    def _join(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            for child in self._children:
                # A stopped child would sit on its SIGTERM: let it run to hear it.
                child.send_signal(number)
                if number is signal.SIGTERM:
                    child.send_signal(signal.SIGCONT)

    def _keep_one(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                self._run_one()
            except Exception:
                # For instance no memory for another process: nobody else would start it again.
                log.exception("worker cannot be kept running")
            failures = 0 if time.monotonic() - started > 60 else failures + 1
            pause = _RESTART_SECONDS[min(failures, len(_RESTART_SECONDS)) - 1] if failures else 0.0
            self._stopping.wait(pause)

    def _run_one(self) -> None:
        owner = new_owner()
        beat_read, beat_write = os.pipe()
        try:
            with self._lock:
                if self._stopping.is_set():
                    return
                child = subprocess.Popen(
                    [*self._command, "--owner", owner, "--beat-fd", str(beat_write)],
                    env=self._environment,
                    stdin=subprocess.PIPE,
                    pass_fds=(beat_write,),
                )
                self._children.add(child)
            os.close(beat_write)
            beat_write = -1
            fields: dict[str, Any] = {"worker": owner, "pid": child.pid}
            log.info("worker started", extra={"fields": fields})
            self._watch(child, beat_read, owner)
            status = child.wait()
            log.info("worker ended", extra={"fields": {**fields, "status": status}})
        finally:
            os.close(beat_read)
            if beat_write >= 0:
                os.close(beat_write)
        with self._lock:
            self._children.discard(child)
        if child.stdin is not None:
            with contextlib.suppress(OSError):
                child.stdin.close()
        try:
            self._died(owner)
        except Failure as failure:
            # Its leases expire by themselves: slower, never wrong.
            fields["reason"] = failure.reason
            log.warning("leases of an ended worker not given back", extra={"fields": fields})
        except Exception:
            log.exception("leases of an ended worker not given back")

    def _watch(self, child: subprocess.Popen[bytes], beat_read: int, owner: str) -> None:
        """Until the child closed its end of the pipe or was killed for being silent."""
        patience = _START_SECONDS
        pipe = select.poll()  # select() knows no descriptor above 1023, connections use them up
        pipe.register(beat_read, select.POLLIN)
        heard = b""
        while True:
            if not pipe.poll(patience * 1000):
                log.warning("worker is silent and is killed", extra={"fields": {"pid": child.pid}})
                child.kill()
                return
            beat = os.read(beat_read, _PIPE_BYTES)
            if not beat:
                return
            patience = self._silence_seconds
            *lines, heard = (heard + beat).split(b"\n")
            for line in lines:
                self._told(owner, line.lstrip(BEAT))
            heard = heard.lstrip(BEAT)
