"""Files that are read again when they change, without a restart, and how to change them."""

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""Between two looks whether something has changed: what is taken away is in force that long."""

Stamp = tuple[tuple[str, int, int, int, int], ...]


def stamp(*paths: Path) -> Stamp:
    """What differs once one of the files is another one, or has been written to.

    Raises `OSError` for a file that cannot be looked at.
    """
    stats = [(path.name, path.stat()) for path in paths]
    return tuple(
        (name, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_size)
        for name, stat in stats
    )


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Replace or make a file in one step: who follows it never sees half of it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


class Followed(Generic[T]):
    """What was last read from files that a person may change at any time.

    What cannot be read leaves the last value in force, with a line in the log: half a file must
    not lock everybody out, nor let anybody in.
    """

    def __init__(
        self,
        what: str,
        look: Callable[[], Stamp],
        read: Callable[[], T],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`read` raises `OSError` or `ValueError` for what cannot be used, and so does this."""
        self._what = what
        self._look = look
        self._read = read
        self._monotonic = monotonic
        self._lock = threading.Lock()
        # Looked at first: what changes while it is read is read again.
        self._seen = look()
        self._value = read()
        self._looked_at = monotonic()
        self._problem = ""

    def current(self) -> T:
        """The value, at most `LOOK_SECONDS` behind the files."""
        # One caller looks, the others go on with what there is.
        if self._monotonic() - self._looked_at >= LOOK_SECONDS and self._lock.acquire(
            blocking=False
        ):
            try:
                self._refresh()
            finally:
                self._looked_at = self._monotonic()
                self._lock.release()
        return self._value

    def _refresh(self) -> None:
        try:
            present = self._look()
            if present == self._seen:
                return
            # Not again before the next change: that is when a wrong file may have become right.
            self._seen = present
            self._value = self._read()
        except (OSError, ValueError) as error:
            problem = (error.strerror or "") if isinstance(error, OSError) else str(error)
            if problem != self._problem:
                fields = {"what": self._what, "problem": problem}
                log.error("cannot be read again; the last one stays", extra={"fields": fields})
            self._problem = problem
            return
        self._problem = ""
        log.info("read again", extra={"fields": {"what": self._what}})
