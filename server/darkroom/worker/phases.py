"""The phases of one attempt: what each took and how it ended, as log line, figures and span."""

import logging
import time

from darkroom.telemetry.instruments import NO_INSTRUMENTS, Instruments

log = logging.getLogger(__name__)


class Phases:
    """Told by the thread that does the work, never by two at once."""

    def __init__(self, kind: str, instruments: Instruments = NO_INSTRUMENTS) -> None:
        self._kind = kind
        self._instruments = instruments
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
        if self._instruments.metrics is not None:
            self._instruments.metrics.phase(self._kind, phase, code, seconds)
        if self._instruments.tracing is not None:
            self._instruments.tracing.phase(phase, seconds, code)
