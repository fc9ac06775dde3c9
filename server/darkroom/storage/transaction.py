"""The statements of one transaction, the same for every SQL database."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from darkroom.domain import errors
from darkroom.domain.content import Content
from darkroom.domain.errors import Failure
from darkroom.domain.image import Image
from darkroom.domain.operation import Lease, Operation
from darkroom.storage import rows


class Cursor(Protocol):
    """The part of a DB-API cursor that is used here."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...


Execute = Callable[[str, Sequence[Any]], Cursor]


@dataclass(frozen=True)
class KeyUse:
    """What an idempotency key was used for."""

    request_hash: str
    operation_id: str


class SqlTransaction:
    """`Transaction` over one open database transaction.

    `lock_suffix` is appended to reads of rows that must not change until the end: empty where
    the database has one writer at a time anyway.
    """

    def __init__(
        self,
        execute: Execute,
        integrity_error: type[Exception],
        lock_suffix: str = "",
    ) -> None:
        self._execute = execute
        self._integrity_error = integrity_error
        self._lock_suffix = lock_suffix

    def image(self, image_id: str) -> Image | None:
        row = self._execute(rows.IMAGE_BY_ID + self._lock_suffix, (image_id,)).fetchone()
        return rows.image_from_row(row) if row else None

    def _named(self, sql: str, values: rows.Row, name: str) -> None:
        try:
            self._execute(sql, values)
        except self._integrity_error as error:
            # SQLite names the columns of a broken unique index, PostgreSQL its name.
            text = str(error)
            if "image.name" in text or "image_name" in text:
                raise errors.resource_already_exists("Image", name) from None
            raise

    def insert_image(self, image: Image) -> None:
        self._named(rows.INSERT_IMAGE, rows.image_row(image), image.name)

    def update_image(self, image: Image) -> None:
        values = rows.image_row(image)
        self._named(rows.UPDATE_IMAGE, (*values[1:], values[0]), image.name)

    def delete_image(self, image_id: str) -> None:
        self._execute(rows.DELETE_IMAGE, (image_id,))

    def insert_content(self, content: Content) -> None:
        self._execute(
            rows.INSERT_CONTENT,
            (
                content.id,
                content.virtual_size_bytes,
                content.stored_size_bytes,
                content.sha256,
                content.source_sha256,
                content.created_at_us,
            ),
        )

    def operation(self, operation_id: str) -> Operation | None:
        row = self._execute(rows.OPERATION_BY_ID + self._lock_suffix, (operation_id,)).fetchone()
        return rows.operation_from_row(row) if row else None

    def unfinished_operation_on(self, resource_id: str) -> str | None:
        row = self._execute(rows.UNFINISHED_ON_RESOURCE, (resource_id,)).fetchone()
        return str(row[0]) if row else None

    def insert_operation(
        self, operation: Operation, payload: dict[str, Any] | None = None, sealed: str = ""
    ) -> None:
        self._execute(
            rows.INSERT_OPERATION,
            (*rows.operation_row(operation), rows.response_text(payload), sealed),
        )

    def end_operation(self, operation: Operation) -> None:
        self._execute(
            rows.END_OPERATION,
            (
                operation.modified_at_us,
                rows.error_text(operation.error),
                rows.response_text(operation.response),
                operation.id,
            ),
        )

    def request_cancel(self, operation_id: str, now_us: int) -> None:
        self._execute(rows.REQUEST_CANCEL, (now_us, operation_id))

    def finish_leased(
        self,
        lease: Lease,
        now_us: int,
        *,
        error: Failure | None = None,
        response: dict[str, Any] | None = None,
    ) -> bool:
        changed = self._execute(
            rows.FINISH_LEASED,
            (
                now_us,
                rows.error_text(error),
                rows.response_text(response),
                lease.operation_id,
                lease.owner,
                lease.fence,
                int(response is not None),
            ),
        ).rowcount
        return changed == 1

    def replay(self, subject: str, key: str) -> KeyUse | None:
        row = self._execute(rows.REPLAY, (subject, key)).fetchone()
        return KeyUse(*row) if row else None

    def remember(self, subject: str, key: str, request_hash: str, operation_id: str) -> None:
        self._execute(rows.REMEMBER, (subject, key, request_hash, operation_id))
