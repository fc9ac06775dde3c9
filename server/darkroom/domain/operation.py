"""The operation resource: a durable row that is the job as well."""

import enum
from dataclasses import dataclass, field
from typing import Any

from darkroom.domain.errors import Failure

IMAGE_CREATE = "image.create"
IMAGE_DELETE = "image.delete"

DESCRIPTIONS = {IMAGE_CREATE: "Create image", IMAGE_DELETE: "Delete image"}
"""What users read in Operation.description, by kind (FACTS 3.2)."""


class State(enum.IntEnum):
    """PENDING waits for a worker, RUNNING has a lease, DONE never changes again."""

    PENDING = 0
    RUNNING = 1
    DONE = 2


@dataclass(frozen=True)
class Operation:
    """One operation. Times in microseconds since the epoch, UTC; progress in absolute bytes.

    When `state` is DONE exactly one of `error` and `response` is set. `response` is the record
    of the resource as it was when the operation ended, or an empty dict where the method
    answers google.protobuf.Empty.
    """

    id: str
    kind: str
    folder_id: str
    resource_id: str
    created_at_us: int
    created_by: str
    modified_at_us: int
    state: State
    cancel_requested: bool = False
    fence: int = 0
    phase: str = ""
    progress_done_bytes: int = 0
    progress_total_bytes: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    """Values of the metadata message besides the id of the resource."""
    error: Failure | None = None
    response: dict[str, Any] | None = None

    @property
    def done(self) -> bool:
        return self.state is State.DONE


@dataclass(frozen=True)
class Lease:
    """The right of one worker to change one operation: valid while owner and fence still match."""

    operation_id: str
    owner: str
    fence: int


@dataclass(frozen=True)
class Claim:
    """A leased operation with what its run needs."""

    lease: Lease
    operation: Operation
    attempt: int
    """1 for the first run; goes up with every claim, down again when a lease is given back."""
    payload: dict[str, Any]
    """What begin() left for run(): JSON-able, without secrets."""
    sealed: str
    """Secrets of the request, encrypted and bound to the operation id; empty if there are none."""


@dataclass(frozen=True)
class Beat:
    """What a heartbeat learns."""

    cancel_requested: bool
