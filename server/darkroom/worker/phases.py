"""The phases of one attempt: what each took and how it ended, as a log line and as figures."""

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darkroom.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


class Phases:
    """Told by the thread that does the work, never by two at once."""

    def __init__(self, kind: str, metrics: "Metrics | None" = None) -> None:
        self._kind = kind
        self._metrics = metrics
        self._phase = ""
        self._started = 0.0

    def enter(self, phase: str) -> None:
        """A phase begins, so the one before it has ended well."""
        self.leave("OK")
        self._phase, self._started = phase, time.monotonic()

    def leave(self, code: str, reason: str = "") -> None:
        """The phase that runs, if one does, has ended with the code of this name."""
        if not self._phase:
            return
        phase, self._phase = self._phase, ""
        seconds = time.monotonic() - self._started
        fields = {"phase": phase, "code": code, "duration_ms": round(seconds * 1000, 3)}
        if reason:
            fields["reason"] = reason
        log.info("phase ended", extra={"fields": fields})
        if self._metrics is not None:
            self._metrics.phase(self._kind, phase, code, seconds)
