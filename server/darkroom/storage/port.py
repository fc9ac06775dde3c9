"""The metadata port: what the rest of the program may ask of a database.

Every promise made here is held by the suite in `tests/store`, which each adapter runs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from darkroom.domain.access import AccessBinding, Revocation
from darkroom.domain.audit import AuditEntry
from darkroom.domain.content import Content, ContentTotals
from darkroom.domain.errors import Failure
from darkroom.domain.finding import Finding
from darkroom.domain.image import Image
from darkroom.domain.operation import Backlog, Beat, Claim, Lease, Operation, Unfinished
from darkroom.domain.query import Query
from darkroom.domain.resource import Resource

T = TypeVar("T")
R = TypeVar("R", bound=Resource)


class SchemaMismatch(Exception):
    """The database's schema is older or newer than this program understands."""


class Replay(Protocol):
    """What an idempotency key stands for."""

    @property
    def request_hash(self) -> str: ...
    @property
    def operation_id(self) -> str: ...


class Transaction(Protocol):
    """One atomic change. All writes commit together or not at all."""

    def resource(self, kind: type[R], resource_id: str, *, shared: bool = False) -> R | None:
        """The resource, locked against change and deletion until the transaction ends.

        Several transactions may hold it `shared` at once; whoever means to change it must not.
        """

    def insert_resource(self, resource: Resource) -> None:
        """Raises `Failure` RESOURCE_ALREADY_EXISTS if the name is taken.

        That is: a resource of the kind, in the folder and not in status ERROR, has it. Empty
        names are never taken.
        """

    def update_resource(self, resource: Resource) -> None:
        """Overwrite the row of `resource.id`. Raises like `insert_resource`."""

    def delete_resource(self, resource_id: str) -> None:
        """Its access bindings go with it."""

    def add_binding(self, resource_id: str, binding: AccessBinding) -> bool:
        """False if the resource has it already."""

    def remove_binding(self, resource_id: str, binding: AccessBinding) -> bool:
        """False if the resource does not have it."""

    def bindings(self, resource_id: str) -> list[AccessBinding]:
        """All of them, at most MAX_BINDINGS and one more."""

    def insert_content(self, content: Content) -> None: ...

    def operation(self, operation_id: str) -> Operation | None:
        """The operation, locked until the transaction ends."""

    def unfinished_operation_on(self, resource_id: str) -> str | None:
        """Id of an operation on the resource that is not DONE, if there is one."""

    def count_unfinished(self, folder_id: str, at_most: int) -> int:
        """How many operations of the folder are not DONE, counted up to `at_most`.

        Nobody who counts too can add one to them until this transaction ends. Locks rows of its
        own, so it comes after everything that locks resources.
        """

    def insert_operation(
        self,
        operation: Operation,
        payload: dict[str, Any] | None = None,
        sealed: str = "",
        delay_ms: int = 0,
    ) -> None:
        """Keep the operation; one that is not DONE will be claimed, after `delay_ms`."""

    def payload(self, operation_id: str) -> dict[str, Any]:
        """What `insert_operation` was given for the operation's run."""

    def end_operation(self, operation: Operation) -> None:
        """Make an operation that nobody runs final: it must not be RUNNING under a lease."""

    def request_cancel(self, operation_id: str, now_us: int) -> None:
        """Ask the worker that runs it to stop; seen by its next heartbeat."""

    def finish_leased(
        self,
        lease: Lease,
        now_us: int,
        *,
        error: Failure | None = None,
        response: dict[str, Any] | None = None,
    ) -> bool:
        """Make a leased operation final, erase its sealed secrets.

        False, with nothing changed, if the lease is no longer valid, or if `response` is given
        although a cancel was requested: an acknowledged cancel never ends in success. The caller
        must then leave the transaction by raising.
        """

    def replay(self, subject: str, key: str) -> Replay | None:
        """What the subject's idempotency key was used for, if it was."""

    def remember(self, subject: str, key: str, request_hash: str, operation_id: str) -> None:
        """Bind an idempotency key to an operation; it lives as long as the operation."""

    def secret_key(self) -> str | None:
        """Id of the key that seals secrets, if somebody has said which."""

    def set_secret_key(self, key_id: str) -> None: ...

    def revoke(self, mark: str, before_us: int, now_us: int, forget_at_us: int) -> None:
        """Make worthless what was issued under the mark until `before_us`.

        A mark that is revoked already stays so for what it covers. It may be forgotten at
        `forget_at_us`.
        """

    def record(self, entry: AuditEntry) -> None:
        """Add an entry to the audit log."""

    def clear(self) -> None:
        """Delete every row of every table. Only for servers that live as long as a test run."""


class MetadataStore(Protocol):
    """Metadata of images, contents and operations. Thread-safe.

    Every method raises `Failure` STORE_BUSY when the database cannot answer in time, and `write`
    STORE_OUTCOME_UNKNOWN when the answer to a commit was lost.
    """

    def migrate(self) -> int:
        """Bring the schema up to date; return its version. Safe to run at once from many.

        Raises `OSError` if the database cannot be used, and like `check_schema`.
        """

    def check_schema(self) -> None:
        """Raise `SchemaMismatch` unless the schema is the one this program understands."""

    def writable(self) -> bool:
        """Whether a transaction that writes can be committed now, found out by committing one.

        It changes nothing that anybody can see. Does not raise for a database out of reach.
        """

    def close(self) -> None: ...

    def write(self, change: Callable[[Transaction], T]) -> T:
        """Run `change` in one transaction and commit it; an exception rolls it back.

        `change` may run more than once (a database may ask for a retry), so it has no side
        effects outside the transaction.
        """

    def get(self, kind: type[R], resource_id: str) -> R | None: ...

    def find(self, kind: type[R], query: Query, limit: int) -> list[R]:
        """Resources in the order of the query, texts compared by code point."""

    def latest_by_family(self, folder_id: str, family: str) -> Image | None:
        """The READY image of the family that was created last."""

    def list_bindings(
        self, resource_id: str, after: AccessBinding | None, limit: int
    ) -> list[AccessBinding]:
        """Bindings of a resource in ascending order, those after `after` only."""

    def list_operations(
        self, resource_id: str, after: tuple[int, str], limit: int
    ) -> list[Operation]:
        """Operations on a resource, oldest first, behind (created_at_us, id)."""

    def get_operation(self, operation_id: str) -> Operation | None: ...

    def secret_key(self) -> str | None:
        """Id of the key that seals secrets, if somebody has said which."""

    def revocations(self, since_us: int) -> list[Revocation]:
        """Those that were written since."""

    def list_audit(
        self,
        after: tuple[int, str],
        limit: int,
        *,
        subject_id: str = "",
        resource_id: str = "",
    ) -> list[AuditEntry]:
        """Entries of the audit log behind (at_us, id), oldest first; of one subject or resource."""

    def purge_audit(self, before_us: int, limit: int) -> int:
        """Delete entries that are older; how many."""

    def forget_revocations(self, now_us: int) -> int:
        """Delete those that may be forgotten by now; how many."""

    # --- work -------------------------------------------------------------------------------------

    def wait_for_work(self) -> None:
        """Pause until there may be something to claim: for a part of a second at most."""

    def claim(self, owner: str, key_ids: Sequence[str] = ()) -> Claim | None:
        """Lease the oldest operation that is due: never claimed, put back, or its lease expired.

        None if `key_ids` are given and the key that seals secrets is not among them.

        Expiry is judged without wall clocks. The fence goes up with every claim.
        """

    def heartbeat(
        self, lease: Lease, phase: str, done_bytes: int, total_bytes: int | None
    ) -> Beat | None:
        """Renew a lease and record progress; None if the lease is lost."""

    def put_back(self, lease: Lease, delay_ms: int, *, count_attempt: bool) -> bool:
        """Give a leased operation back, due again after `delay_ms`; False if the lease is lost."""

    def put_back_all(self, owner: str) -> int:
        """Give back everything a worker held that is known to be dead; how many there were."""

    # --- collection -------------------------------------------------------------------------------

    def unreferenced_contents(self, limit: int) -> list[str]:
        """Some ids of contents that no resource refers to; none only if there are none.

        Costs what changed since the last call, not what there is.
        """

    def delete_content(self, content_id: str) -> bool:
        """Delete the row if nothing refers to it (any more); False if something does."""

    def content(self, content_id: str) -> Content | None: ...

    def contents_in_use(self, content_ids: Sequence[str]) -> set[str]:
        """Those of the given ids that have a row."""

    def contents(self, after: str, limit: int) -> list[Content]:
        """Contents in ascending order of their ids, those behind `after` only."""

    def live_attempts(self, attempts: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
        """Those (operation id, fence) pairs that are RUNNING under exactly that fence."""

    def purge_operations(self, modified_before_us: int, limit: int) -> int:
        """Delete finished operations (and their idempotency keys) not modified since; how many."""

    # --- figures ----------------------------------------------------------------------------------

    def backlog(self) -> list[Backlog]:
        """Operations that are not DONE, counted by kind and state; costs what is under way."""

    def content_totals(self) -> ContentTotals:
        """All contents, counted. Costs what there is: some tenths of a second for a million."""

    # --- examination ------------------------------------------------------------------------------

    def damage(self) -> list[str]:
        """What the database itself finds wrong with its files, in words; nothing if it is sound.

        Reads everything. If there is damage, the other methods may raise anything.
        """

    def violations(self) -> Iterator[Finding]:
        """Rows that contradict an invariant; never a false alarm, whatever happens meanwhile."""

    def mend(self, finding: Finding) -> bool:
        """Set right what `violations` found and can mend, unless it is right by now."""

    def unfinished(self) -> list[Unfinished]:
        """Every operation that is not DONE."""

    def take_back(self, seen: Unfinished) -> bool:
        """Have a RUNNING operation claimed anew at once; False if its owner has moved since."""
