"""Where operations begin and are cancelled: one transaction each, the same for every kind."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from darkroom.domain import errors
from darkroom.domain.audit import STARTED, AuditEntry
from darkroom.domain.errors import Code, Failure
from darkroom.domain.ids import REGIONAL_PREFIX, new_id
from darkroom.domain.operation import DESCRIPTIONS, Operation, State
from darkroom.operations.effect import Effect
from darkroom.storage.port import MetadataStore, Transaction
from darkroom.telemetry.failpoints import failpoint

if TYPE_CHECKING:
    from darkroom.telemetry.metrics import Metrics


def wall_clock_us() -> int:
    """Microseconds since the epoch: for what users read, never for leases."""
    return time.time_ns() // 1000


ORIGIN = "origin"
"""Where `Caller.origin` is kept in the payload of an operation that a worker runs."""


CANCEL = "operation.cancel"
"""What the audit log calls it."""


@dataclass(frozen=True)
class Caller:
    """Who asks, and the idempotency key if one was sent."""

    subject: str
    idempotency_key: str = ""
    unless_repeated: Failure | None = None
    """What is raised unless the key repeats an earlier request: rights could not be looked at,
    because what the request is about is gone."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Request id, trace id and W3C context of the call: what its operation's run names too."""
    subject_type: str = ""

    def entry(
        self, at_us: int, action: str, result: str, operation: Operation | None = None
    ) -> AuditEntry:
        """What the audit log says of something that the caller does."""
        about = operation or _NO_OPERATION
        return AuditEntry(
            at_us,
            self.subject_type,
            self.subject,
            action,
            result,
            resource_id=about.resource_id,
            folder_id=about.folder_id,
            operation_id=about.id,
            request_id=self.origin.get("request_id", ""),
        )


_NO_OPERATION = Operation("", "", "", "", 0, "", 0, State.DONE)


@dataclass(frozen=True)
class Opening:
    """What a command needs to begin its operation."""

    operation_id: str
    now_us: int
    subject: str
    seal: Callable[[str], str]
    """Encrypts a secret so that only this operation can open it."""

    def new_id(self, prefix: str = REGIONAL_PREFIX) -> str:
        """An id for the resource that is being made."""
        return new_id(prefix)

    def operation(
        self,
        kind: str,
        folder_id: str,
        resource_id: str,
        *,
        response: dict[str, Any] | None = None,
    ) -> Operation:
        """The operation's row: finished if there is a response already, else waiting for work."""
        return Operation(
            id=self.operation_id,
            kind=kind,
            folder_id=folder_id,
            resource_id=resource_id,
            created_at_us=self.now_us,
            created_by=self.subject,
            modified_at_us=self.now_us,
            state=State.PENDING if response is None else State.DONE,
            response=response,
        )


@dataclass(frozen=True)
class Begun:
    """An operation and what its run will need."""

    operation: Operation
    payload: dict[str, Any] | None = None
    sealed: str = ""
    effect: Effect | None = None
    """What it does to the rows, where that is all it does; the operation is finished then."""


class Command(Protocol):
    """A request to change something; `begin` is the half that runs inside the RPC."""

    @property
    def kind(self) -> str: ...

    def identity(self) -> dict[str, Any]:
        """What makes two requests the same for an idempotency key; JSON-able, no secrets."""

    def begin(self, tx: Transaction, opening: Opening) -> Begun:
        """Check and say what the operation is and does. Raises `Failure`.

        What a worker will finish may write its own rows here.
        """


class Ending(Protocol):
    """What happens to the rows when an operation of a kind does not succeed."""

    def abandon(self, tx: Transaction, operation: Operation, payload: dict[str, Any]) -> None:
        """It was cancelled: remove what begin() made."""

    def fail(self, tx: Transaction, operation: Operation, payload: dict[str, Any]) -> None:
        """It failed: leave behind what users may see of it."""


class Operations:
    """The front desk: begins operations, answers repeats, takes cancellations."""

    def __init__(
        self,
        store: MetadataStore,
        endings: Mapping[str, Ending],
        seal: Callable[[str, str], str],
        clock_us: Callable[[], int] = wall_clock_us,
        *,
        delay_seconds: float = 0.0,
        max_active_per_folder: int = 0,
        metrics: "Metrics | None" = None,
    ) -> None:
        """`endings` by kind, for the kinds that do not end in their own RPC.

        A folder has at most `max_active_per_folder` operations that have not ended; 0: any number.

        With `delay_seconds` no operation does: what could end at once is announced and left to
        a worker that long, so that clients can practise polling and cancelling.
        """
        self._delay_ms = round(delay_seconds * 1000)
        self._max_active_per_folder = max_active_per_folder
        self._store = store
        self._endings = endings
        self._seal = seal
        self._clock_us = clock_us
        self._metrics = metrics

    def begin(self, command: Command, caller: Caller, *, limited: bool = True) -> Operation:
        """Begin an operation, or return the one that the idempotency key already stands for.

        When this returns, the operation is committed. Only the operator's own commands are not
        `limited` in number. Raises `Failure`.
        """
        operation_id = new_id()
        opening = Opening(
            operation_id,
            self._clock_us(),
            caller.subject,
            lambda secret: self._seal(operation_id, secret),
        )
        request_hash = _request_hash(command) if caller.idempotency_key else ""

        def replayed(tx: Transaction) -> Operation | None:
            if not caller.idempotency_key:
                return None
            return _replayed(tx, caller, request_hash)

        def change(tx: Transaction) -> Operation:
            before = replayed(tx)
            if before is not None:
                return before
            if caller.unless_repeated is not None:
                raise caller.unless_repeated
            begun = self._applied(tx, command.begin(tx, opening))
            if limited and not begun.operation.done:
                self._check_number(tx, begun.operation.folder_id)
            payload = _with_origin(begun, caller.origin)
            tx.insert_operation(begun.operation, payload, begun.sealed, self._delay_ms)
            result = "OK" if begun.operation.done else STARTED
            tx.record(caller.entry(opening.now_us, command.kind, result, begun.operation))
            if caller.idempotency_key:
                tx.remember(caller.subject, caller.idempotency_key, request_hash, operation_id)
            failpoint("operation.begin")
            return begun.operation

        try:
            operation = self._store.write(change)
            failpoint("operation.begun")
        except Failure as failure:
            found = self._begun_after_all(failure, operation_id, replayed)
            if found is None:
                raise
            operation = found
        if self._metrics is not None and operation.id == operation_id:  # and not an older one
            self._metrics.operations_begun.labels(operation.kind).inc()
            if operation.done:
                self._metrics.operations_ended.labels(operation.kind, "OK").inc()
        return operation

    def _begun_after_all(
        self,
        failure: Failure,
        operation_id: str,
        replayed: Callable[[Transaction], Operation | None],
    ) -> Operation | None:
        """The operation, where a failure does not mean that there is none.

        Where transactions run side by side, what is in the way may be what the same call, sent
        twice, has just done. And where the answer to a commit was lost, it may be there.
        """
        if failure.code is not Code.UNAVAILABLE:
            return self._store.write(replayed)
        if failure.reason == errors.STORE_OUTCOME_UNKNOWN.reason:
            with contextlib.suppress(Failure):
                return self._store.get_operation(operation_id)
        return None

    def _check_number(self, tx: Transaction, folder_id: str) -> None:
        # Last of all checks, and on every way: writers lock rows of resources first, then this.
        limit = self._max_active_per_folder
        if limit and tx.count_unfinished(folder_id, limit) >= limit:
            raise errors.active_operations_limit(folder_id, limit)

    def _applied(self, tx: Transaction, begun: Begun) -> Begun:
        if begun.effect is None:
            return begun
        if not self._delay_ms:
            begun.effect.apply(tx)
            return begun
        begun.effect.announce(tx)
        return Begun(
            replace(begun.operation, state=State.PENDING, response=None),
            {"effect": begun.effect.to_record(), "response": begun.operation.response},
        )

    def cancel(self, operation_id: str, caller: Caller | None = None) -> Operation:
        """Cancel what has not ended: at once if no worker has it, else as soon as it notices.

        A finished operation comes back unchanged. Raises `Failure` RESOURCE_NOT_FOUND, and
        OPERATION_KIND_UNKNOWN for one that only a newer version can undo.
        """
        now_us = self._clock_us()
        asking = caller or Caller("")

        def change(tx: Transaction) -> tuple[Operation, bool]:
            operation = tx.operation(operation_id)
            if operation is None:
                raise errors.resource_not_found("Operation", operation_id)
            if operation.kind not in DESCRIPTIONS:
                raise errors.operation_kind_unknown(operation_id)
            if operation.state is State.RUNNING:
                tx.request_cancel(operation_id, now_us)
                tx.record(asking.entry(now_us, CANCEL, STARTED, operation))
                failpoint("operation.cancel")
                return replace(operation, cancel_requested=True, modified_at_us=now_us), False
            if operation.state is State.PENDING:
                payload = tx.payload(operation_id)
                self._endings[operation.kind].abandon(tx, operation, payload)
                operation = replace(
                    operation,
                    state=State.DONE,
                    modified_at_us=now_us,
                    error=errors.operation_cancelled(),
                )
                tx.end_operation(operation)
                tx.record(asking.entry(now_us, CANCEL, "OK", operation))
                failpoint("operation.cancel")
                return operation, True
            return operation, False

        operation, ended = self._store.write(change)
        failpoint("operation.cancelled")
        if ended and self._metrics is not None:
            self._metrics.operations_ended.labels(operation.kind, "CANCELLED").inc()
        return operation


def _request_hash(command: Command) -> str:
    text = json.dumps([command.kind, command.identity()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _with_origin(begun: Begun, origin: Mapping[str, str]) -> dict[str, Any] | None:
    if not origin or begun.operation.done:
        return begun.payload
    return {**(begun.payload or {}), ORIGIN: dict(origin)}


def _replayed(tx: Transaction, caller: Caller, request_hash: str) -> Operation | None:
    """The operation that the caller's key stands for, if it stands for one."""
    use = tx.replay(caller.subject, caller.idempotency_key)
    # It may be purged between the two looks: key and operation go together.
    operation = tx.operation(use.operation_id) if use is not None else None
    if use is None or operation is None:
        return None
    if use.request_hash != request_hash:
        raise errors.idempotency_key_reused()
    return operation
