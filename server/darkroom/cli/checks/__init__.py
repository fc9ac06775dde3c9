"""What `darkroom doctor` looks at: of the machine, and of the listeners from outside."""

import enum
from dataclasses import dataclass


class State(enum.Enum):
    """How bad a finding is."""

    OK = "ok"
    SKIPPED = "skipped"
    """Not looked at, or not there and not needed."""
    WARNING = "warning"
    """It works, but somebody should know."""
    FAILED = "failed"
    """Something does not work."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    state: State
    found: str
    advice: str = ""
    """What to do; empty if nothing is."""


def ok(check: str, found: str) -> Finding:
    return Finding(check, State.OK, found)


def skipped(check: str, found: str, advice: str = "") -> Finding:
    return Finding(check, State.SKIPPED, found, advice)


def warning(check: str, found: str, advice: str) -> Finding:
    return Finding(check, State.WARNING, found, advice)


def failed(check: str, found: str, advice: str) -> Finding:
    return Finding(check, State.FAILED, found, advice)
