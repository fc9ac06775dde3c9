"""The statements of one transaction, the same for every SQL database."""

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Protocol, TypeVar

from darkroom.domain import errors
from darkroom.domain.access import MAX_BINDINGS, AccessBinding
from darkroom.domain.audit import AuditEntry
from darkroom.domain.content import Content
from darkroom.domain.errors import Failure
from darkroom.domain.operation import Lease, Operation, State
from darkroom.domain.resource import Resource
from darkroom.storage import rows
from darkroom.storage.dialect import Dialect

R = TypeVar("R", bound=Resource)


class Cursor(Protocol):
    """The part of a DB-API cursor that is used here."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...


Execute = Callable[[str, Sequence[Any]], Cursor]


@dataclass(frozen=True)
class KeyUse:
    """What an idempotency key was used for."""

    request_hash: str
    operation_id: str


class SqlTransaction:
    """`Transaction` over one open database transaction."""

    def __init__(self, execute: Execute, dialect: Dialect) -> None:
        self._execute = execute
        self._dialect = dialect
        self.wakes = False
        """Whether it leaves work behind that a worker could begin at once."""

    def resource(self, kind: type[R], resource_id: str, *, shared: bool = False) -> R | None:
        sql = rows.RESOURCE_BY_ID + (self._dialect.share if shared else self._dialect.lock)
        row = self._execute(sql, (resource_id, kind.NOUN)).fetchone()
        return rows.resource_from_row(kind, row) if row else None

    def _named(self, sql: str, values: rows.Row, resource: Resource) -> None:
        try:
            self._execute(sql, values)
        except self._dialect.integrity_error as error:
            # SQLite names the columns of a broken unique index, PostgreSQL the index.
            text = str(error)
            if "resource.name" in text or "resource_unique_name" in text:
                raise errors.resource_already_exists(resource.NOUN, resource.name) from None
            raise

    def insert_resource(self, resource: Resource) -> None:
        values = (*rows.resource_row(resource), resource.NOUN)
        self._named(rows.INSERT_RESOURCE, values, resource)

    def update_resource(self, resource: Resource) -> None:
        self._execute(rows.CONTENT_CHECK_DUE, (resource.id, resource.content_id or ""))
        values = rows.resource_row(resource)
        self._named(rows.UPDATE_RESOURCE, (*values[1:], resource.NOUN, values[0]), resource)

    def delete_resource(self, resource_id: str) -> None:
        self._execute(rows.CONTENT_CHECK_DUE, (resource_id, ""))
        self._execute(rows.DELETE_RESOURCE, (resource_id,))

    def add_binding(self, resource_id: str, binding: AccessBinding) -> bool:
        return self._execute(rows.INSERT_BINDING, (resource_id, *astuple(binding))).rowcount == 1

    def remove_binding(self, resource_id: str, binding: AccessBinding) -> bool:
        return self._execute(rows.DELETE_BINDING, (resource_id, *astuple(binding))).rowcount == 1

    def bindings(self, resource_id: str) -> list[AccessBinding]:
        everything = (resource_id, "", "", "", MAX_BINDINGS + 1)
        return [AccessBinding(*row) for row in self._execute(rows.BINDINGS, everything).fetchall()]

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

    def contents_checked(self, first_id: str, last_id: str) -> None:
        """The contents from one id to another that something refers to need no look any more."""
        if self._dialect.lock:
            # The update alone would wait for whoever lets go of a content, and then judge by
            # what it saw before that.
            self._execute(rows.CONTENTS_BETWEEN + self._dialect.lock, (first_id, last_id))
        self._execute(rows.CONTENTS_CHECKED, (first_id, last_id))

    def operation(self, operation_id: str) -> Operation | None:
        row = self._execute(rows.OPERATION_BY_ID + self._dialect.lock, (operation_id,)).fetchone()
        return rows.operation_from_row(row) if row else None

    def unfinished_operation_on(self, resource_id: str) -> str | None:
        row = self._execute(rows.UNFINISHED_ON_RESOURCE, (resource_id,)).fetchone()
        return str(row[0]) if row else None

    def count_unfinished(self, folder_id: str, at_most: int) -> int:
        if self._dialect.lock:
            slot = zlib.crc32(folder_id.encode()) % rows.FOLDER_SLOTS
            self._execute(rows.FOLDER_SLOT + self._dialect.lock, (slot,)).fetchone()
        row = self._execute(rows.COUNT_UNFINISHED, (folder_id, at_most)).fetchone()
        return int(row[0])

    def insert_operation(
        self,
        operation: Operation,
        payload: dict[str, Any] | None = None,
        sealed: str = "",
        delay_ms: int = 0,
    ) -> None:
        extras = (delay_ms, rows.response_text(payload), sealed)
        self._execute(self._dialect.insert_operation, (*rows.operation_row(operation), *extras))
        self.wakes = self.wakes or (operation.state is State.PENDING and not delay_ms)

    def payload(self, operation_id: str) -> dict[str, Any]:
        (payload,) = self._execute(rows.PAYLOAD, (operation_id,)).fetchone()
        return dict(json.loads(payload)) if payload else {}

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

    def secret_key(self) -> str | None:
        row = self._execute(rows.SECRET_KEY + self._dialect.lock, ()).fetchone()
        return str(row[0]) if row else None

    def set_secret_key(self, key_id: str) -> None:
        self._execute(rows.SET_SECRET_KEY, (key_id,))

    def revoke(self, mark: str, before_us: int, now_us: int, forget_at_us: int) -> None:
        self._execute(rows.REVOKE, (mark, before_us, now_us, forget_at_us))

    def record(self, entry: AuditEntry) -> None:
        self._execute(rows.INSERT_AUDIT, astuple(entry))

    def clear(self) -> None:
        for statement in rows.CLEAR:
            self._execute(statement, ())
