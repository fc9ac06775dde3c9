"""The audit log: who did what, on which resource, by which call, and how it went."""

from dataclasses import dataclass, field

from darkroom.domain.ids import new_id

RETENTION_SECONDS = 90 * 24 * 3600
STARTED = "STARTED"
"""The result of what a worker will finish; its end is an entry of its own."""
OPERATOR = "operator"
"""Type of the subject of what is done on the command line; its id is a user of that machine."""


@dataclass(frozen=True)
class AuditEntry:
    """One attempt. `at_us` in microseconds since the epoch, UTC; texts are empty where unknown."""

    at_us: int
    subject_type: str
    subject_id: str
    action: str
    """A kind of operation such as image.create, operation.cancel, token.revoke and the like."""
    result: str
    """OK, STARTED, or the code of a failure."""
    reason: str = ""
    """Why it failed, by the reasons of the error catalogue."""
    resource_id: str = ""
    folder_id: str = ""
    operation_id: str = ""
    request_id: str = ""
    id: str = field(default_factory=new_id)
