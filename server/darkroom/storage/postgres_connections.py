"""Connections to PostgreSQL: kept, bounded in number, and given up in time."""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, TypeVar

import psycopg
from psycopg import conninfo
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8Dumper

from darkroom.domain import errors

RV = TypeVar("RV")

log = logging.getLogger(__name__)

MAX_AGE_SECONDS = 1800.0
"""Connections are renewed this often, so that they follow a database that was moved."""

_FIXED = {
    "application_name": "darkroom",
    # A peer that is gone without a word is noticed within ten seconds.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""What a URL may say otherwise."""


class OutOfReach(Exception):
    """No connection can be made; the text says why and holds no password."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which nothing is waited for longer than its patience.

    The server's own time limits do not help against a server that has stopped.
    """

    patience_seconds: float | None = None
    opened: float = 0.0

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        return super().wait(gen, interval, self.patience_seconds if timeout is None else timeout)


class Connections:
    """Takes, makes and keeps connections. Thread-safe.

    While the last attempt to connect has failed, only one thread at a time tries again: the
    others are told at once.
    """

    def __init__(
        self,
        url: str,
        *,
        limit: int,
        wait_seconds: float,
        connect_seconds: float,
        patience_seconds: float,
    ) -> None:
        """At most `limit` at once; who finds none free waits `wait_seconds`.

        Raises `ValueError` for a URL that cannot be understood.
        """
        try:
            given = conninfo.conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            # Its text quotes the URL, and with it the password.
            raise ValueError("must be a postgresql:// URL that libpq understands") from None
        self._password = str(given.get("password") or "")
        self._parameters: dict[str, Any] = {
            **_FIXED,
            "connect_timeout": max(2, round(connect_seconds)),
            **given,
        }
        self._wait_seconds = wait_seconds
        self._patience_seconds = patience_seconds
        wait_ms, patience_ms = round(wait_seconds * 1000), round(patience_seconds * 1000)
        self._limits = (
            f"SET lock_timeout = {wait_ms}; SET statement_timeout = {patience_ms}; "
            f"SET idle_in_transaction_session_timeout = {patience_ms}"
        )
        self._free = threading.BoundedSemaphore(limit)
        self._idle: deque[Connection] = deque()
        self._down = threading.Event()
        self._probing = threading.Lock()
        self._closed = False

    @contextlib.contextmanager
    def taken(self) -> Iterator[Connection]:
        """A connection outside of any transaction; it is not kept if it is left otherwise.

        Raises `Failure` STORE_BUSY, its cause `OutOfReach`, if there is none to be had.
        """
        if not self._free.acquire(timeout=self._wait_seconds):
            raise errors.store_busy()
        try:
            connection = self._kept() or self.connect()
            try:
                yield connection
            finally:
                self._give_back(connection)
        finally:
            self._free.release()

    def _kept(self) -> Connection | None:
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        return None

    def _give_back(self, connection: Connection) -> None:
        fresh = time.monotonic() - connection.opened < MAX_AGE_SECONDS
        if connection.info.transaction_status is TransactionStatus.IDLE and fresh:
            self._idle.append(connection)
            if self._closed:
                self.forget()
        else:
            connection.close()

    def forget(self) -> None:
        """Close what is idle: after one was lost, the others are most likely lost as well."""
        while (connection := self._kept()) is not None:
            connection.close()

    def close(self) -> None:
        self._closed = True
        self.forget()

    def connect(self) -> Connection:
        """One more connection, in autocommit. Raises like `taken`."""
        if not self._down.is_set():
            return self._connect()
        if not self._probing.acquire(blocking=False):
            raise errors.store_busy() from OutOfReach("it was out of reach a moment ago")
        try:
            return self._connect()
        finally:
            self._probing.release()

    def _connect(self) -> Connection:
        try:
            connection = Connection.connect(
                conninfo.make_conninfo(**self._parameters),
                autocommit=True,
                cursor_factory=psycopg.RawCursor,
            )
            try:
                connection.patience_seconds = self._patience_seconds
                self._introduce(connection)
            except BaseException:
                connection.close()
                raise
        except psycopg.OperationalError as error:
            problem = self._redacted(str(error))
            if not self._down.is_set():
                self._down.set()
                log.error("database out of reach", extra={"fields": {"problem": problem}})
            raise errors.store_busy() from OutOfReach(problem)
        if self._down.is_set():
            self._down.clear()
            log.info("database within reach again")
        connection.opened = time.monotonic()
        # One type for every whole number, or each size of numbers is another statement to plan.
        connection.adapters.register_dumper(int, Int8Dumper)
        return connection

    def _introduce(self, connection: Connection) -> None:
        # The server's own limits, which free the locks of a client that stopped. Behind a pooler
        # of transactions they hold where a connection to the server has met them once.
        cursor = connection.execute(f"{self._limits}; SELECT pg_backend_pid()")
        while cursor.nextset():
            pass
        (served_by,) = cursor.fetchone() or (None,)
        if served_by != connection.info.backend_pid:
            # A pooler stands in between. Prepared statements are called the same in every client:
            # where connections are handed around, one could run what another has prepared.
            connection.prepare_threshold = None

    def _redacted(self, text: str) -> str:
        text = " ".join(text.split())
        return text.replace(self._password, "***") if self._password else text
