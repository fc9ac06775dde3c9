"""What long-running work and the worker that runs it say to each other."""

import enum
import threading
from typing import Protocol


class Reason(enum.Enum):
    """Why running work has to stop before its end."""

    CANCELLED = "cancelled"
    """The user asked for it: the operation ends with code CANCELLED."""
    FENCED = "fenced"
    """The lease was lost: somebody else owns the operation now, nothing may be written."""
    DRAINING = "draining"
    """This worker is shutting down: the lease goes back and another worker starts over."""


class Interrupted(Exception):
    """Raised out of work that was told to stop; temporary files are removed on the way up."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Watch(Protocol):
    """Handed to every long step: tells it when to stop and hears how far it is.

    `event` is set once the work has to stop; a step that blocks waits on it instead of
    sleeping. Implementations are thread-safe: the parts of a download call from their own threads.
    """

    @property
    def event(self) -> threading.Event: ...

    def check(self) -> None:
        """Raise `Interrupted` if the work has to stop, else return at once."""

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        """Record absolute progress of the current phase; cheap, may be called often."""
