"""The operation resource: a durable row that is the job as well."""

import enum
from dataclasses import dataclass, field
from typing import Any

from darkroom.domain.errors import Failure

IMAGE_CREATE = "image.create"
IMAGE_UPDATE = "image.update"
IMAGE_DELETE = "image.delete"
IMAGE_SET_BINDINGS = "image.set_bindings"
IMAGE_UPDATE_BINDINGS = "image.update_bindings"
DISK_CREATE = "disk.create"
DISK_UPDATE = "disk.update"
DISK_DELETE = "disk.delete"
DISK_MOVE = "disk.move"
DISK_RELOCATE = "disk.relocate"
DISK_SET_BINDINGS = "disk.set_bindings"
DISK_UPDATE_BINDINGS = "disk.update_bindings"
SNAPSHOT_CREATE = "snapshot.create"
SNAPSHOT_UPDATE = "snapshot.update"
SNAPSHOT_DELETE = "snapshot.delete"
SNAPSHOT_SET_BINDINGS = "snapshot.set_bindings"
SNAPSHOT_UPDATE_BINDINGS = "snapshot.update_bindings"

_VERBS = {
    "create": "Create {}",
    "update": "Update {}",
    "delete": "Delete {}",
    "move": "Move {}",
    "relocate": "Relocate {}",
    "set_bindings": "Set {} access bindings",
    "update_bindings": "Update {} access bindings",
}

KINDS = tuple(
    value for name, value in list(globals().items()) if name.isupper() and isinstance(value, str)
)

DESCRIPTIONS = {
    kind: _VERBS[kind.partition(".")[2]].format(kind.partition(".")[0]) for kind in KINDS
}
"""What users read in Operation.description, by kind (cloud docs; the bindings' are ours)."""


RETENTION_SECONDS = 14 * 24 * 3600
"""Finished operations are kept two weeks (cloud docs)."""


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
class Unfinished:
    """An operation under way, as somebody sees it who has no part in it."""

    id: str
    state: State
    owner: str
    fence: int
    beat: int
    """Moves with every heartbeat of a living owner."""
    sealed: str


@dataclass(frozen=True)
class Backlog:
    """How many operations of a kind are in a state that is not DONE, and since when."""

    kind: str
    state: State
    count: int
    oldest_created_at_us: int


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
