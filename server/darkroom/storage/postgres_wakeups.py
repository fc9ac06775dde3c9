"""Wakes workers that wait: LISTEN in a thread, and the clock where nobody is heard."""

import logging
import threading
from collections.abc import Callable

import psycopg

from darkroom.domain.errors import Failure
from darkroom.storage.postgres_connections import Connection

log = logging.getLogger(__name__)

RING = "NOTIFY darkroom_work"
_LISTEN = "LISTEN darkroom_work"

_CLOSING_SECONDS = 0.2
"""How long the thread may take to notice that it is over."""

_SETBACK_SECONDS = 1.0
"""Pause before listening again after the connection was lost."""


class Doorbell:
    """Rings when another process says that there is work.

    A notification may get lost: with its connection, or because a pooler of transactions stands
    in between. So whoever waits looks again after a while, rung for or not.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._rung = threading.Event()
        self._closed = threading.Event()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def wait(self, seconds: float) -> None:
        """Until it rings, `seconds` at most."""
        with self._start_lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._listen, name="doorbell", daemon=True)
                self._thread.start()
        if self._rung.wait(seconds):
            self._rung.clear()

    def close(self) -> None:
        with self._start_lock:
            self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                with self._connect() as connection:
                    connection.execute(_LISTEN)
                    self._rung.set()  # something may have come while nobody listened
                    while not self._closed.is_set():
                        for _ in connection.notifies(timeout=_CLOSING_SECONDS, stop_after=1):
                            self._rung.set()
            except psycopg.errors.FeatureNotSupported:
                log.info("this database wakes nobody: workers look for work at intervals")
                return
            except (psycopg.Error, Failure):
                self._closed.wait(_SETBACK_SECONDS)
