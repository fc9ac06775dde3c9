"""What a process watches itself with; nothing, unless settings ask for it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Imported where settings ask for them: see `wiring.instruments`.
    from darkroom.telemetry.metrics import Metrics
    from darkroom.telemetry.tracing import Tracing

CLOSE_SECONDS = 2.0
"""The last that a process does: a collector of spans that is silent holds it up for no longer."""


@dataclass(frozen=True)
class Instruments:
    """None means that nothing is counted, or that no spans are made."""

    metrics: "Metrics | None" = None
    tracing: "Tracing | None" = None

    def close(self) -> None:
        """Send what has not been sent yet, for at most `CLOSE_SECONDS`."""
        if self.tracing is not None:
            self.tracing.close(CLOSE_SECONDS)


NO_INSTRUMENTS = Instruments()
