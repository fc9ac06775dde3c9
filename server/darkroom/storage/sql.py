"""What every SQL store does alike: reads, leases, collection."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from functools import partial
from typing import Any, TypeVar

from darkroom.domain.access import AccessBinding, Revocation
from darkroom.domain.audit import AuditEntry
from darkroom.domain.content import Content, ContentTotals
from darkroom.domain.finding import Finding
from darkroom.domain.image import Image
from darkroom.domain.operation import Backlog, Beat, Lease, Operation, State, Unfinished
from darkroom.domain.query import Query
from darkroom.domain.resource import Resource
from darkroom.storage import invariants, rows
from darkroom.storage.dialect import Dialect
from darkroom.storage.listing import list_sql
from darkroom.storage.transaction import SqlTransaction
from darkroom.telemetry.failpoints import failpoint

T = TypeVar("T")
R = TypeVar("R", bound=Resource)

_IDS_PER_STATEMENT = 500
"""Far below what any database allows in one statement."""


class SqlStore(ABC):
    """The part of `MetadataStore` that is the same statements everywhere."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    @abstractmethod
    def write(self, change: Callable[[SqlTransaction], T]) -> T:
        """See the port."""

    @abstractmethod
    def _read(self, sql: str, parameters: Sequence[Any]) -> list[rows.Row]:
        """The rows of one statement that changes nothing."""

    @abstractmethod
    def _change(self, sql: str, parameters: Sequence[Any]) -> tuple[int, list[rows.Row]]:
        """Commit one statement: how many rows it changed, and what it returned of them."""

    # --- reads ------------------------------------------------------------------------------------

    def get(self, kind: type[R], resource_id: str) -> R | None:
        found = self._read(rows.RESOURCE_BY_ID, (resource_id, kind.NOUN))
        return rows.resource_from_row(kind, found[0]) if found else None

    def find(self, kind: type[R], query: Query, limit: int) -> list[R]:
        found = self._read(*list_sql(kind.NOUN, query, limit, self._dialect.label))
        return [rows.resource_from_row(kind, row) for row in found]

    def latest_by_family(self, folder_id: str, family: str) -> Image | None:
        found = self._read(rows.LATEST_BY_FAMILY, (folder_id, family))
        return rows.resource_from_row(Image, found[0]) if found else None

    def list_bindings(
        self, resource_id: str, after: AccessBinding | None, limit: int
    ) -> list[AccessBinding]:
        start = astuple(after) if after else ("", "", "")
        found = self._read(rows.BINDINGS, (resource_id, *start, limit))
        return [AccessBinding(*row) for row in found]

    def list_operations(
        self, resource_id: str, after: tuple[int, str], limit: int
    ) -> list[Operation]:
        found = self._read(rows.OPERATIONS_OF_RESOURCE, (resource_id, *after, limit))
        return [rows.operation_from_row(row) for row in found]

    def get_operation(self, operation_id: str) -> Operation | None:
        found = self._read(rows.OPERATION_BY_ID, (operation_id,))
        return rows.operation_from_row(found[0]) if found else None

    def secret_key(self) -> str | None:
        found = self._read(rows.SECRET_KEY, ())
        return str(found[0][0]) if found else None

    def revocations(self, since_us: int) -> list[Revocation]:
        return [Revocation(*row) for row in self._read(rows.REVOCATIONS, (since_us,))]

    def list_audit(
        self,
        after: tuple[int, str],
        limit: int,
        *,
        subject_id: str = "",
        resource_id: str = "",
    ) -> list[AuditEntry]:
        wanted = {"subject_id": subject_id, "resource_id": resource_id}
        given = {name: value for name, value in wanted.items() if value}
        conditions = "".join(f" AND {name} = ?" for name in given)
        sql = rows.AUDIT.format(conditions=conditions)
        return [AuditEntry(*row) for row in self._read(sql, (*after, *given.values(), limit))]

    def purge_audit(self, before_us: int, limit: int) -> int:
        return self._change(rows.PURGE_AUDIT, (before_us, limit))[0]

    def forget_revocations(self, now_us: int) -> int:
        return self._change(rows.FORGET_REVOCATIONS, (now_us,))[0]

    # --- work -------------------------------------------------------------------------------------

    def heartbeat(
        self, lease: Lease, phase: str, done_bytes: int, total_bytes: int | None
    ) -> Beat | None:
        progress = (phase, done_bytes, total_bytes)
        _, found = self._change(self._dialect.heartbeat, (*progress, *astuple(lease)))
        return Beat(bool(found[0][0])) if found else None

    def put_back(self, lease: Lease, delay_ms: int, *, count_attempt: bool) -> bool:
        uncounted = 0 if count_attempt else 1
        changed, _ = self._change(self._dialect.put_back, (delay_ms, uncounted, *astuple(lease)))
        return changed == 1

    def put_back_all(self, owner: str) -> int:
        failpoint("operation.release")
        number, _ = self._change(rows.PUT_BACK_ALL, (owner,))
        failpoint("operation.released")
        return number

    # --- collection -------------------------------------------------------------------------------

    def unreferenced_contents(self, limit: int) -> list[str]:
        while True:
            looked_at = self._read(rows.CONTENTS_TO_CHECK, (limit,))
            unused = [content_id for content_id, is_used in looked_at if not is_used]
            if len(unused) < len(looked_at):
                first_id, last_id = looked_at[0][0], looked_at[-1][0]
                self.write(partial(_checked, first_id, last_id))
                failpoint("content.checked")
            if unused or not looked_at:
                return unused

    def delete_content(self, content_id: str) -> bool:
        try:
            return self._change(rows.DELETE_UNREFERENCED_CONTENT, (content_id,))[0] == 1
        except self._dialect.integrity_error:
            # Somebody referred to it after the statement had looked: the foreign key saw that.
            return False

    def content(self, content_id: str) -> Content | None:
        found = self._read(rows.CONTENT_BY_ID, (content_id,))
        return Content(*found[0]) if found else None

    def contents(self, after: str, limit: int) -> list[Content]:
        return [Content(*row) for row in self._read(rows.CONTENTS_AFTER, (after, limit))]

    def contents_in_use(self, content_ids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for start in range(0, len(content_ids), _IDS_PER_STATEMENT):
            ids = content_ids[start : start + _IDS_PER_STATEMENT]
            sql = rows.CONTENTS_AMONG.format(marks=", ".join("?" * len(ids)))
            found.update(row[0] for row in self._read(sql, ids))
        return found

    def live_attempts(self, attempts: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
        return set(attempts) & set(self._read(rows.LIVE_ATTEMPTS, ()))

    def purge_operations(self, modified_before_us: int, limit: int) -> int:
        return self._change(self._dialect.purge_operations, (modified_before_us, limit))[0]

    # --- figures ----------------------------------------------------------------------------------

    def backlog(self) -> list[Backlog]:
        found = self._read(rows.BACKLOG, ())
        return [Backlog(kind, State(state), *counted) for kind, state, *counted in found]

    def content_totals(self) -> ContentTotals:
        return ContentTotals(*self._read(rows.CONTENT_TOTALS, ())[0])

    # --- examination ------------------------------------------------------------------------------

    def violations(self) -> Iterator[Finding]:
        return invariants.violations(self._read)

    def mend(self, finding: Finding) -> bool:
        changed, _ = self._change(invariants.CHECKS[finding.check].mend, (finding.subject,))
        return changed > 0

    def unfinished(self) -> list[Unfinished]:
        return [rows.unfinished_from_row(row) for row in self._read(rows.UNFINISHED, ())]

    def take_back(self, seen: Unfinished) -> bool:
        parameters = (0, 0, seen.id, seen.owner, seen.fence, seen.beat)
        return self._change(self._dialect.take_back, parameters)[0] == 1


def _checked(first_id: str, last_id: str, tx: SqlTransaction) -> None:
    """Look again, under the lock that whoever lets go of a content needs too."""
    tx.contents_checked(first_id, last_id)
    failpoint("content.check")
