"""What an examination of an installation finds wrong."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that must not be. `check` never changes its name: programs may go by it."""

    check: str
    subject: str
    """Id of what is wrong; what it is the name of the check says."""
    text: str
    """In words, to follow the subject. Names nothing secret."""
    can_mend: bool = False
    """Whether it can be set right without losing anything."""
