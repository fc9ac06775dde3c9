"""PostgreSQL, for many API processes and workers on many machines."""

import logging
import random
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from darkroom.domain import errors
from darkroom.domain.errors import Failure
from darkroom.domain.operation import Claim, Lease
from darkroom.storage import migrations, rows
from darkroom.storage.dialect import Dialect, key_held
from darkroom.storage.postgres_connections import Connection, Connections, OutOfReach
from darkroom.storage.postgres_wakeups import RING, Doorbell
from darkroom.storage.sql import SqlStore
from darkroom.storage.stillness import Stillness
from darkroom.storage.transaction import SqlTransaction
from darkroom.telemetry.failpoints import failpoint

T = TypeVar("T")

log = logging.getLogger(__name__)

# The clock of the moment, not of the transaction's start: a statement may have waited for a lock.
_MOMENT = "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint"

DIALECT = Dialect(
    integrity_error=psycopg.IntegrityError,
    moment=_MOMENT,
    beat=_MOMENT,
    label="(CASE labels WHEN '' THEN NULL ELSE labels END::json ->> ?::text)",
    lock=" FOR UPDATE",
    share=" FOR SHARE",
    skip_locked=" FOR UPDATE SKIP LOCKED",
)

# A beat of the future was left by a clock that has been put back: nobody can say how long ago.
_CLAIM_DUE = (
    "WITH due AS MATERIALIZED (SELECT id AS due_id FROM operation WHERE state < 2 AND state = 0 "
    f"AND (delay_ms = 0 OR NOT {_MOMENT} BETWEEN beat AND beat + delay_ms * 1000 - 1) "
    f"AND {{key_held}} ORDER BY created_at_us, id LIMIT 1{DIALECT.skip_locked}) "
    f"{rows.CLAIM.format(moment=_MOMENT)} FROM due WHERE id = due_id{rows.CLAIMED}"
)
_EXPIRED = (
    "SELECT id, state, fence, beat FROM operation WHERE state < 2 AND state = 1 "
    f"AND NOT {_MOMENT} BETWEEN beat AND beat + ? ORDER BY created_at_us, id LIMIT ?"
)
_EXPIRED_WINDOW = 100

_MAKE_VERSION_TABLE = (
    "CREATE TABLE IF NOT EXISTS schema_version (only_row INTEGER PRIMARY KEY, "
    "version INTEGER NOT NULL, oldest_program INTEGER NOT NULL)"
)
_ADD_VERSION = (
    "INSERT INTO schema_version (only_row, version, oldest_program) VALUES (1, 0, 0) "
    "ON CONFLICT DO NOTHING"
)
_VERSION = "SELECT version, oldest_program FROM schema_version WHERE only_row = 1"
_SET_VERSION = "UPDATE schema_version SET version = $1, oldest_program = $2 WHERE only_row = 1"

_UNSURE = "40003"
"""How a distributed database says that it does not know whether it committed."""

_ATTEMPTS = 6
"""Runs of a transaction that others got in the way of, before its caller is told to come back."""

_MIGRATION_SECONDS = 600.0
"""How long a step of a migration may take, and how long another process waits for it."""


@lru_cache(maxsize=1024)
def _numbered(sql: str) -> str:
    """The statement with its `?` as `$1`, `$2` and so on."""
    first, *rest = sql.split("?")
    return first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))


def _is_lost(error: psycopg.Error) -> bool:
    """Whether the connection is of no use any more."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError)
    # Connection exceptions, shutdown of the server, and a server that has become a standby.
    return state[:2] == "08" or state in ("57P01", "57P02", "57P03", "25P03", "25P04", "25006")


def _is_passing(error: psycopg.Error) -> bool:
    """Whether the server took a transaction back because of others: it may be run again.

    Another transaction may have inserted the same idempotency key, or the same row, first: seen
    from its end, this one will find that.
    """
    state = error.sqlstate or ""
    return (state[:2] == "40" and state != _UNSURE) or isinstance(
        error, psycopg.errors.UniqueViolation
    )


def _failure(error: psycopg.Error) -> Failure | None:
    """What a client is told; None for a fault of the program."""
    state = error.sqlstate or ""
    if state == "53100":
        log.error("database disk full")
        return errors.store_full()
    # Out of resources, or out of time: waiting for a lock, or running.
    if state[:2] == "53" or state in ("55P03", "57014"):
        return errors.store_busy()
    if state in ("42P01", "42703"):
        log.error("database has not the schema of this program")
        return errors.store_busy()
    if _is_lost(error) or state[:2] == "40":
        return errors.store_busy()
    return None


class PostgresStore(SqlStore):
    """`MetadataStore` on PostgreSQL or a database that speaks like it.

    Transactions run side by side at READ COMMITTED: what one relies on, it locks. Leases are
    dated by the database's clock, so no clock of a worker matters; one that looks expired is
    taken over only after its mark has also stood still for a while on the observer's own
    monotonic clock, so a step of the database's clock takes no work from a living worker.
    """

    def __init__(
        self,
        url: str,
        *,
        lease_seconds: float = 10.0,
        busy_seconds: float = 3.0,
        patience_seconds: float = 10.0,
        max_connections: int = 10,
        poll_seconds: float = 0.25,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connects when it is first asked. Raises `ValueError` for a URL without sense.

        Nothing waits longer than `busy_seconds` for a lock or a connection, nor longer than
        `patience_seconds` for an answer.
        """
        super().__init__(DIALECT)
        self._busy_seconds = busy_seconds
        self._lease_us = round(lease_seconds * 1_000_000)
        self._monotonic = monotonic
        self._stillness = Stillness(monotonic)
        # Living workers leave a mark five times in a lease.
        self._still_seconds = lease_seconds / 4
        self._next_look = monotonic()
        self._connections = Connections(
            url,
            limit=max_connections,
            wait_seconds=busy_seconds,
            connect_seconds=busy_seconds,
            patience_seconds=patience_seconds,
        )
        self._doorbell = Doorbell(self._connections.connect)
        self._poll_seconds = poll_seconds
        self._rings = True

    def close(self) -> None:
        self._doorbell.close()
        self._connections.close()

    # --- schema -----------------------------------------------------------------------------------

    def migrate(self) -> int:
        deadline = self._monotonic() + _MIGRATION_SECONDS
        with self._connections.taken() as connection:
            try:
                while not self._migrated(connection):
                    if self._monotonic() > deadline:
                        raise errors.store_busy()
            except psycopg.Error as error:
                problem = OutOfReach(str(error))
                raise _failure(error) or OSError(
                    f"the database cannot be used: {error}"
                ) from problem
        self.check_schema()
        return migrations.latest()

    def _migrated(self, connection: Connection) -> bool:
        """Take one step; whether none is left. Another process may be in the way: then again."""
        try:
            connection.execute(_MAKE_VERSION_TABLE)
            connection.execute(_ADD_VERSION)
            with connection.transaction():
                done = self._step(connection)
                failpoint("schema.migrate")
            failpoint("schema.migrated")
            return done
        except psycopg.errors.LockNotAvailable:
            return False
        except psycopg.Error as error:
            # IF NOT EXISTS does not see what another transaction is just making.
            made = isinstance(
                error, (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject)
            )
            if not (made or _is_passing(error)):
                raise
            time.sleep(random.uniform(0.0, 0.1))  # noqa: S311
            return False

    def _step(self, connection: Connection) -> bool:
        # The row of the version is what processes that migrate at the same time wait for: no
        # advisory lock, which poolers and distributed databases do not have.
        ((version, _),) = connection.execute(_VERSION + DIALECT.lock).fetchall()
        steps = migrations.pending(version)
        if not steps:
            return True
        number, script = steps[0]
        connection.execute(f"SET LOCAL statement_timeout = {round(_MIGRATION_SECONDS * 1000)}")
        patience_seconds, connection.patience_seconds = connection.patience_seconds, None
        try:
            for statement in migrations.statements(script):
                # Order and equality by code point, whatever the database's own rules are.
                connection.execute(statement.replace(" TEXT ", ' TEXT COLLATE "C" '))
        finally:
            connection.patience_seconds = patience_seconds
        connection.execute(_SET_VERSION, (number, migrations.oldest_program(number)))
        log.info("schema migrated", extra={"fields": {"version": number}})
        return len(steps) == 1

    def check_schema(self) -> None:
        def version(connection: Connection) -> tuple[int, int]:
            try:
                ((number, oldest),) = connection.execute(_VERSION).fetchall()
            except psycopg.errors.UndefinedTable:
                return 0, 0
            return number, oldest

        migrations.check(*self._run(version))

    def writable(self) -> bool:
        try:
            # Locking a row writes to it; one that nobody else needs at the moment.
            self._change(f"SELECT slot FROM folder_slot LIMIT 1{DIALECT.skip_locked}", ())
        except Failure:
            return False
        return True

    # --- transactions -----------------------------------------------------------------------------

    def _run(self, act: Callable[[Connection], T], *, repeat: bool = True) -> T:
        """What `act` returns. Where it was stopped by others, or by a lost connection, again.

        So `act` raises `psycopg.Error` only where it has changed nothing, or where doing it once
        more does no harm; `repeat` says that it does.
        """
        started, attempt = self._monotonic(), 1
        while True:
            try:
                with self._connections.taken() as connection:
                    return act(connection)
            except psycopg.Error as error:
                lost = _is_lost(error)
                if lost:
                    self._connections.forget()
                may_repeat = repeat and (lost or _is_passing(error))
                waited = self._monotonic() - started
                if not may_repeat or attempt == _ATTEMPTS or waited > self._busy_seconds:
                    failure = _failure(error)
                    if failure is None:
                        raise
                    raise failure from error
            if not lost:
                time.sleep(random.uniform(0.0, 0.005 * 2**attempt))  # noqa: S311
            attempt += 1

    def write(self, change: Callable[[SqlTransaction], T]) -> T:
        """See the port. Raises `Failure` STORE_OUTCOME_UNKNOWN if the answer to COMMIT was lost."""

        def transaction(connection: Connection) -> tuple[T, bool]:
            def execute(sql: str, parameters: Sequence[Any]) -> psycopg.Cursor[Any]:
                return connection.execute(_numbered(sql), parameters)

            tx = SqlTransaction(execute, DIALECT)
            # Said, because a database may be set to another default.
            connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED", prepare=False)
            try:
                result = change(tx)
                if connection.info.transaction_status is TransactionStatus.INERROR:
                    raise RuntimeError("a change went on after a statement of it had failed")
            except BaseException:
                _roll_back(connection)
                raise
            _commit(connection)
            return result, tx.wakes

        result, wakes = self._run(transaction)
        if wakes:
            self._ring()
        return result

    def _read(self, sql: str, parameters: Sequence[Any]) -> list[rows.Row]:
        return self._run(lambda each: each.execute(_numbered(sql), parameters).fetchall())

    def _change(
        self, sql: str, parameters: Sequence[Any], *, repeat: bool = True
    ) -> tuple[int, list[rows.Row]]:
        def act(connection: Connection) -> tuple[int, list[rows.Row]]:
            cursor = connection.execute(_numbered(sql), parameters)
            return cursor.rowcount, cursor.fetchall() if cursor.description else []

        return self._run(act, repeat=repeat)

    def _ring(self) -> None:
        """Wake the workers. Not in the transaction: those that notify commit one by one."""
        if not self._rings:
            return
        try:
            with self._connections.taken() as connection:
                connection.execute(RING)
        except psycopg.errors.FeatureNotSupported:
            self._rings = False
        except (psycopg.Error, Failure):
            log.debug("workers were not woken")  # they look for themselves before long

    # --- work -------------------------------------------------------------------------------------

    def wait_for_work(self) -> None:
        self._doorbell.wait(self._poll_seconds)

    def claim(self, owner: str, key_ids: Sequence[str] = ()) -> Claim | None:
        claimed = self._take_over(owner, key_ids)
        if not claimed:
            sql = _CLAIM_DUE.format(key_held=key_held(len(key_ids)))
            # Not twice: what the first one took would be nobody's until its lease expires.
            _, claimed = self._change(sql, (*key_ids, owner), repeat=False)
        return rows.claim_from_row(claimed[0]) if claimed else None

    def _take_over(self, owner: str, key_ids: Sequence[str]) -> list[rows.Row]:
        now = self._monotonic()
        if now < self._next_look:
            return []
        self._next_look = now + min(1.0, self._still_seconds)
        expired = self._read(_EXPIRED, (self._lease_us, _EXPIRED_WINDOW))
        still = self._stillness.seconds({row[0]: row[1:] for row in expired})
        sql = self._dialect.claim_guarded(len(key_ids))
        for row in expired:
            if still[row[0]] >= self._still_seconds:
                _, claimed = self._change(sql, (owner, *row, *key_ids), repeat=False)
                if claimed:
                    return claimed
        return []

    def put_back(self, lease: Lease, delay_ms: int, *, count_attempt: bool) -> bool:
        done = super().put_back(lease, delay_ms, count_attempt=count_attempt)
        if done and not delay_ms:
            self._ring()
        return done

    def put_back_all(self, owner: str) -> int:
        number = super().put_back_all(owner)
        if number:
            self._ring()
        return number

    # --- examination ------------------------------------------------------------------------------

    def damage(self) -> list[str]:
        # By JSON: a database that only speaks like PostgreSQL may lack the column, or the row.
        sql = (
            "SELECT to_json(seen) ->> 'checksum_failures' FROM pg_stat_database AS seen "
            "WHERE datname = current_database()"
        )
        failures = sum(int(row[0] or 0) for row in self._read(sql, ()))
        if not failures:
            return []
        return [f"the server has met {failures} pages whose checksum was wrong"]


def _roll_back(connection: Connection) -> None:
    try:
        if connection.info.transaction_status is TransactionStatus.ACTIVE:
            connection.close()  # it never answered: nothing can be said to it
        elif not connection.closed:
            connection.execute("ROLLBACK", prepare=False)
    except psycopg.Error:
        connection.close()


def _commit(connection: Connection) -> None:
    """Raises `psycopg.Error` where the server said that nothing was committed."""
    try:
        connection.execute("COMMIT", prepare=False)
    except psycopg.Error as error:
        refused = error.diag.severity_nonlocalized == "ERROR" and error.sqlstate != _UNSURE
        if refused:
            raise
        # The server may have committed before it, or the way to it, was lost.
        raise errors.store_outcome_unknown() from error
