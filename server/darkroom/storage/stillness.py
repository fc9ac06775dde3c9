"""Leases judged without anybody's wall clock: by marks that stand still."""

import threading
from collections.abc import Callable, Mapping

Mark = tuple[int, ...]
"""What a sign of life changes."""


class Stillness:
    """How long each mark has stood still, on the monotonic clock of whoever looks. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._since: dict[str, tuple[Mark, float]] = {}

    def seconds(self, marks: Mapping[str, Mark]) -> dict[str, float]:
        """Seconds since each mark was first seen as it is now; ids left out are forgotten."""
        now = self._monotonic()
        with self._lock:
            since: dict[str, tuple[Mark, float]] = {}
            for name, mark in marks.items():
                known = self._since.get(name)
                since[name] = known if known is not None and known[0] == mark else (mark, now)
            self._since = since
        return {name: now - first for name, (_, first) in since.items()}
