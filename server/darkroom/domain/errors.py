"""The error catalogue: every failure a user can meet, named once.

A `Kind` is one row of the catalogue: code, stable reason, message and what to do about it. A
`Failure` is one occurrence. The same `Failure` becomes the status of an RPC, the error of an
operation and the body of a REST reply; `darkroom.api.status` holds the one table that maps it.
`docs/errors.md` is generated from `CATALOGUE`.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


class Code(enum.Enum):
    """google.rpc.Code, by name and number."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True)
class FieldViolation:
    """One broken rule of a request: becomes an entry of google.rpc.BadRequest."""

    field: str
    description: str


@dataclass(frozen=True)
class Resource:
    """The resource a failure is about: becomes google.rpc.ResourceInfo."""

    type: str
    name: str
    description: str = ""


@dataclass(frozen=True)
class Precondition:
    """A state that stands in the way: becomes an entry of google.rpc.PreconditionFailure."""

    type: str
    subject: str
    description: str


@dataclass(frozen=True)
class Quota:
    """A limit that was hit: becomes an entry of yandex.cloud.quota.QuotaFailure."""

    metric: str
    limit: int
    usage: int
    required: int


Detail = FieldViolation | Resource | Precondition | Quota
_DETAIL_TYPES: dict[str, type[Any]] = {
    "field": FieldViolation,
    "resource": Resource,
    "precondition": Precondition,
    "quota": Quota,
}
_DETAIL_NAMES = {cls: name for name, cls in _DETAIL_TYPES.items()}


class Failure(Exception):
    """One failure, complete enough to be shown to a user.

    `message` is public: it never holds a path of the server, a stack trace or the query of a URL.
    `retry_after_seconds` is set when the same call may succeed later without a change.
    """

    def __init__(
        self,
        code: Code,
        reason: str,
        message: str,
        details: Iterable[Detail] = (),
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = tuple(details)
        self.metadata = dict(metadata or {})
        self.retry_after_seconds = retry_after_seconds

    def to_record(self) -> dict[str, Any]:
        """JSON-able form, as kept in an operation's row."""
        record: dict[str, Any] = {
            "code": self.code.name,
            "reason": self.reason,
            "message": self.message,
            "details": [
                {"kind": _DETAIL_NAMES[type(detail)], **detail.__dict__} for detail in self.details
            ],
        }
        if self.metadata:
            record["metadata"] = self.metadata
        if self.retry_after_seconds is not None:
            record["retry_after_seconds"] = self.retry_after_seconds
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Failure":
        """Inverse of `to_record`."""
        details = []
        for entry in record["details"]:
            values = dict(entry)
            details.append(_DETAIL_TYPES[values.pop("kind")](**values))
        return cls(
            Code[record["code"]],
            record["reason"],
            record["message"],
            details,
            metadata=record.get("metadata"),
            retry_after_seconds=record.get("retry_after_seconds"),
        )


@dataclass(frozen=True)
class Kind:
    """One row of the catalogue. `message` is a format string over the named values."""

    code: Code
    reason: str
    message: str
    advice: str
    retry_after_seconds: float | None = field(default=None)

    def failure(self, *details: Detail, **values: object) -> Failure:
        """Make the failure; `values` fill the message and, as text, ErrorInfo.metadata."""
        return Failure(
            self.code,
            self.reason,
            self.message.format(**values),
            details,
            metadata={name: str(value) for name, value in values.items()},
            retry_after_seconds=self.retry_after_seconds,
        )


CATALOGUE: dict[str, Kind] = {}


def _kind(
    code: Code,
    reason: str,
    message: str,
    advice: str,
    retry_after_seconds: float | None = None,
) -> Kind:
    kind = Kind(code, reason, message, advice, retry_after_seconds)
    if reason in CATALOGUE:
        raise ValueError(f"duplicate reason {reason}")
    CATALOGUE[reason] = kind
    return kind


# --- requests -------------------------------------------------------------------------------------

REQUEST_INVALID = _kind(
    Code.INVALID_ARGUMENT,
    "REQUEST_INVALID",
    "Request validation error: {summary}",
    "Correct the fields listed in google.rpc.BadRequest and send the request again.",
)
PAGE_TOKEN_INVALID = _kind(
    Code.INVALID_ARGUMENT,
    "PAGE_TOKEN_INVALID",
    "Request validation error: page_token: not a token of this listing",
    "Use next_page_token of the previous page with the same folder, filter and order, "
    "or start again without a token.",
)
IDEMPOTENCY_KEY_REUSED = _kind(
    Code.INVALID_ARGUMENT,
    "IDEMPOTENCY_KEY_REUSED",
    "The idempotency key was already used with a different request",
    "Send a new idempotency-key with a new request; repeat a key only with the same request.",
)
IDEMPOTENCY_KEY_INVALID = _kind(
    Code.INVALID_ARGUMENT,
    "IDEMPOTENCY_KEY_INVALID",
    "The idempotency key must be 1 to 64 printable ASCII characters",
    "Send a UUID as idempotency-key.",
)
METHOD_NOT_IMPLEMENTED = _kind(
    Code.UNIMPLEMENTED,
    "METHOD_NOT_IMPLEMENTED",
    "{method} is not supported by this version of Darkroom",
    "See docs/compatibility.md for what is supported.",
)


def request_invalid(violations: Iterable[FieldViolation]) -> Failure:
    """Every broken rule of a request at once."""
    listed = tuple(violations)
    first = listed[0]
    summary = f"{first.field}: {first.description}"
    if len(listed) > 1:
        summary += f" (and {len(listed) - 1} more)"
    failure = REQUEST_INVALID.failure(*listed, summary=summary)
    failure.metadata.clear()  # the violations already say it all
    return failure


def page_token_invalid() -> Failure:
    return PAGE_TOKEN_INVALID.failure(
        FieldViolation("page_token", "damaged, or made for another listing")
    )


def idempotency_key_reused() -> Failure:
    return IDEMPOTENCY_KEY_REUSED.failure()


def idempotency_key_invalid() -> Failure:
    return IDEMPOTENCY_KEY_INVALID.failure()


def method_not_implemented(method: str) -> Failure:
    return METHOD_NOT_IMPLEMENTED.failure(method=method)


# --- resources ------------------------------------------------------------------------------------

RESOURCE_NOT_FOUND = _kind(
    Code.NOT_FOUND,
    "RESOURCE_NOT_FOUND",
    '{kind} "{id}" not found',
    "Check the id; a deleted resource is gone for good.",
)
SOURCE_NOT_FOUND = _kind(
    Code.FAILED_PRECONDITION,
    "SOURCE_NOT_FOUND",
    '{kind} "{id}" not found',
    "Check the id of the source; it must exist when the request is made.",
)
SOURCE_NOT_READY = _kind(
    Code.FAILED_PRECONDITION,
    "SOURCE_NOT_READY",
    '{kind} "{id}" is in status {status}, it must be READY',
    "Wait until the source is READY, or choose another one.",
)
RESOURCE_ALREADY_EXISTS = _kind(
    Code.ALREADY_EXISTS,
    "RESOURCE_ALREADY_EXISTS",
    '{kind} with name "{name}" already exists',
    "Choose another name, or delete the resource that has it.",
)
CONFLICTING_OPERATION = _kind(
    Code.FAILED_PRECONDITION,
    "CONFLICTING_OPERATION",
    'conflicting operation "{operation_id}" detected',
    "Wait for that operation to end (or cancel it), then repeat the call.",
)
MIN_DISK_SIZE_TOO_SMALL = _kind(
    Code.INVALID_ARGUMENT,
    "MIN_DISK_SIZE_TOO_SMALL",
    "Minimal disk size should be greater or equal than {required_bytes}",
    "Leave min_disk_size out, or make it at least the virtual size of the image.",
)


def resource_not_found(kind: str, id: str) -> Failure:
    """`kind` as users read it: Image, Operation."""
    return RESOURCE_NOT_FOUND.failure(Resource(kind, id, "does not exist"), kind=kind, id=id)


def source_not_found(kind: str, id: str) -> Failure:
    """The source a request names is missing: the cloud answers FAILED_PRECONDITION (FACTS 3.7)."""
    return SOURCE_NOT_FOUND.failure(
        Precondition("NOT_FOUND", f"{kind}:{id}", "does not exist"), kind=kind, id=id
    )


def source_not_ready(kind: str, id: str, status: str) -> Failure:
    return SOURCE_NOT_READY.failure(
        Precondition("STATUS", f"{kind}:{id}", f"is {status}, must be READY"),
        kind=kind,
        id=id,
        status=status,
    )


def resource_already_exists(kind: str, name: str) -> Failure:
    return RESOURCE_ALREADY_EXISTS.failure(
        Resource(kind, name, "the name is taken in this folder"), kind=kind, name=name
    )


def conflicting_operation(operation_id: str) -> Failure:
    return CONFLICTING_OPERATION.failure(
        Precondition("OPERATION", operation_id, "still runs on this resource"),
        operation_id=operation_id,
    )


def min_disk_size_too_small(required_bytes: int) -> Failure:
    return MIN_DISK_SIZE_TOO_SMALL.failure(
        FieldViolation("min_disk_size", f"must be at least {required_bytes}"),
        required_bytes=required_bytes,
    )


# --- the server's own state -----------------------------------------------------------------------

OPERATION_CANCELLED = _kind(
    Code.CANCELLED,
    "OPERATION_CANCELLED",
    "The operation was cancelled",
    "Nothing to do; start it again if it is wanted after all.",
)
OPERATION_GAVE_UP = _kind(
    Code.INTERNAL,
    "OPERATION_GAVE_UP",
    "The operation was given up after {attempts} attempts",
    "The worker died or failed each time; try again, and tell the operator the operation id.",
)
STORE_BUSY = _kind(
    Code.UNAVAILABLE,
    "STORE_BUSY",
    "The database is busy or out of reach",
    "Repeat the call after the pause that RetryInfo names.",
    1.0,
)
STORE_FULL = _kind(
    Code.UNAVAILABLE,
    "STORE_FULL",
    "The server has no room for more metadata",
    "The operator has to free disk space; reads still work.",
    30.0,
)
OVERLOADED = _kind(
    Code.RESOURCE_EXHAUSTED,
    "OVERLOADED",
    "The server has too many calls at once",
    "Repeat the call after the pause that RetryInfo names.",
    1.0,
)
SHUTTING_DOWN = _kind(
    Code.UNAVAILABLE,
    "SHUTTING_DOWN",
    "The server is shutting down",
    "Repeat the call; another replica, or this one after its restart, will answer.",
    1.0,
)
INTERNAL = _kind(
    Code.INTERNAL,
    "INTERNAL",
    "Internal error",
    "Tell the operator the request id from RequestInfo: the log has the whole story under it.",
)


def operation_cancelled() -> Failure:
    return OPERATION_CANCELLED.failure()


def operation_gave_up(attempts: int) -> Failure:
    return OPERATION_GAVE_UP.failure(attempts=attempts)


def store_busy() -> Failure:
    return STORE_BUSY.failure()


def store_full() -> Failure:
    return STORE_FULL.failure()


def overloaded() -> Failure:
    return OVERLOADED.failure()


def shutting_down() -> Failure:
    return SHUTTING_DOWN.failure()


def internal() -> Failure:
    return INTERNAL.failure()
