"""What the second half of an operation, the one in a worker, looks like."""

from collections.abc import Callable
from typing import Any, Protocol

from darkroom.domain.operation import Claim
from darkroom.domain.work import Watch
from darkroom.operations.desk import Ending
from darkroom.storage.port import Transaction

Publish = Callable[[Transaction], dict[str, Any]]
"""Writes the rows that make the work visible and returns the operation's response record."""


class PhasedWatch(Watch, Protocol):
    """A watch that also hears which phase the work is in."""

    def enter(self, phase: str) -> None:
        """Begin a phase: progress starts at zero. Raises `Interrupted` like `check`."""


class Runner(Ending, Protocol):
    """Runs operations of one kind."""

    def run(self, claim: Claim, watch: PhasedWatch) -> Publish:
        """Do the work outside any transaction.

        Raises `Failure` (one with `retry_after_seconds` is tried again) or `Interrupted`.
        """

    def clean(self, claim: Claim) -> None:
        """Remove what `run` left on disk; called after the end, whatever the end was."""
