"""Few lines about many calls: what the log says of those that are refused because of overload."""

import logging
import threading
from collections import Counter

import grpc

from darkroom.domain import errors
from darkroom.telemetry.logs import often

log = logging.getLogger("darkroom.access")

OVERLOADED = errors.overloaded().reason
"""Of refusals that may come by the thousand a second."""

_SECONDS = 1.0


class OverloadLog:
    """Lets one refused call a second have its own line and counts the others, by method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: Counter[str] = Counter()
        self._timer: threading.Timer | None = None

    def has_own_line(self, path: str) -> bool:
        """Whether the refusal of a call of that method is to be logged; else it is counted."""
        with self._lock:
            if self._timer is not None:
                self._counted[path] += 1
                return False
            self._timer = threading.Timer(_SECONDS, self.flush)
            self._timer.daemon = True
            self._timer.start()
        return True

    def flush(self) -> None:
        """Log what was counted; the next refusal has a line again."""
        with self._lock:
            timer, self._timer = self._timer, None
            counted, self._counted = self._counted, Counter()
        if timer is not None:
            timer.cancel()
        refused = {"code": grpc.StatusCode.RESOURCE_EXHAUSTED.name, "reason": OVERLOADED}
        for path, calls in counted.items():
            often(log, "calls refused", {"method": path, **refused, "calls": calls})
