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


# --- callers --------------------------------------------------------------------------------------

UNAUTHENTICATED = _kind(
    Code.UNAUTHENTICATED,
    "UNAUTHENTICATED",
    "Token is invalid or has expired.",
    "Get a new token and send it as `authorization: Bearer TOKEN`. If it is refused too, its "
    "account or key may be gone: ask the operator, and name the request id.",
)
PERMISSION_DENIED = _kind(
    Code.PERMISSION_DENIED,
    "PERMISSION_DENIED",
    "Permission denied to {kind} {id}",
    "Check the id, or ask whoever administers it for a role: on the folder, or on the resource "
    "by an access binding.",
)
ISSUER_UNREACHABLE = _kind(
    Code.UNAVAILABLE,
    "ISSUER_UNREACHABLE",
    "The keys of the token's issuer cannot be fetched now",
    "Repeat the call after the pause that RetryInfo names; if it goes on, tell the operator.",
    10.0,
)


def issuer_unreachable() -> Failure:
    return ISSUER_UNREACHABLE.failure()


def unauthenticated() -> Failure:
    """The one answer to whoever does not prove who it is, whatever is wrong (cloud docs)."""
    return UNAUTHENTICATED.failure()


def permission_denied(kind: str, id: str) -> Failure:
    """`kind` in small letters: folder, image. The same whether it exists or not (seen)."""
    return PERMISSION_DENIED.failure(
        Resource(kind.capitalize(), id, "not allowed to this caller, or not there"),
        kind=kind,
        id=id,
    )


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
REQUEST_UNREADABLE = _kind(
    Code.INVALID_ARGUMENT,
    "REQUEST_UNREADABLE",
    "The request is not a valid {type} message",
    "Make the request with code generated from the .proto files; text must be valid UTF-8.",
)
REQUEST_TOO_LARGE = _kind(
    Code.RESOURCE_EXHAUSTED,
    "REQUEST_TOO_LARGE",
    "The request has {size_bytes} bytes, at most {limit_bytes} are taken",
    "Send less in one request, or ask the operator for a higher limit; the same call fails again.",
)
METADATA_TOO_LARGE = _kind(
    Code.RESOURCE_EXHAUSTED,
    "METADATA_TOO_LARGE",
    "The request's metadata has {size_bytes} bytes, at most {limit_bytes} are taken",
    "Send shorter headers, or ask the operator for a higher limit; the same call fails again.",
)
REQUEST_MISSING = _kind(
    Code.INVALID_ARGUMENT,
    "REQUEST_MISSING",
    "The call ended without a request",
    "Send exactly one request message before closing the sending side of the call.",
)
REQUEST_TOO_LATE = _kind(
    Code.DEADLINE_EXCEEDED,
    "REQUEST_TOO_LATE",
    "The request did not arrive within {seconds:g} seconds of the call's start",
    "Send the request together with the call; look at the network if it happens again.",
)
METHOD_UNKNOWN = _kind(
    Code.UNIMPLEMENTED,
    "METHOD_UNKNOWN",
    "This server has no method {method}",
    "Check the address and the name; server reflection lists the services that are here.",
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


def request_unreadable(type: str) -> Failure:
    """`type` is the full name of the message that was expected."""
    return REQUEST_UNREADABLE.failure(type=type)


def request_too_large(size_bytes: int, limit_bytes: int) -> Failure:
    return REQUEST_TOO_LARGE.failure(size_bytes=size_bytes, limit_bytes=limit_bytes)


def metadata_too_large(size_bytes: int, limit_bytes: int) -> Failure:
    """Each entry counts 32 bytes more than its name and value, as in HTTP/2 (RFC 9113 6.5.2)."""
    return METADATA_TOO_LARGE.failure(size_bytes=size_bytes, limit_bytes=limit_bytes)


def request_missing() -> Failure:
    return REQUEST_MISSING.failure()


def request_too_late(seconds: float) -> Failure:
    return REQUEST_TOO_LATE.failure(seconds=seconds)


def method_unknown(method: str) -> Failure:
    return METHOD_UNKNOWN.failure(method=method)


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
RESOURCE_NOT_READY = _kind(
    Code.FAILED_PRECONDITION,
    "RESOURCE_NOT_READY",
    '{kind} "{id}" is in status {status}, it must be READY',
    "What could not be made cannot be changed: delete it and make it anew.",
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
UNKNOWN_CHOICE = _kind(
    Code.FAILED_PRECONDITION,
    "UNKNOWN_CHOICE",
    '{kind} "{id}" not found',
    "Choose one of those that the listing of the kind answers with.",
)
TOO_MANY_BINDINGS = _kind(
    Code.FAILED_PRECONDITION,
    "TOO_MANY_BINDINGS",
    "A resource has at most {limit} access bindings",
    "Remove bindings that are not needed, or grant the role to a group.",
)


def resource_not_found(kind: str, id: str) -> Failure:
    """`kind` as users read it: Image, Operation."""
    return RESOURCE_NOT_FOUND.failure(Resource(kind, id, "does not exist"), kind=kind, id=id)


def source_not_found(kind: str, id: str) -> Failure:
    """The source a request names is missing: the cloud answers FAILED_PRECONDITION (seen)."""
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


def resource_not_ready(kind: str, id: str, status: str) -> Failure:
    return RESOURCE_NOT_READY.failure(
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


def min_disk_size_too_small(required_bytes: int, field: str = "min_disk_size") -> Failure:
    """`field` is what the request calls it: `size` where a disk is made."""
    return MIN_DISK_SIZE_TOO_SMALL.failure(
        FieldViolation(field, f"must be at least {required_bytes}"),
        required_bytes=required_bytes,
    )


def unknown_choice(kind: str, id: str, known: Iterable[str]) -> Failure:
    """A zone or disk type that is not configured."""
    listed = ", ".join(known)
    return UNKNOWN_CHOICE.failure(
        Precondition("NOT_FOUND", f"{kind}:{id}", f"known: {listed}"), kind=kind, id=id
    )


def too_many_bindings(limit: int) -> Failure:
    return TOO_MANY_BINDINGS.failure(limit=limit)


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
SOURCE_URL_UNREADABLE = _kind(
    Code.FAILED_PRECONDITION,
    "SOURCE_URL_UNREADABLE",
    "The server cannot read the URL any more: the key that sealed it is gone",
    "Create the image again; the operator should keep old keys until their operations have ended.",
)
OPERATION_KIND_UNKNOWN = _kind(
    Code.UNIMPLEMENTED,
    "OPERATION_KIND_UNKNOWN",
    'Operation "{id}" is of a kind that this version of Darkroom does not know',
    "A newer version began it: ask again once every server runs that version.",
)
ACTIVE_OPERATIONS_LIMIT = _kind(
    Code.RESOURCE_EXHAUSTED,
    "ACTIVE_OPERATIONS_LIMIT",
    "The limit on maximum number of active operations has exceeded.",
    "Wait until operations in this folder have ended, or ask the operator for a higher limit.",
    5.0,
)
STORE_BUSY = _kind(
    Code.UNAVAILABLE,
    "STORE_BUSY",
    "The database is busy or out of reach",
    "Repeat the call after the pause that RetryInfo names.",
    1.0,
)
STORE_OUTCOME_UNKNOWN = _kind(
    Code.UNAVAILABLE,
    "STORE_OUTCOME_UNKNOWN",
    "The connection to the database was lost while it saved the change: it may be saved or not",
    "Repeat the call with the same idempotency-key: it is never done twice. Without a key, look "
    "first whether it was done.",
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


def source_url_unreadable() -> Failure:
    return SOURCE_URL_UNREADABLE.failure()


def operation_kind_unknown(id: str) -> Failure:
    return OPERATION_KIND_UNKNOWN.failure(id=id)


def active_operations_limit(folder_id: str, limit: int) -> Failure:
    """The text is the cloud's (seen); the metric's name is ours."""
    return ACTIVE_OPERATIONS_LIMIT.failure(
        Quota("compute.activeOperations.count", limit, limit, limit + 1),
        folder_id=folder_id,
        limit=limit,
    )


def store_busy() -> Failure:
    return STORE_BUSY.failure()


def store_outcome_unknown() -> Failure:
    return STORE_OUTCOME_UNKNOWN.failure()


def store_full() -> Failure:
    return STORE_FULL.failure()


def overloaded() -> Failure:
    return OVERLOADED.failure()


def shutting_down() -> Failure:
    return SHUTTING_DOWN.failure()


def internal() -> Failure:
    return INTERNAL.failure()


# --- imports --------------------------------------------------------------------------------------
# `source` is always scheme, host and path of the URL, never its query: that holds the signature.

SOURCE_URL_INVALID = _kind(
    Code.INVALID_ARGUMENT,
    "SOURCE_URL_INVALID",
    "The URL cannot be used: {problem}",
    "Send the http or https URL of one object, as the object storage signed it.",
)
SOURCE_NOT_ALLOWED = _kind(
    Code.INVALID_ARGUMENT,
    "SOURCE_NOT_ALLOWED",
    "{source} is not on an object storage that this server may fetch from",
    "Put the image on an allowed object storage, or ask the operator to list this one "
    "(--source-allow).",
)
SOURCE_ADDRESS_NOT_ALLOWED = _kind(
    Code.FAILED_PRECONDITION,
    "SOURCE_ADDRESS_NOT_ALLOWED",
    "{host} resolves to an address that this server may not connect to",
    "The operator may list the host, or the address itself, with --source-allow.",
)
SOURCE_NOT_FOUND_AT_URL = _kind(
    Code.FAILED_PRECONDITION,
    "SOURCE_NOT_FOUND_AT_URL",
    "There is no object at {source} (HTTP {status})",
    "Check the bucket and the key; upload the image first.",
)
SOURCE_FORBIDDEN = _kind(
    Code.FAILED_PRECONDITION,
    "SOURCE_FORBIDDEN",
    "{source} must not be read with this URL (HTTP {status}): it is not signed, wrongly signed, "
    "or its signature has expired",
    "Sign a new URL for GET that stays valid for the whole download, and send the request again.",
)
SOURCE_REFUSED = _kind(
    Code.FAILED_PRECONDITION,
    "SOURCE_REFUSED",
    "{source} answered HTTP {status}",
    "Try the URL with curl: the object storage says there what it does not like about it.",
)
SOURCE_REDIRECTED = _kind(
    Code.FAILED_PRECONDITION,
    "SOURCE_REDIRECTED",
    "{source} answered with a redirect (HTTP {status}), which is never followed",
    "Send the URL that serves the object itself.",
)
SOURCE_ANSWER_INVALID = _kind(
    Code.FAILED_PRECONDITION,
    "SOURCE_ANSWER_INVALID",
    "{source} does not answer like an object storage: {problem}",
    "Check that the URL is one of an object; a web server must send Content-Length.",
)
SOURCE_CERTIFICATE_INVALID = _kind(
    Code.FAILED_PRECONDITION,
    "SOURCE_CERTIFICATE_INVALID",
    "The TLS certificate of {host} is not valid for that name or not trusted",
    "Check the host name; the operator may name a private authority in SSL_CERT_FILE.",
)
SOURCE_EMPTY = _kind(
    Code.INVALID_ARGUMENT,
    "SOURCE_EMPTY",
    "The object at {source} is empty",
    "Upload the image again and check its size.",
)
SOURCE_TOO_LARGE = _kind(
    Code.INVALID_ARGUMENT,
    "SOURCE_TOO_LARGE",
    "The object at {source} is larger than {limit_bytes} bytes",
    "Make the file smaller, for instance a compressed qcow2, or ask the operator for a higher "
    "limit.",
)
SOURCE_CHANGED = _kind(
    Code.FAILED_PRECONDITION,
    "SOURCE_CHANGED",
    "The object at {source} changed while it was read",
    "Wait until its upload has ended, then send the request again.",
)
SOURCE_TRUNCATED = _kind(
    Code.FAILED_PRECONDITION,
    "SOURCE_TRUNCATED",
    "{source} gave fewer bytes than it announced",
    "Check the object with another download; upload it again if it is damaged.",
)
SOURCE_STALLED = _kind(
    Code.UNAVAILABLE,
    "SOURCE_STALLED",
    "{source} stopped sending: fewer than {minimum_bytes} bytes in {seconds} seconds",
    "The import is tried again by itself; look at the object storage if it keeps happening.",
    5.0,
)
SOURCE_TOO_SLOW = _kind(
    Code.DEADLINE_EXCEEDED,
    "SOURCE_TOO_SLOW",
    "{source} could not be read within {seconds} seconds",
    "Use an object storage nearer to this server, or a smaller file.",
)
SOURCE_UNREACHABLE = _kind(
    Code.UNAVAILABLE,
    "SOURCE_UNREACHABLE",
    "{source} cannot be read at the moment: {problem}",
    "The import is tried again by itself; look at the object storage if it keeps happening.",
    5.0,
)
SOURCE_FILE_UNUSABLE = _kind(
    Code.FAILED_PRECONDITION,
    "SOURCE_FILE_UNUSABLE",
    "The file that the catalogue names for this image cannot be used: {problem}",
    "The operator has to correct the catalogue or the file; the import is tried again when the "
    "server starts next.",
)
STORAGE_FULL = _kind(
    Code.RESOURCE_EXHAUSTED,
    "STORAGE_FULL",
    "The server has no room for the image",
    "The import is tried again by itself; the operator has to free disk space.",
    30.0,
)
CONTENT_STORE_UNAVAILABLE = _kind(
    Code.UNAVAILABLE,
    "CONTENT_STORE_UNAVAILABLE",
    "The storage of image contents cannot be used at the moment: {problem}",
    "The import is tried again by itself; the operator has to look at the object storage if it "
    "keeps happening.",
    5.0,
)
CONTENT_STORE_REFUSED = _kind(
    Code.UNAVAILABLE,
    "CONTENT_STORE_REFUSED",
    "The storage of image contents refuses the server: {problem}",
    "The import is tried again by itself; the operator has to correct bucket, credentials or "
    "rights.",
    30.0,
)
CONTENT_DAMAGED = _kind(
    Code.DATA_LOSS,
    "CONTENT_DAMAGED",
    "The bytes of the image are not those that were written",
    "The operator has to look at disk, memory and content storage; a stored image has to be "
    "restored from a backup or imported again.",
)
IMAGE_IS_A_PAGE = _kind(
    Code.INVALID_ARGUMENT,
    "IMAGE_IS_A_PAGE",
    "The object is {what}, not a disk image",
    "Use the URL of the image itself, not of a page about it; open the URL to read what it says.",
)
IMAGE_IS_AN_ARCHIVE = _kind(
    Code.INVALID_ARGUMENT,
    "IMAGE_IS_AN_ARCHIVE",
    "The object is {what}, not a disk image",
    "Unpack it and upload the disk image inside; qcow2 can be compressed without an archive.",
)
IMAGE_FORMAT_UNSUPPORTED = _kind(
    Code.INVALID_ARGUMENT,
    "IMAGE_FORMAT_UNSUPPORTED",
    "The object is {what}, which is not supported",
    "Convert it with `qemu-img convert -O qcow2` and upload the result.",
)
IMAGE_AMBIGUOUS = _kind(
    Code.INVALID_ARGUMENT,
    "IMAGE_AMBIGUOUS",
    "The object looks like several formats at once: {formats}",
    "Convert it with `qemu-img convert -O qcow2`, naming its true format, and upload the result.",
)
IMAGE_CORRUPT = _kind(
    Code.INVALID_ARGUMENT,
    "IMAGE_CORRUPT",
    "The image is damaged: {problem}",
    "Check the file with `qemu-img check` where it was made, and upload it again.",
)
IMAGE_TRUNCATED = _kind(
    Code.INVALID_ARGUMENT,
    "IMAGE_TRUNCATED",
    "The image is cut off: {problem}",
    "Compare the size of the object with the file it was uploaded from, and upload it again.",
)
IMAGE_HAS_BACKING_FILE = _kind(
    Code.INVALID_ARGUMENT,
    "IMAGE_HAS_BACKING_FILE",
    "The image holds only the differences to another file, its backing file",
    "Merge the two with `qemu-img convert -O qcow2` and upload the result.",
)
IMAGE_HAS_DATA_FILE = _kind(
    Code.INVALID_ARGUMENT,
    "IMAGE_HAS_DATA_FILE",
    "The image keeps its data in another file",
    "Make one file with `qemu-img convert -O qcow2` and upload the result.",
)
IMAGE_HAS_SNAPSHOTS = _kind(
    Code.INVALID_ARGUMENT,
    "IMAGE_HAS_SNAPSHOTS",
    "The image holds internal snapshots",
    "Keep one state only: `qemu-img convert -O qcow2` copies the current one; upload the result.",
)
IMAGE_ENCRYPTED = _kind(
    Code.INVALID_ARGUMENT,
    "IMAGE_ENCRYPTED",
    "The image is encrypted",
    "Decrypt it with `qemu-img convert`, giving its key, and upload the result.",
)
IMAGE_FEATURE_UNSUPPORTED = _kind(
    Code.INVALID_ARGUMENT,
    "IMAGE_FEATURE_UNSUPPORTED",
    "The image uses a feature that is not supported: {what}",
    "Convert it with `qemu-img convert -O qcow2` without special options and upload the result.",
)
IMAGE_EXTENTS_ELSEWHERE = _kind(
    Code.INVALID_ARGUMENT,
    "IMAGE_EXTENTS_ELSEWHERE",
    "The VMDK keeps its data in other files, or is of an unsupported kind ({what})",
    "Convert it with `qemu-img convert -O vmdk -o subformat=streamOptimized`, or to qcow2.",
)
IMAGE_TOO_LARGE = _kind(
    Code.INVALID_ARGUMENT,
    "IMAGE_TOO_LARGE",
    "The virtual size of the image is {virtual_size_bytes} bytes, the limit is {limit_bytes}",
    "Shrink the disk, or ask the operator for a higher limit.",
)
IMAGE_OUTGROWS_LIMIT = _kind(
    Code.INVALID_ARGUMENT,
    "IMAGE_OUTGROWS_LIMIT",
    "The image would take more than {limit_bytes} bytes when stored",
    "Remove data from the disk, or ask the operator for a higher limit.",
)
CONVERSION_TIMEOUT = _kind(
    Code.DEADLINE_EXCEEDED,
    "CONVERSION_TIMEOUT",
    "The conversion of the image took too long and was stopped",
    "Convert it to an uncompressed qcow2 with `qemu-img convert` and upload the result.",
)
CONVERSION_FAILED = _kind(
    Code.INTERNAL,
    "CONVERSION_FAILED",
    "The conversion of the image failed on this server",
    "The import is tried again by itself; the operator finds the reason in the log.",
    5.0,
)
CONVERTER_MISSING = _kind(
    Code.FAILED_PRECONDITION,
    "CONVERTER_MISSING",
    "This server has no qemu-img, so it imports no images",
    "The operator has to install it (qemu-utils on Debian); all that moves no bytes works without.",
)
SANDBOX_UNAVAILABLE = _kind(
    Code.FAILED_PRECONDITION,
    "SANDBOX_UNAVAILABLE",
    "This server cannot confine the conversion of images, so it imports none",
    "The operator has to allow user namespaces (bubblewrap) or run a kernel with Landlock.",
)
SANDBOX_FAILED = _kind(
    Code.UNAVAILABLE,
    "SANDBOX_FAILED",
    "The conversion of the image could not be confined this time",
    "The import is tried again by itself; the server's log says what went wrong, and the operator "
    "has to see that it may have more processes and namespaces.",
    5.0,
)


def source_url_invalid(problem: str) -> Failure:
    """`problem` says what is wrong without repeating the URL."""
    return SOURCE_URL_INVALID.failure(FieldViolation("uri", problem), problem=problem)


def source_not_allowed(source: str) -> Failure:
    return SOURCE_NOT_ALLOWED.failure(
        FieldViolation("uri", "not on an allowed object storage"), source=source
    )


def source_address_not_allowed(host: str) -> Failure:
    return SOURCE_ADDRESS_NOT_ALLOWED.failure(host=host)


def source_status(source: str, status: int) -> Failure:
    """What a final HTTP status of a source means for the user."""
    if 300 <= status < 400:
        kind = SOURCE_REDIRECTED
    elif status in (404, 410):
        kind = SOURCE_NOT_FOUND_AT_URL
    elif status in (401, 403):
        kind = SOURCE_FORBIDDEN
    else:
        kind = SOURCE_REFUSED
    return kind.failure(source=source, status=status)


def source_answer_invalid(source: str, problem: str) -> Failure:
    return SOURCE_ANSWER_INVALID.failure(source=source, problem=problem)


def source_certificate_invalid(host: str) -> Failure:
    return SOURCE_CERTIFICATE_INVALID.failure(host=host)


def source_empty(source: str) -> Failure:
    return SOURCE_EMPTY.failure(source=source)


def source_too_large(source: str, limit_bytes: int) -> Failure:
    return SOURCE_TOO_LARGE.failure(source=source, limit_bytes=limit_bytes)


def source_changed(source: str) -> Failure:
    return SOURCE_CHANGED.failure(source=source)


def source_truncated(source: str) -> Failure:
    return SOURCE_TRUNCATED.failure(source=source)


def source_stalled(source: str, minimum_bytes: int, seconds: float) -> Failure:
    return SOURCE_STALLED.failure(source=source, minimum_bytes=minimum_bytes, seconds=seconds)


def source_too_slow(source: str, seconds: float) -> Failure:
    return SOURCE_TOO_SLOW.failure(source=source, seconds=seconds)


def source_unreachable(source: str, problem: str) -> Failure:
    return SOURCE_UNREACHABLE.failure(source=source, problem=problem)


def source_file_unusable(problem: str) -> Failure:
    """`problem` does not name the file: its path is the operator's business."""
    return SOURCE_FILE_UNUSABLE.failure(problem=problem)


def storage_full() -> Failure:
    return STORAGE_FULL.failure()


def content_store_unavailable(problem: str) -> Failure:
    return CONTENT_STORE_UNAVAILABLE.failure(problem=problem)


def content_store_refused(problem: str) -> Failure:
    """`problem` is an error code of S3, or a few words."""
    return CONTENT_STORE_REFUSED.failure(problem=problem)


def content_damaged() -> Failure:
    return CONTENT_DAMAGED.failure()


def image_is_a_page(what: str) -> Failure:
    return IMAGE_IS_A_PAGE.failure(what=what)


def image_is_an_archive(what: str) -> Failure:
    return IMAGE_IS_AN_ARCHIVE.failure(what=what)


def image_format_unsupported(what: str) -> Failure:
    return IMAGE_FORMAT_UNSUPPORTED.failure(what=what)


def image_ambiguous(formats: Iterable[str]) -> Failure:
    return IMAGE_AMBIGUOUS.failure(formats=", ".join(formats))


def image_corrupt(problem: str) -> Failure:
    return IMAGE_CORRUPT.failure(problem=problem)


def image_truncated(problem: str) -> Failure:
    return IMAGE_TRUNCATED.failure(problem=problem)


def image_has_backing_file() -> Failure:
    return IMAGE_HAS_BACKING_FILE.failure()


def image_has_data_file() -> Failure:
    return IMAGE_HAS_DATA_FILE.failure()


def image_has_snapshots() -> Failure:
    return IMAGE_HAS_SNAPSHOTS.failure()


def image_encrypted() -> Failure:
    return IMAGE_ENCRYPTED.failure()


def image_feature_unsupported(what: str) -> Failure:
    return IMAGE_FEATURE_UNSUPPORTED.failure(what=what)


def image_extents_elsewhere(what: str) -> Failure:
    return IMAGE_EXTENTS_ELSEWHERE.failure(what=what)


def image_too_large(virtual_size_bytes: int, limit_bytes: int) -> Failure:
    return IMAGE_TOO_LARGE.failure(virtual_size_bytes=virtual_size_bytes, limit_bytes=limit_bytes)


def image_outgrows_limit(limit_bytes: int) -> Failure:
    return IMAGE_OUTGROWS_LIMIT.failure(limit_bytes=limit_bytes)


def conversion_timeout() -> Failure:
    return CONVERSION_TIMEOUT.failure()


def conversion_failed() -> Failure:
    return CONVERSION_FAILED.failure()


def converter_missing() -> Failure:
    return CONVERTER_MISSING.failure()


def sandbox_unavailable() -> Failure:
    return SANDBOX_UNAVAILABLE.failure()


def sandbox_failed() -> Failure:
    return SANDBOX_FAILED.failure()


# --- over HTTP ------------------------------------------------------------------------------------
# What the gateway answers by itself, before or instead of the server.

HTTP_REQUEST_INVALID = _kind(
    Code.INVALID_ARGUMENT,
    "HTTP_REQUEST_INVALID",
    "The request cannot be read: {problem}",
    "Compare path, query parameters and JSON body with /openapi.json; of fields that exclude each "
    "other send one.",
)
HTTP_METHOD_UNKNOWN = _kind(
    Code.NOT_FOUND,
    "HTTP_METHOD_UNKNOWN",
    "Nothing is served under this path with this HTTP method",
    "Look the path up in /openapi.json; custom verbs follow a colon.",
)
HTTP_ORIGIN_NOT_ALLOWED = _kind(
    Code.PERMISSION_DENIED,
    "HTTP_ORIGIN_NOT_ALLOWED",
    "The gateway takes no calls from pages of this origin",
    "Call from the page's own server, or ask the operator to list the origin "
    "(--gateway-allow-origin).",
)
HTTP_REQUEST_TOO_LATE = _kind(
    Code.DEADLINE_EXCEEDED,
    "HTTP_REQUEST_TOO_LATE",
    "The request did not arrive in time",
    "Send it again as a whole; look at the network if it happens again.",
)
HTTP_REQUEST_TOO_LARGE = _kind(
    Code.RESOURCE_EXHAUSTED,
    "HTTP_REQUEST_TOO_LARGE",
    "The {part} of the request takes more than {limit_bytes} bytes",
    "Send less in one request, or ask the operator for a higher limit; the same call fails again.",
)
SERVER_UNREACHABLE = _kind(
    Code.UNAVAILABLE,
    "SERVER_UNREACHABLE",
    "The gateway cannot reach the server",
    "Repeat the call after the pause that RetryInfo names, with the same idempotency-key; the "
    "operator should see whether the server runs where the gateway looks for it.",
    1.0,
)
SERVER_TOO_SLOW = _kind(
    Code.DEADLINE_EXCEEDED,
    "SERVER_TOO_SLOW",
    "The server did not answer the gateway in time",
    "Repeat the call with the same idempotency-key: what it asked for may have happened.",
)


def http_request_invalid(problem: str) -> Failure:
    """`problem` is in the words of the gateway."""
    return HTTP_REQUEST_INVALID.failure(problem=problem)


def http_method_unknown() -> Failure:
    return HTTP_METHOD_UNKNOWN.failure()


def http_origin_not_allowed() -> Failure:
    return HTTP_ORIGIN_NOT_ALLOWED.failure()


def http_request_too_late() -> Failure:
    return HTTP_REQUEST_TOO_LATE.failure()


def http_request_too_large(part: str, limit_bytes: int) -> Failure:
    """`part` is body or header."""
    return HTTP_REQUEST_TOO_LARGE.failure(part=part, limit_bytes=limit_bytes)


def server_unreachable() -> Failure:
    return SERVER_UNREACHABLE.failure()


def server_too_slow() -> Failure:
    return SERVER_TOO_SLOW.failure()
