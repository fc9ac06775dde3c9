"""One attempt at one operation: the lease kept alive beside the work, the end written once."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from darkroom.domain.errors import Failure
from darkroom.domain.operation import Claim
from darkroom.domain.work import Interrupted, Reason
from darkroom.storage.port import MetadataStore
from darkroom.telemetry.failpoints import failpoint
from darkroom.worker.phases import Phases

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeaseSettings:
    """Times in seconds. A lease is renewed several times before it could expire."""

    lease_seconds: float = 10.0
    heartbeat_seconds: float = 2.0
    notice_seconds: float = 0.25
    """How often the worker looks for a cancellation: well under the promised second."""


class AttemptWatch:
    """`PhasedWatch` of one claim. The heartbeat thread interrupts, the work asks.

    The worker fences itself: if no heartbeat got through for a whole lease, it must assume that
    somebody else has the operation by now, and stops.
    """

    def __init__(
        self,
        store: MetadataStore,
        claim: Claim,
        settings: LeaseSettings,
        draining: threading.Event,
        phases: Phases,
    ) -> None:
        self._store = store
        self._claim = claim
        self._settings = settings
        self._draining = draining
        self._phases = phases
        self._event = threading.Event()
        self._ended = threading.Event()
        self._reason: Reason | None = None
        self._phase = ""
        self._done_bytes = 0
        self._total_bytes: int | None = None
        self._renewed = time.monotonic()

    @property
    def event(self) -> threading.Event:
        return self._event

    def check(self) -> None:
        if self._event.is_set():
            assert self._reason is not None
            raise Interrupted(self._reason)

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        self._done_bytes, self._total_bytes = done_bytes, total_bytes

    def enter(self, phase: str) -> None:
        self.check()
        self._phases.enter(phase)
        self._phase, self._done_bytes, self._total_bytes = phase, 0, None
        with contextlib.suppress(Failure):  # the heartbeat thread goes on trying
            self._beat()
        self.check()

    def interrupt(self, reason: Reason) -> None:
        """Stop the work; the first reason stays."""
        if self._reason is None:
            self._reason = reason
            self._event.set()

    @contextlib.contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Renew the lease in a thread of its own while the block runs."""
        thread = threading.Thread(target=self._keep, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _keep(self) -> None:
        next_beat = time.monotonic() + self._settings.heartbeat_seconds
        while not self._ended.wait(self._settings.notice_seconds):
            if self._draining.is_set():
                self.interrupt(Reason.DRAINING)
            try:
                if time.monotonic() >= next_beat:
                    next_beat = time.monotonic() + self._settings.heartbeat_seconds
                    self._beat()
                else:
                    self._look()
            except Failure:
                pass  # the database will answer again, or the lease is given up
            except Exception:
                # Without this thread nobody would notice that the lease is lost.
                log.exception("heartbeat failed")
            self._give_up_if_expired()

    def _look(self) -> None:
        operation = self._store.get_operation(self._claim.lease.operation_id)
        if operation is None or operation.fence != self._claim.lease.fence:
            self.interrupt(Reason.FENCED)
        elif operation.cancel_requested:
            self.interrupt(Reason.CANCELLED)

    def _give_up_if_expired(self) -> None:
        overdue = time.monotonic() - self._renewed > self._settings.lease_seconds
        if overdue and not self._event.is_set():
            log.warning("lease given up: the database is out of reach")
            self.interrupt(Reason.FENCED)

    def _beat(self) -> None:
        started = time.monotonic()
        failpoint("operation.renew")
        beat = self._store.heartbeat(
            self._claim.lease, self._phase, self._done_bytes, self._total_bytes
        )
        failpoint("operation.renewed")
        if beat is None:
            self.interrupt(Reason.FENCED)
            return
        self._renewed = started
        if beat.cancel_requested:
            self.interrupt(Reason.CANCELLED)
