"""The metadata port: what the rest of the program may ask of a database.

Every promise made here is held by the suite in `tests/store`, which each adapter runs.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from darkroom.domain.content import Content
from darkroom.domain.errors import Failure
from darkroom.domain.image import Image
from darkroom.domain.operation import Beat, Claim, Lease, Operation

T = TypeVar("T")


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

    def image(self, image_id: str) -> Image | None:
        """The image, locked against change and deletion until the transaction ends."""

    def insert_image(self, image: Image) -> None:
        """Raises `Failure` RESOURCE_ALREADY_EXISTS if a live image of the folder has the name.

        Empty names and names of images in status ERROR are free.
        """

    def update_image(self, image: Image) -> None:
        """Overwrite the row of `image.id`. Raises like `insert_image`."""

    def delete_image(self, image_id: str) -> None: ...

    def insert_content(self, content: Content) -> None: ...

    def operation(self, operation_id: str) -> Operation | None:
        """The operation, locked until the transaction ends."""

    def unfinished_operation_on(self, resource_id: str) -> str | None:
        """Id of an operation on the resource that is not DONE, if there is one."""

    def insert_operation(
        self, operation: Operation, payload: dict[str, Any] | None = None, sealed: str = ""
    ) -> None:
        """Keep the operation; one that is not DONE will be claimed by a worker."""

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


class MetadataStore(Protocol):
    """Metadata of images, contents and operations. Thread-safe.

    Every method raises `Failure` STORE_BUSY when the database cannot answer in time.
    """

    def migrate(self) -> int:
        """Bring the schema up to date; return its version. Safe to run at once from many."""

    def check_schema(self) -> None:
        """Raise `SchemaMismatch` unless the schema is the one this program understands."""

    def writable(self) -> bool:
        """Whether a transaction could commit now: what readiness means."""

    def close(self) -> None: ...

    def write(self, change: Callable[[Transaction], T]) -> T:
        """Run `change` in one transaction and commit it; an exception rolls it back.

        `change` may run more than once (a database may ask for a retry), so it has no side
        effects outside the transaction.
        """

    def get_image(self, image_id: str) -> Image | None: ...

    def list_images(self, folder_id: str, after_id: str, limit: int) -> list[Image]:
        """Images of a folder by ascending id, those after `after_id` only."""

    def get_operation(self, operation_id: str) -> Operation | None: ...

    # --- work -------------------------------------------------------------------------------------

    def claim(self, owner: str) -> Claim | None:
        """Lease the oldest operation that is due: never claimed, put back, or its lease expired.

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
        """Ids of contents that no image refers to."""

    def delete_content(self, content_id: str) -> bool:
        """Delete the row if nothing refers to it (any more); False if something does."""

    def contents_in_use(self, content_ids: Sequence[str]) -> set[str]:
        """Those of the given ids that have a row."""

    def live_attempts(self, attempts: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
        """Those (operation id, fence) pairs that are RUNNING under exactly that fence."""

    def purge_operations(self, modified_before_us: int, limit: int) -> int:
        """Delete finished operations (and their idempotency keys) not modified since; how many."""
