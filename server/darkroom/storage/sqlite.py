"""The embedded default: one SQLite file in WAL mode."""

import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, TypeVar, cast

from darkroom.domain import errors
from darkroom.domain.access import AccessBinding
from darkroom.domain.content import Content
from darkroom.domain.errors import Failure
from darkroom.domain.finding import Finding
from darkroom.domain.image import Image
from darkroom.domain.operation import Beat, Claim, Lease, Operation, Unfinished
from darkroom.domain.query import Query
from darkroom.domain.resource import Resource
from darkroom.storage import invariants, migrations, rows, statistics
from darkroom.storage.listing import SQLITE_LABEL, list_sql
from darkroom.storage.port import SchemaMismatch
from darkroom.storage.transaction import SqlTransaction

T = TypeVar("T")
R = TypeVar("R", bound=Resource)

log = logging.getLogger(__name__)

_CLAIM_WINDOW = 200
"""Unfinished operations looked at per claim: bounds the cost of a long queue of waiting retries."""

_MAX_BATCH = 64
"""Changes committed together at most: bounds how long the first of them waits for the last."""

_IDS_PER_STATEMENT = 500
"""Far below what any database allows in one statement."""

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_FULL = (sqlite3.SQLITE_FULL,)
_OUT_OF_REACH = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
"""A quota that is used up, a disk that fails or was remounted read-only."""


def _primary_code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn what only the operator can mend into failures that a client may retry."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = _primary_code(error)
        if code in _BUSY:
            raise errors.store_busy() from error
        if code in _FULL:
            log.error("database disk full")
            raise errors.store_full() from error
        if code in _OUT_OF_REACH:
            fields = {"problem": error.sqlite_errorname}
            log.error("database out of reach", extra={"fields": fields})
            raise errors.store_busy() from error
        raise


@contextlib.contextmanager
def _opening(path: Path) -> Iterator[None]:
    """What keeps a database from being opened at all is a fault of its file, so an `OSError`."""
    try:
        yield
    except sqlite3.Error as error:
        if _primary_code(error) in (*_BUSY, *_FULL):
            raise
        raise OSError(f"the database {path} cannot be used: {error}") from error


class _Change:
    """A change on its way to the file, and what became of it."""

    __slots__ = ("change", "ended", "error", "result")

    def __init__(self, change: Callable[[SqlTransaction], Any]) -> None:
        self.change = change
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = False


class SqliteStore:
    """`MetadataStore` on one file. Readers never wait; writers of a process queue for one lock.

    A lease expires when its beat has stood still for `lease_seconds` on this observer's own
    monotonic clock: several processes agree without trusting any wall clock, at the price that
    an observer that starts afresh waits one full lease before it takes work over.
    """

    def __init__(
        self,
        path: Path,
        *,
        lease_seconds: float = 10.0,
        busy_seconds: float = 3.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._lease_seconds = lease_seconds
        self._busy_seconds = busy_seconds
        self._monotonic = monotonic
        self._readers: deque[sqlite3.Connection] = deque()
        self._write_lock = threading.Lock()
        self._queue: deque[_Change] = deque()
        self._seen_lock = threading.Lock()
        self._seen: dict[str, tuple[tuple[int, int, int], float]] = {}
        if not path.exists():
            # The file holds sealed secrets and names of resources: nobody else reads it.
            path.touch(mode=0o600)
        with _opening(path):
            self._writer = self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            timeout=self._busy_seconds,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=64,
        )
        # WAL lets readers go on beside the writer; FULL makes a commit survive a power cut.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def close(self) -> None:
        while self._readers:
            self._readers.pop().close()
        with self._write_lock:
            self._writer.close()

    # --- schema -----------------------------------------------------------------------------------

    def migrate(self) -> int:
        with self._locked(), _translated(), _opening(self._path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                (version,) = self._writer.execute("PRAGMA user_version").fetchone()
                for number, script in migrations.pending(version):
                    for statement in migrations.statements(script):
                        self._writer.execute(statement)
                    self._writer.execute(f"PRAGMA user_version = {number}")
                    log.info("schema migrated", extra={"fields": {"version": number}})
                if version < migrations.latest():
                    for statement in statistics.statements():
                        self._writer.execute(statement)
                self._writer.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
        self.check_schema()
        return migrations.latest()

    def check_schema(self) -> None:
        with _opening(self._path):
            ((version,),) = self._read("PRAGMA user_version", ())
        if version != migrations.latest():
            raise SchemaMismatch(migrations.mismatch(version))

    def writable(self) -> bool:
        try:
            with self._locked(), _translated():
                self._writer.execute("BEGIN IMMEDIATE")
                try:
                    # The same version as before, yet a page that has to reach the disk.
                    (version,) = self._writer.execute("PRAGMA user_version").fetchone()
                    self._writer.execute(f"PRAGMA user_version = {version}")
                    self._writer.execute("COMMIT")
                except BaseException:
                    self._rollback()
                    raise
        except Failure:
            return False
        return True

    # --- transactions -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # SQLite's own waiting is a sleep with back-off; queueing here keeps writers of this
        # process in order and leaves the sleeping to the rare meeting with another process.
        if not self._write_lock.acquire(timeout=self._busy_seconds):
            raise errors.store_busy()
        try:
            yield
        finally:
            self._write_lock.release()

    def _rollback(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def _execute(self, sql: str, parameters: Sequence[Any]) -> sqlite3.Cursor:
        return self._writer.execute(sql, parameters)

    def write(self, change: Callable[[SqlTransaction], T]) -> T:
        """See the port. Changes that wait for the lock together are committed together.

        A commit costs a flush to disk, and under the interpreter's lock whoever holds the write
        lock is slowed down by all who wait for it; one flush for all of them serves everybody.
        """
        waiting = _Change(change)
        self._queue.append(waiting)
        if not self._write_lock.acquire(timeout=self._busy_seconds):
            try:
                self._queue.remove(waiting)
            except ValueError:
                # Whoever has the lock is committing it already: it must not be reported as undone.
                self._write_lock.acquire()
            else:
                raise errors.store_busy()
        try:
            while not waiting.ended:  # a long queue takes more than one batch
                self._commit_waiting()
        finally:
            self._write_lock.release()
        if waiting.error is not None:
            raise waiting.error
        return cast(T, waiting.result)

    def _commit_waiting(self) -> None:
        batch: list[_Change] = []
        while self._queue and len(batch) < _MAX_BATCH:
            batch.append(self._queue.popleft())
        try:
            # Nearly always all succeed. If one does not, each gets a savepoint of its own.
            if not self._commit(batch, apart=False):
                self._commit(batch, apart=True)
        except BaseException as error:
            for waiting in batch:
                waiting.error = waiting.error or error
        finally:
            for waiting in batch:
                waiting.ended = True

    def _commit(self, batch: "list[_Change]", *, apart: bool) -> bool:
        """Run and commit the changes; False, with nothing done, if one failed and not `apart`."""
        tx = SqlTransaction(self._execute, sqlite3.IntegrityError)
        with _translated():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                for waiting in batch:
                    if apart:
                        self._writer.execute("SAVEPOINT change")
                    try:
                        with _translated():
                            waiting.result = waiting.change(tx)
                    except BaseException as error:
                        if not apart and len(batch) > 1:
                            self._rollback()
                            return False
                        waiting.error = error
                        if not apart:
                            self._rollback()
                            return True
                        if not self._writer.in_transaction:
                            raise  # a full disk, for one, makes SQLite take back everything
                        self._writer.execute("ROLLBACK TO change")
                    if apart:
                        self._writer.execute("RELEASE change")
                self._writer.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
        return True

    def _read(self, sql: str, parameters: Sequence[Any]) -> list[rows.Row]:
        with _translated():
            try:
                connection = self._readers.pop()
            except IndexError:
                connection = self._connect()
            try:
                return connection.execute(sql, parameters).fetchall()
            finally:
                self._readers.append(connection)

    # --- reads ------------------------------------------------------------------------------------

    def get(self, kind: type[R], resource_id: str) -> R | None:
        found = self._read(rows.RESOURCE_BY_ID, (resource_id, kind.NOUN))
        return rows.resource_from_row(kind, found[0]) if found else None

    def find(self, kind: type[R], query: Query, limit: int) -> list[R]:
        found = self._read(*list_sql(kind.NOUN, query, limit, SQLITE_LABEL))
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

    # --- work -------------------------------------------------------------------------------------

    def _due(self, candidates: list[rows.Row]) -> list[rows.Row]:
        """Those candidates whose wait or lease has run out as this process has seen it."""
        now = self._monotonic()
        due = []
        with self._seen_lock:
            seen: dict[str, tuple[tuple[int, int, int], float]] = {}
            for operation_id, state, fence, beat, delay_ms in candidates:
                mark = (state, fence, beat)
                known = self._seen.get(operation_id)
                since = known[1] if known is not None and known[0] == mark else now
                seen[operation_id] = (mark, since)
                patience = self._lease_seconds if state == 1 else delay_ms / 1000
                if patience == 0 or now - since >= patience:
                    due.append((operation_id, state, fence, beat))
            self._seen = seen
        return due

    def claim(self, owner: str) -> Claim | None:
        for operation_id, state, fence, beat in self._due(
            self._read(rows.CLAIMABLE, (_CLAIM_WINDOW,))
        ):
            claim = self._claim_one(owner, operation_id, state, fence, beat)
            if claim is not None:
                return claim
        return None

    def _claim_one(
        self, owner: str, operation_id: str, state: int, fence: int, beat: int
    ) -> Claim | None:
        with self._locked(), _translated():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                changed = self._writer.execute(
                    "UPDATE operation SET state = 1, owner = ?, fence = fence + 1, beat = 0, "
                    "attempt = attempt + 1, delay_ms = 0 "
                    "WHERE id = ? AND state = ? AND fence = ? AND beat = ?",
                    (owner, operation_id, state, fence, beat),
                ).rowcount
                if changed == 0:
                    self._writer.execute("ROLLBACK")
                    return None
                operation = self._writer.execute(rows.OPERATION_BY_ID, (operation_id,)).fetchone()
                attempt, payload, sealed = self._writer.execute(
                    rows.CLAIMED_EXTRAS, (operation_id,)
                ).fetchone()
                self._writer.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
        return Claim(
            Lease(operation_id, owner, fence + 1),
            rows.operation_from_row(operation),
            attempt,
            json.loads(payload) if payload else {},
            sealed,
        )

    def heartbeat(
        self, lease: Lease, phase: str, done_bytes: int, total_bytes: int | None
    ) -> Beat | None:
        with self._locked(), _translated():
            found = self._writer.execute(
                "UPDATE operation SET beat = beat + 1, phase = ?, progress_done_bytes = ?, "
                "progress_total_bytes = ? WHERE id = ? AND owner = ? AND fence = ? AND state = 1 "
                "RETURNING cancel_requested",
                (phase, done_bytes, total_bytes, lease.operation_id, lease.owner, lease.fence),
            ).fetchall()
        return Beat(bool(found[0][0])) if found else None

    def _change(self, sql: str, parameters: Sequence[Any]) -> int:
        with self._locked(), _translated():
            return self._writer.execute(sql, parameters).rowcount

    def put_back(self, lease: Lease, delay_ms: int, *, count_attempt: bool) -> bool:
        uncounted = 0 if count_attempt else 1
        parameters = (delay_ms, uncounted, lease.operation_id, lease.owner, lease.fence)
        return self._change(rows.PUT_BACK, parameters) == 1

    def put_back_all(self, owner: str) -> int:
        return self._change(rows.PUT_BACK_ALL, (owner,))

    # --- collection -------------------------------------------------------------------------------

    def unreferenced_contents(self, limit: int) -> list[str]:
        while True:
            looked_at = self._read(rows.CONTENTS_TO_CHECK, (limit,))
            unused = [content_id for content_id, is_used in looked_at if not is_used]
            if len(unused) < len(looked_at):
                # Looks again, under the lock that whoever lets go of a content needs too.
                self._change(rows.CONTENTS_CHECKED, (looked_at[0][0], looked_at[-1][0]))
            if unused or not looked_at:
                return unused

    def delete_content(self, content_id: str) -> bool:
        return self._change(rows.DELETE_UNREFERENCED_CONTENT, (content_id,)) == 1

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
        return self._change(rows.PURGE_OPERATIONS, (modified_before_us, limit))

    # --- examination ------------------------------------------------------------------------------

    def damage(self) -> list[str]:
        try:
            said = [str(row[0]) for row in self._read("PRAGMA integrity_check", ())]
            lost = self._read("PRAGMA foreign_key_check", ())
        except sqlite3.DatabaseError as error:
            return [str(error)]
        pairs = sorted({(row[0], row[2]) for row in lost} - invariants.REFERENCES)
        return [
            *(line for line in said if line != "ok"),
            *(
                f"rows of {child} refer to rows of {parent} that are gone"
                for child, parent in pairs
            ),
        ]

    def violations(self) -> Iterator[Finding]:
        return invariants.violations(self._read)

    def mend(self, finding: Finding) -> bool:
        return self._change(invariants.CHECKS[finding.check].mend, (finding.subject,)) > 0

    def unfinished(self) -> list[Unfinished]:
        return [rows.unfinished_from_row(row) for row in self._read(rows.UNFINISHED, ())]

    def take_back(self, seen: Unfinished) -> bool:
        parameters = (0, 0, seen.id, seen.owner, seen.fence, seen.beat)
        return self._change(rows.TAKE_BACK, parameters) == 1
