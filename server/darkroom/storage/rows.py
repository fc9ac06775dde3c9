"""Rows and SQL that every adapter shares. Parameters are positional, written `?`.

`{moment}`, `{beat}` and `{skip_locked}` stand for what a `Dialect` says in its own words.
"""

import dataclasses
import json
from typing import Any, TypeVar

from darkroom.domain.errors import Failure
from darkroom.domain.operation import Claim, Lease, Operation, State, Unfinished
from darkroom.domain.resource import Resource, Status, decoded, encoded

Row = tuple[Any, ...]
R = TypeVar("R", bound=Resource)

RESOURCE_COLUMNS = (
    "id, folder_id, created_at_us, status, name, description, labels, family, size_bytes, "
    "storage_size_bytes, content_id, details"
)
OPERATION_COLUMNS = (
    "id, kind, folder_id, resource_id, created_at_us, created_by, modified_at_us, state, "
    "cancel_requested, fence, phase, progress_done_bytes, progress_total_bytes, metadata, error, "
    "response"
)

RESOURCE_BY_ID = f"SELECT {RESOURCE_COLUMNS} FROM resource WHERE id = ? AND kind = ?"
INSERT_RESOURCE = f"INSERT INTO resource ({RESOURCE_COLUMNS}, kind) VALUES ({', '.join('?' * 13)})"
UPDATE_RESOURCE = (
    "UPDATE resource SET folder_id = ?, created_at_us = ?, status = ?, name = ?, description = ?, "
    "labels = ?, family = ?, size_bytes = ?, storage_size_bytes = ?, content_id = ?, details = ?, "
    "kind = ? WHERE id = ?"
)
DELETE_RESOURCE = "DELETE FROM resource WHERE id = ?"
LATEST_BY_FAMILY = (
    f"SELECT {RESOURCE_COLUMNS} FROM resource WHERE kind = 'Image' AND folder_id = ? "
    "AND family = ? AND family <> '' AND status = 2 ORDER BY created_at_us DESC, id DESC LIMIT 1"
)

BINDINGS = (
    "SELECT role_id, subject_type, subject_id FROM access_binding WHERE resource_id = ? "
    "AND (role_id, subject_type, subject_id) > (?, ?, ?) "
    "ORDER BY role_id, subject_type, subject_id LIMIT ?"
)
INSERT_BINDING = (
    "INSERT INTO access_binding (resource_id, role_id, subject_type, subject_id) "
    "VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
DELETE_BINDING = (
    "DELETE FROM access_binding WHERE resource_id = ? AND role_id = ? AND subject_type = ? "
    "AND subject_id = ?"
)

_CONTENT_COLUMNS = "id, virtual_size_bytes, stored_size_bytes, sha256, source_sha256, created_at_us"
CONTENT_BY_ID = f"SELECT {_CONTENT_COLUMNS} FROM content WHERE id = ?"
INSERT_CONTENT = f"INSERT INTO content ({_CONTENT_COLUMNS}, check_due) VALUES (?, ?, ?, ?, ?, ?, 1)"
# Before a resource takes another content instead of its own, or none: then that is ''.
CONTENT_CHECK_DUE = (
    "UPDATE content SET check_due = 1 WHERE id = "
    "(SELECT content_id FROM resource WHERE id = ? AND content_id <> ?)"
)
CONTENTS_TO_CHECK = (
    "SELECT id, EXISTS (SELECT 1 FROM resource WHERE resource.content_id = content.id) "
    "FROM content WHERE check_due = 1 ORDER BY id LIMIT ?"
)
# Held while they are looked at: whoever lets go of one needs its row.
CONTENTS_BETWEEN = "SELECT id FROM content WHERE check_due = 1 AND id BETWEEN ? AND ? ORDER BY id"
CONTENTS_CHECKED = (
    "UPDATE content SET check_due = 0 WHERE check_due = 1 AND id BETWEEN ? AND ? AND EXISTS "
    "(SELECT 1 FROM resource WHERE resource.content_id = content.id)"
)
DELETE_UNREFERENCED_CONTENT = (
    "DELETE FROM content WHERE id = ? AND NOT EXISTS "
    "(SELECT 1 FROM resource WHERE resource.content_id = content.id)"
)
CONTENTS_AFTER = f"SELECT {_CONTENT_COLUMNS} FROM content WHERE id > ? ORDER BY id LIMIT ?"
CONTENT_TOTALS = "SELECT COUNT(*), CAST(COALESCE(SUM(stored_size_bytes), 0) AS BIGINT) FROM content"
CONTENTS_AMONG = "SELECT id FROM content WHERE id IN ({marks})"

OPERATION_BY_ID = f"SELECT {OPERATION_COLUMNS} FROM operation WHERE id = ?"
OPERATIONS_OF_RESOURCE = (
    f"SELECT {OPERATION_COLUMNS} FROM operation WHERE resource_id = ? "
    "AND (created_at_us, id) > (?, ?) ORDER BY created_at_us, id LIMIT ?"
)
UNFINISHED_ON_RESOURCE = (
    "SELECT id FROM operation WHERE resource_id = ? AND state < 2 ORDER BY created_at_us LIMIT 1"
)
FOLDER_SLOTS = 64
"""Rows of `folder_slot`: enough that folders seldom share one."""
FOLDER_SLOT = "SELECT slot FROM folder_slot WHERE slot = ?"
COUNT_UNFINISHED = (
    "SELECT COUNT(*) FROM (SELECT 1 FROM operation WHERE folder_id = ? AND state < 2 LIMIT ?) "
    "AS counted"
)
INSERT_OPERATION = (
    f"INSERT INTO operation ({OPERATION_COLUMNS}, owner, beat, attempt, delay_ms, payload, "
    "sealed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', {moment}, 0, ?, ?, ?)"
)
END_OPERATION = (
    "UPDATE operation SET state = 2, modified_at_us = ?, error = ?, response = ?, sealed = '' "
    "WHERE id = ? AND state = 0"
)
REQUEST_CANCEL = (
    "UPDATE operation SET cancel_requested = 1, modified_at_us = ? WHERE id = ? AND state = 1"
)
# `? = 0` is whether this is a success, which an acknowledged cancel forbids.
FINISH_LEASED = (
    "UPDATE operation SET state = 2, modified_at_us = ?, error = ?, response = ?, sealed = '', "
    "owner = '' WHERE id = ? AND owner = ? AND fence = ? AND state = 1 "
    "AND (? = 0 OR cancel_requested = 0)"
)
CLAIMABLE = (
    "SELECT id, state, fence, beat, delay_ms FROM operation WHERE state < 2 "
    "ORDER BY created_at_us, id LIMIT ?"
)
UNFINISHED = (
    "SELECT id, state, owner, fence, beat, sealed FROM operation WHERE state < 2 AND state >= 0"
)
BACKLOG = (
    "SELECT kind, state, COUNT(*), MIN(created_at_us) FROM operation WHERE state < 2 "
    "GROUP BY kind, state ORDER BY kind, state"
)
PAYLOAD = "SELECT payload FROM operation WHERE id = ?"
CLAIM = (
    "UPDATE operation SET state = 1, owner = ?, fence = fence + 1, beat = {moment}, "
    "attempt = attempt + 1, delay_ms = 0"
)
CLAIMED = f" RETURNING {OPERATION_COLUMNS}, owner, attempt, payload, sealed"
# The key that seals secrets is among the claimer's, or nobody has said which one it is.
KEY_HELD = "NOT EXISTS (SELECT 1 FROM secret_key WHERE key_id NOT IN ({keys}))"
# Nobody else has claimed it, and its owner has given no sign of life, since it was looked at.
CLAIM_GUARDED = (
    f"{CLAIM} WHERE id = ? AND state = ? AND fence = ? AND beat = ? AND {{key_held}}{CLAIMED}"
)
# `state < 2` is what the index of unfinished operations says: a planner takes it at its word.
LIVE_ATTEMPTS = "SELECT id, fence FROM operation WHERE state < 2 AND state = 1"
HEARTBEAT = (
    "UPDATE operation SET beat = {beat}, phase = ?, progress_done_bytes = ?, "
    "progress_total_bytes = ? WHERE id = ? AND owner = ? AND fence = ? AND state = 1 "
    "RETURNING cancel_requested"
)
# A cancel that was acknowledged meanwhile does not wait for the next attempt.
PUT_BACK = (
    "UPDATE operation SET state = 0, owner = '', beat = {moment}, "
    "delay_ms = CASE cancel_requested WHEN 0 THEN ? ELSE 0 END, attempt = attempt - ?, phase = '', "
    "progress_done_bytes = 0, progress_total_bytes = NULL "
    "WHERE id = ? AND owner = ? AND fence = ? AND state = 1"
)
# Only if its owner has not moved since it was looked at.
TAKE_BACK = f"{PUT_BACK} AND beat = ?"
PUT_BACK_ALL = (
    "UPDATE operation SET state = 0, owner = '', delay_ms = 0, phase = '', "
    "progress_done_bytes = 0, progress_total_bytes = NULL "
    "WHERE owner = ? AND state < 2 AND state = 1"
)
PURGE_OPERATIONS = (
    "DELETE FROM operation WHERE id IN (SELECT id FROM operation "
    "WHERE state = 2 AND modified_at_us < ? ORDER BY modified_at_us LIMIT ?{skip_locked})"
)

SECRET_KEY = "SELECT key_id FROM secret_key WHERE only_row = 1"
SET_SECRET_KEY = (
    "INSERT INTO secret_key (only_row, key_id) VALUES (1, ?) "
    "ON CONFLICT (only_row) DO UPDATE SET key_id = excluded.key_id"
)

REPLAY = (
    "SELECT request_hash, operation_id FROM idempotency_key "
    "WHERE subject = ? AND idempotency_key = ?"
)
REMEMBER = (
    "INSERT INTO idempotency_key (subject, idempotency_key, request_hash, operation_id) "
    "VALUES (?, ?, ?, ?)"
)

REVOKE = (
    "INSERT INTO revocation (mark, before_us, at_us, forget_at_us) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (mark) DO UPDATE SET "
    + ", ".join(
        f"{name} = CASE WHEN excluded.{name} > revocation.{name} THEN excluded.{name} "
        f"ELSE revocation.{name} END"
        for name in ("before_us", "at_us", "forget_at_us")
    )
)
REVOCATIONS = "SELECT mark, before_us, at_us FROM revocation WHERE at_us >= ?"
FORGET_REVOCATIONS = "DELETE FROM revocation WHERE forget_at_us < ?"

_AUDIT_COLUMNS = (
    "at_us, subject_type, subject_id, action, result, reason, resource_id, folder_id, "
    "operation_id, request_id, id"
)
INSERT_AUDIT = f"INSERT INTO audit ({_AUDIT_COLUMNS}) VALUES ({', '.join('?' * 11)})"
AUDIT = (
    f"SELECT {_AUDIT_COLUMNS} FROM audit WHERE (at_us, id) > (?, ?){{conditions}} "
    "ORDER BY at_us, id LIMIT ?"
)
PURGE_AUDIT = (
    "DELETE FROM audit WHERE (at_us, id) IN "
    "(SELECT at_us, id FROM audit WHERE at_us < ? ORDER BY at_us LIMIT ?)"
)

# Whatever refers to other rows first.
CLEAR = tuple(
    f"DELETE FROM {table}"
    for table in (
        *("idempotency_key", "operation", "access_binding", "resource", "content"),
        *("secret_key", "revocation", "audit"),
    )
)


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


_COLUMN_FIELDS = frozenset(RESOURCE_COLUMNS.split(", ")) - {"details"}


_DETAIL_DEFAULTS: dict[type[Resource], tuple[tuple[str, Any], ...]] = {}


def _detail_defaults(kind: type[Resource]) -> tuple[tuple[str, Any], ...]:
    """The fields of a kind that have no column of their own, with their defaults."""
    if kind not in _DETAIL_DEFAULTS:
        _DETAIL_DEFAULTS[kind] = tuple(
            (each.name, _default(each))
            for each in dataclasses.fields(kind)
            if each.name not in _COLUMN_FIELDS
        )
    return _DETAIL_DEFAULTS[kind]


def _default(field: "dataclasses.Field[Any]") -> Any:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def resource_row(resource: Resource) -> Row:
    """Values in the order of the resource columns."""
    details = {
        name: encoded(value)
        for name, default in _detail_defaults(type(resource))
        if (value := getattr(resource, name)) != default
    }
    return (
        resource.id,
        resource.folder_id,
        resource.created_at_us,
        int(resource.status),
        resource.name,
        resource.description,
        _dumps(resource.labels) if resource.labels else "",
        getattr(resource, "family", ""),
        resource.size_bytes,
        resource.storage_size_bytes,
        resource.content_id,
        _dumps(details) if details else "",
    )


def resource_from_row(kind: type[R], row: Row) -> R:
    """Inverse of `resource_row`."""
    details: dict[str, Any] = json.loads(row[11]) if row[11] else {}
    for name, value in details.items():
        details[name] = decoded(name, value)
    if row[7]:
        details["family"] = row[7]
    return kind(
        id=row[0],
        folder_id=row[1],
        created_at_us=row[2],
        status=Status(row[3]),
        name=row[4],
        description=row[5],
        labels=json.loads(row[6]) if row[6] else {},
        size_bytes=row[8],
        storage_size_bytes=row[9],
        content_id=row[10],
        **details,
    )


def error_text(error: Failure | None) -> str:
    return _dumps(error.to_record()) if error is not None else ""


def response_text(response: dict[str, Any] | None) -> str:
    return _dumps(response) if response is not None else ""


def operation_row(operation: Operation) -> Row:
    """Values in the order of the operation columns."""
    return (
        operation.id,
        operation.kind,
        operation.folder_id,
        operation.resource_id,
        operation.created_at_us,
        operation.created_by,
        operation.modified_at_us,
        int(operation.state),
        int(operation.cancel_requested),
        operation.fence,
        operation.phase,
        operation.progress_done_bytes,
        operation.progress_total_bytes,
        _dumps(operation.metadata) if operation.metadata else "",
        error_text(operation.error),
        response_text(operation.response),
    )


def claim_from_row(row: Row) -> Claim:
    """What a claiming statement returns."""
    *columns, owner, attempt, payload, sealed = row
    operation = operation_from_row(tuple(columns))
    return Claim(
        Lease(operation.id, owner, operation.fence),
        operation,
        attempt,
        json.loads(payload) if payload else {},
        sealed,
    )


def operation_from_row(row: Row) -> Operation:
    return Operation(
        id=row[0],
        kind=row[1],
        folder_id=row[2],
        resource_id=row[3],
        created_at_us=row[4],
        created_by=row[5],
        modified_at_us=row[6],
        state=State(row[7]),
        cancel_requested=bool(row[8]),
        fence=row[9],
        phase=row[10],
        progress_done_bytes=row[11],
        progress_total_bytes=row[12],
        metadata=json.loads(row[13]) if row[13] else {},
        error=Failure.from_record(json.loads(row[14])) if row[14] else None,
        response=json.loads(row[15]) if row[15] else None,
    )


def unfinished_from_row(row: Row) -> Unfinished:
    return Unfinished(row[0], State(row[1]), *row[2:])
