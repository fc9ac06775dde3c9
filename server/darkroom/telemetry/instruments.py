"""What a process watches itself with; nothing, unless settings ask for it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Imported where settings ask for them: see `wiring.instruments`.
    from darkroom.telemetry.metrics import Metrics
    from darkroom.telemetry.tracing import Tracing


@dataclass(frozen=True)
class Instruments:
    """None means that nothing is counted, or that no spans are made."""

    metrics: "Metrics | None" = None
    tracing: "Tracing | None" = None

    def close(self) -> None:
        """Send what has not been sent yet."""
        if self.tracing is not None:
            self.tracing.close()


NO_INSTRUMENTS = Instruments()
