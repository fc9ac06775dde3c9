"""The embedded default: one SQLite file in WAL mode."""

import contextlib
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from darkroom.domain import errors
from darkroom.domain.errors import Failure
from darkroom.domain.operation import Claim
from darkroom.storage import invariants, migrations, rows, statistics
from darkroom.storage.dialect import Dialect
from darkroom.storage.sql import SqlStore
from darkroom.storage.stillness import Stillness
from darkroom.storage.transaction import SqlTransaction
from darkroom.telemetry.failpoints import failpoint

T = TypeVar("T")

log = logging.getLogger(__name__)

_CLAIM_WINDOW = 200
"""Unfinished operations looked at per claim: bounds the cost of a long queue of waiting retries."""

_MAX_BATCH = 64
"""Changes committed together at most: bounds how long the first of them waits for the last."""

_POLL_SECONDS = 0.02
"""Between two looks for work: one costs some microseconds."""

DIALECT = Dialect(
    integrity_error=sqlite3.IntegrityError,
    moment="0",
    beat="beat + 1",
    label=(
        "(SELECT value FROM json_each(CASE labels WHEN '' THEN '{}' ELSE labels END) WHERE key = ?)"
    ),
)

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


# The version itself is where SQLite has a place for it.
_MAKE_OLDEST_PROGRAM = (
    "CREATE TABLE IF NOT EXISTS schema_version "
    "(only_row INTEGER PRIMARY KEY, oldest_program INTEGER NOT NULL)"
)
_SET_OLDEST_PROGRAM = (
    "INSERT OR REPLACE INTO schema_version (only_row, oldest_program) VALUES (1, ?)"
)
_OLDEST_PROGRAM = "SELECT oldest_program FROM schema_version WHERE only_row = 1"
_HAS_OLDEST_PROGRAM = "SELECT 1 FROM sqlite_schema WHERE name = 'schema_version'"


class _Change:
    """A change on its way to the file, and what became of it."""

    __slots__ = ("change", "ended", "error", "result")

    def __init__(self, change: Callable[[SqlTransaction], Any]) -> None:
        self.change = change
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = False


class SqliteStore(SqlStore):
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
        super().__init__(DIALECT)
        self._path = path
        self._lease_seconds = lease_seconds
        self._busy_seconds = busy_seconds
        self._stillness = Stillness(monotonic)
        self._readers: deque[sqlite3.Connection] = deque()
        self._write_lock = threading.Lock()
        self._queue: deque[_Change] = deque()
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
                    self._writer.execute(_MAKE_OLDEST_PROGRAM)
                    oldest = migrations.oldest_program(migrations.latest())
                    self._writer.execute(_SET_OLDEST_PROGRAM, (oldest,))
                    for statement in statistics.statements():
                        self._writer.execute(statement)
                    failpoint("schema.migrate")
                self._writer.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
        failpoint("schema.migrated")
        self.check_schema()
        return migrations.latest()

    def check_schema(self) -> None:
        with _opening(self._path):
            ((version,),) = self._read("PRAGMA user_version", ())
            oldest = version
            if version > migrations.latest() and self._read(_HAS_OLDEST_PROGRAM, ()):
                ((oldest,),) = self._read(_OLDEST_PROGRAM, ())
        migrations.check(version, oldest)

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
        tx = SqlTransaction(self._execute, DIALECT)
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

    def _change(self, sql: str, parameters: Sequence[Any]) -> tuple[int, list[rows.Row]]:
        with self._locked(), _translated():
            cursor = self._writer.execute(sql, parameters)
            returned = cursor.fetchall()  # an UPDATE ... RETURNING is finished by reading it
            return cursor.rowcount, returned

    # --- work -------------------------------------------------------------------------------------

    def _due(self, candidates: list[rows.Row]) -> list[rows.Row]:
        """Those candidates whose wait or lease has run out as this process has seen it."""
        still = self._stillness.seconds({row[0]: row[1:4] for row in candidates})
        due = []
        for operation_id, state, fence, beat, delay_ms in candidates:
            patience = self._lease_seconds if state == 1 else delay_ms / 1000
            if patience == 0 or still[operation_id] >= patience:
                due.append((operation_id, state, fence, beat))
        return due

    def wait_for_work(self) -> None:
        time.sleep(_POLL_SECONDS)

    def claim(self, owner: str, key_ids: Sequence[str] = ()) -> Claim | None:
        sql = self._dialect.claim_guarded(len(key_ids))
        for candidate in self._due(self._read(rows.CLAIMABLE, (_CLAIM_WINDOW,))):
            _, claimed = self._change(sql, (owner, *candidate, *key_ids))
            if claimed:
                return rows.claim_from_row(claimed[0])
        return None

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

    def snapshot(self, target: Path) -> None:
        """Copy the database as of one moment to a new file; readers and writers go on meanwhile.

        Nothing that was erased is in it. Raises `OSError`.
        """
        target.touch(mode=0o600, exist_ok=False)
        try:
            with contextlib.closing(self._connect()) as connection:
                connection.execute("VACUUM INTO ?", (str(target),))
        except sqlite3.Error as error:
            raise OSError(f"the database cannot be copied: {error}") from error
