"""The worker's loop: claim, run, finish, collect."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from darkroom.domain import errors
from darkroom.domain.audit import AuditEntry
from darkroom.domain.errors import Failure
from darkroom.domain.operation import Claim, Operation, State
from darkroom.domain.work import Interrupted, Reason
from darkroom.operations.desk import ORIGIN, wall_clock_us
from darkroom.operations.running import Publish, Runner
from darkroom.storage.port import MetadataStore, Transaction
from darkroom.telemetry import logs
from darkroom.telemetry.failpoints import failpoint
from darkroom.telemetry.instruments import NO_INSTRUMENTS, Instruments
from darkroom.worker.attempt import AttemptWatch, LeaseSettings
from darkroom.worker.collector import Collector
from darkroom.worker.phases import Phases

T = TypeVar("T")

log = logging.getLogger(__name__)

RETRY_DELAYS_MS = (1_000, 5_000, 25_000)
"""Pauses before the second, third and every later attempt."""

MAX_ATTEMPTS = 5
"""An operation that fails or kills its worker this often is given up."""

UNKNOWN_KIND_DELAY_MS = 5_000
"""Pause before an operation that only a newer worker knows is offered again."""

_KEY_LOOK_SECONDS = 5.0
"""Between two looks at which key seals, while there is nothing to do."""

_SETBACK_SECONDS = 1.0
"""Pause after a round that failed."""


_CODES = {
    Reason.CANCELLED: "CANCELLED",
    Reason.FENCED: "ABORTED",
    Reason.DRAINING: "ABORTED",
}
"""What a phase ended with that was told to stop."""


class _LeaseLost(Exception):
    """The final transaction found the lease gone; it was rolled back."""


class KeyWatch:
    """Tells why nothing is claimed where the key that seals secrets is not at hand."""

    def __init__(self, store: MetadataStore, held: Sequence[str]) -> None:
        self._store = store
        self.held = tuple(held)
        self._next_look = time.monotonic()
        self._missing: str | None = None

    def tell_if_missing(self) -> None:
        """Look, now and then; log what is missing, once, and that it is not any more."""
        now = time.monotonic()
        if not self.held or now < self._next_look:
            return
        self._next_look = now + _KEY_LOOK_SECONDS
        key_id = self._store.secret_key()
        missing = None if key_id in (None, *self.held) else key_id
        if missing == self._missing:
            return
        self._missing = missing
        if missing is None:
            log.info("the secret key file will do")
        else:
            fields = {"missing": missing, "held": list(self.held)}
            log.error(
                "nothing is claimed: the secret key file of this worker does not hold the key "
                "that the API seals with",
                extra={"fields": fields},
            )


class Worker:
    """Runs one operation at a time, in the thread that calls `run_forever`."""

    def __init__(
        self,
        store: MetadataStore,
        runners: Mapping[str, Runner],
        collector: Collector,
        owner: str,
        *,
        lease: LeaseSettings,
        key_ids: Sequence[str] = (),
        clock_us: Callable[[], int] = wall_clock_us,
        instruments: Instruments = NO_INSTRUMENTS,
    ) -> None:
        self._store = store
        self._runners = runners
        self._collector = collector
        self._owner = owner
        self._keys = KeyWatch(store, key_ids)
        self._lease = lease
        self._clock_us = clock_us
        self._closing = threading.Event()
        self._instruments = instruments
        self._metrics = instruments.metrics
        self._draining = threading.Event()

    def stop_claiming(self) -> None:
        """Claim nothing more; what is running may end. Safe in a signal handler."""
        self._closing.set()

    def drain(self) -> None:
        """Claim nothing more and give back what is running. Safe in a signal handler."""
        self._closing.set()
        self._draining.set()

    def run_forever(self) -> None:
        """Until `drain` or `stop_claiming`: claim and run what is due, collect in between."""
        while not self._closing.is_set():
            try:
                failpoint("operation.claim")
                claim = self._store.claim(self._owner, self._keys.held)
                if claim is None:
                    self._keys.tell_if_missing()
                if claim is not None:
                    failpoint("operation.claimed")
                    self.run_claim(claim)
                # After work too: under a load that never ends the disk must not fill up.
                self._collector.collect_if_due()
                if claim is not None:
                    continue
            except Failure as failure:
                log.warning("storage out of reach", extra={"fields": {"reason": failure.reason}})
                time.sleep(_SETBACK_SECONDS)
            except Exception:
                # A broken row or file must not keep everything else from being worked on.
                log.exception("worker's round failed")
                time.sleep(_SETBACK_SECONDS)
            # Not on the event of draining: a signal handler that sets it could block for ever.
            self._store.wait_for_work()

    def run_claim(self, claim: Claim) -> None:
        """One attempt, from claim to end; never raises for what the operation did."""
        operation = claim.operation
        runner = self._runners.get(operation.kind)
        if runner is None:
            # A newer server began it: while versions are mixed, a newer worker will take it.
            fields = {"operation_id": operation.id, "kind": operation.kind}
            log.warning("operation of an unknown kind", extra={"fields": fields})
            self._store.put_back(claim.lease, UNKNOWN_KIND_DELAY_MS, count_attempt=False)
            return
        with logs.context(**_log_fields(claim)), self._traced(claim) as ended:
            log.info("operation claimed", extra={"fields": {"attempt": claim.attempt}})
            phases = Phases(operation.kind, self._instruments)
            watch = AttemptWatch(self._store, claim, self._lease, self._draining, phases)
            with watch.kept_alive():
                try:
                    outcome = self._attempt(claim, runner, watch, phases)
                finally:
                    runner.clean(claim)
            ended(outcome)
            if self._metrics is not None:
                self._metrics.attempts.labels(operation.kind, outcome).inc()
                if outcome == Reason.FENCED.value:
                    self._metrics.leases_lost.labels(operation.kind).inc()
            log.info("operation left", extra={"fields": {"outcome": outcome}})
            if outcome != "succeeded" or claim.lease.fence > 1:
                self._collector.expect_debris()

    @contextlib.contextmanager
    def _traced(self, claim: Claim) -> Iterator[Callable[[str], None]]:
        """A span around the attempt if the call that began the operation had one."""
        if self._instruments.tracing is None:
            yield lambda _outcome: None
            return
        from darkroom.telemetry import tracing

        operation = claim.operation
        traceparent = claim.payload.get(ORIGIN, {}).get("traceparent", "")
        with self._instruments.tracing.attempt(operation.kind, traceparent, operation.id) as span:

            def ended(outcome: str) -> None:
                if span is not None:
                    code = "OK" if outcome == "succeeded" else outcome
                    tracing.end(span, code, outcome=outcome, resource_id=operation.resource_id)

            yield ended

    def _attempt(self, claim: Claim, runner: Runner, watch: AttemptWatch, phases: Phases) -> str:
        try:
            if operation_cancelled(claim):
                raise Interrupted(Reason.CANCELLED)
            if claim.attempt > MAX_ATTEMPTS:
                return self._fail(claim, runner, errors.operation_gave_up(MAX_ATTEMPTS))
            publish = runner.run(claim, watch)
            phases.leave("OK")
            failpoint("operation.finish")
            return self._succeed(claim, runner, publish)
        except Interrupted as interrupted:
            phases.leave(_CODES[interrupted.reason], interrupted.reason.value)
            return self._stop(claim, runner, interrupted.reason)
        except Failure as failure:
            phases.leave(failure.code.name, failure.reason)
            return self._retry_or_fail(claim, runner, failure)
        except Exception:
            if self._is_lost(claim):
                # Whoever took over has the collector remove what this attempt works with.
                phases.leave(_CODES[Reason.FENCED], Reason.FENCED.value)
                return Reason.FENCED.value
            log.exception("operation raised")
            phases.leave("INTERNAL")
            return self._retry_or_fail(claim, runner, errors.internal(), transient=True)

    def _finish(
        self,
        claim: Claim,
        rows: Callable[[Transaction], dict[str, Any] | None],
        error: Failure | None = None,
    ) -> None:
        """Write rows and end together, or neither. Raises `_LeaseLost`."""

        def change(tx: Transaction) -> None:
            # Looked at first too: without the lease the rows may be gone, or be somebody else's.
            operation = tx.operation(claim.lease.operation_id)
            if not _is_running(claim, operation):
                raise _LeaseLost
            response = rows(tx)
            if not tx.finish_leased(claim.lease, self._clock_us(), error=error, response=response):
                raise _LeaseLost
            tx.record(self._ended(claim, error))
            failpoint("operation.commit")

        self._patiently(lambda: self._store.write(change))
        failpoint("operation.finished")
        if self._metrics is not None:
            code = error.code.name if error is not None else "OK"
            self._metrics.operations_ended.labels(claim.operation.kind, code).inc()

    def _ended(self, claim: Claim, error: Failure | None) -> AuditEntry:
        """What the audit log says of an end: in the name of who began it."""
        operation = claim.operation
        return AuditEntry(
            self._clock_us(),
            "",
            operation.created_by,
            operation.kind,
            error.code.name if error is not None else "OK",
            error.reason if error is not None else "",
            operation.resource_id,
            operation.folder_id,
            operation.id,
            claim.payload.get(ORIGIN, {}).get("request_id", ""),
        )

    def _patiently(self, act: Callable[[], T]) -> T:
        # The work is done and only its record is missing: worth waiting for a busy database
        # as long as the lease may still be ours. The statement itself checks whether it is.
        deadline = time.monotonic() + self._lease.lease_seconds
        while True:
            try:
                return act()
            except Failure as failure:
                if failure.retry_after_seconds is None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _succeed(self, claim: Claim, runner: Runner, publish: Publish) -> str:
        try:
            self._finish(claim, publish)
        except _LeaseLost:
            # Either somebody else owns it now, or a cancel was acknowledged just before.
            operation = self._store.get_operation(claim.lease.operation_id)
            if operation is not None and operation.cancel_requested and not operation.done:
                return self._stop(claim, runner, Reason.CANCELLED)
            if not _ended_by(claim, operation):
                return Reason.FENCED.value
        return "succeeded"

    def _end_with(
        self, claim: Claim, rows: Callable[[Transaction], None], error: Failure, outcome: str
    ) -> str:
        def change(tx: Transaction) -> None:
            rows(tx)

        try:
            self._finish(claim, change, error)
        except _LeaseLost:
            operation = self._store.get_operation(claim.lease.operation_id)
            if not _ended_by(claim, operation):
                return Reason.FENCED.value
        return outcome

    def _stop(self, claim: Claim, runner: Runner, reason: Reason) -> str:
        operation = claim.operation
        if reason is Reason.CANCELLED:
            return self._end_with(
                claim,
                lambda tx: runner.abandon(tx, operation, claim.payload),
                errors.operation_cancelled(),
                reason.value,
            )
        if reason is Reason.DRAINING:
            return self._return(claim, 0, reason.value, count_attempt=False)
        return str(reason.value)

    def _fail(self, claim: Claim, runner: Runner, failure: Failure) -> str:
        operation = claim.operation
        log.info(
            "operation failed",
            extra={"fields": {"code": failure.code.name, "reason": failure.reason}},
        )
        return self._end_with(
            claim, lambda tx: runner.fail(tx, operation, claim.payload), failure, "failed"
        )

    def _retry_or_fail(
        self, claim: Claim, runner: Runner, failure: Failure, *, transient: bool = False
    ) -> str:
        transient = transient or failure.retry_after_seconds is not None
        if not transient or claim.attempt >= MAX_ATTEMPTS:
            return self._fail(claim, runner, failure)
        delay_ms = RETRY_DELAYS_MS[min(claim.attempt, len(RETRY_DELAYS_MS)) - 1]
        fields = {"reason": failure.reason, "attempt": claim.attempt, "delay_ms": delay_ms}
        outcome = self._return(claim, delay_ms, "retried", count_attempt=True)
        if outcome == "retried":
            log.info("operation will be retried", extra={"fields": fields})
            if self._metrics is not None:
                self._metrics.retries.labels(claim.operation.kind, failure.reason).inc()
        return outcome

    def _return(self, claim: Claim, delay_ms: int, outcome: str, *, count_attempt: bool) -> str:
        """Give the operation back; the outcome, or that the lease was lost before."""
        failpoint("operation.return")
        returned = self._patiently(
            lambda: self._store.put_back(claim.lease, delay_ms, count_attempt=count_attempt)
        )
        failpoint("operation.returned")
        return outcome if returned else Reason.FENCED.value

    def _is_lost(self, claim: Claim) -> bool:
        """Whether the operation is known to be somebody else's."""
        with contextlib.suppress(Failure):
            operation = self._store.get_operation(claim.lease.operation_id)
            return not _is_running(claim, operation)
        return False


def _log_fields(claim: Claim) -> dict[str, Any]:
    """What every line about an attempt says: the operation, and the call that began it."""
    operation = claim.operation
    origin = claim.payload.get(ORIGIN, {})
    return {
        "operation_id": operation.id,
        "fence": claim.lease.fence,
        "kind": operation.kind,
        "resource_id": operation.resource_id,
        "subject": operation.created_by,
        **{name: origin[name] for name in ("request_id", "trace_id") if name in origin},
    }


def operation_cancelled(claim: Claim) -> bool:
    """Whether the operation was cancelled while no living worker had it."""
    return claim.operation.cancel_requested


def _is_running(claim: Claim, operation: Operation | None) -> bool:
    """Whether this attempt still has the operation."""
    running = (State.RUNNING, claim.lease.fence)
    return operation is not None and (operation.state, operation.fence) == running


def _ended_by(claim: Claim, operation: Operation | None) -> bool:
    """Whether this attempt ended the operation: the answer to a commit may have been lost."""
    return operation is not None and operation.done and operation.fence == claim.lease.fence
