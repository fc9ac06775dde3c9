"""What must hold among the rows of an installation, as SQL that finds where it does not.

Each check is one statement, so it sees one moment: every transaction keeps what is checked here,
and a row that a check finds is wrong, however busy the installation is. Statements that mend look
again, under the locks that every change takes.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from darkroom.domain.disk import Disk
from darkroom.domain.finding import Finding
from darkroom.domain.image import Image
from darkroom.domain.operation import DESCRIPTIONS
from darkroom.domain.resource import Resource
from darkroom.domain.snapshot import Snapshot
from darkroom.storage import rows

Read = Callable[[str, Sequence[Any]], list[rows.Row]]
"""Runs one statement that changes nothing."""

_PAGE = 500
_MOST = 1000
"""Findings of one check: who has more of them does not need them all to begin."""


def _kinds(verb: str = "") -> str:
    """The kinds of operations with that verb, or all that are known, as an SQL list."""
    found = [kind for kind in DESCRIPTIONS if not verb or kind.endswith(f".{verb}")]
    return "(" + ", ".join(f"'{kind}'" for kind in found) + ")"


def _unfinished(verb: str) -> str:
    """Whether an operation with that verb is under way on the row of `resource`."""
    return (
        "EXISTS (SELECT 1 FROM operation WHERE operation.resource_id = resource.id "
        f"AND state < 2 AND operation.kind IN {_kinds(verb)})"
    )


_NO_CONTENT = "NOT EXISTS (SELECT 1 FROM content WHERE content.id = resource.content_id)"
_NO_BOUND = "NOT EXISTS (SELECT 1 FROM resource WHERE resource.id = access_binding.resource_id)"
_NO_OPERATION = (
    "NOT EXISTS (SELECT 1 FROM operation WHERE operation.id = idempotency_key.operation_id)"
)
_UNUSED = "NOT EXISTS (SELECT 1 FROM resource WHERE resource.content_id = content.id)"


@dataclass(frozen=True)
class Check:
    """One invariant: `find` selects the id of each offender, then what `text` shows of it."""

    find: str
    text: str
    mend: str = ""
    """Sets one offender right, by its id, if that loses nothing. Empty: somebody must decide."""


CHECKS: dict[str, Check] = {
    # --- resources --------------------------------------------------------------------------------
    "resource-kind": Check(
        "SELECT id, kind, status FROM resource WHERE kind NOT IN ('Image', 'Disk', 'Snapshot') "
        "OR status NOT IN (1, 2, 3, 4)",
        "is of kind {} in status {}, which this version does not know",
    ),
    "resource-name": Check(
        "SELECT MIN(id), kind, name, folder_id, COUNT(*) FROM resource "
        "WHERE name <> '' AND status <> 3 GROUP BY kind, folder_id, name HAVING COUNT(*) > 1",
        'shares kind {}, name "{}" and folder {} with others, {} in all',
    ),
    "resource-content": Check(
        f"SELECT id, content_id FROM resource WHERE content_id IS NOT NULL AND {_NO_CONTENT}",
        "refers to content {}, which has no row",
    ),
    "resource-bytes": Check(
        "SELECT id, storage_size_bytes FROM resource "
        "WHERE content_id IS NULL AND storage_size_bytes <> 0",
        "has {} stored bytes, but refers to no content",
    ),
    "resource-size": Check(
        "SELECT resource.id, size_bytes, storage_size_bytes, virtual_size_bytes, "
        "stored_size_bytes FROM resource JOIN content ON content.id = content_id "
        "WHERE size_bytes < virtual_size_bytes OR storage_size_bytes <> stored_size_bytes",
        "has size {} and stored size {}, its content has {} and {}",
    ),
    "resource-creating": Check(
        f"SELECT id FROM resource WHERE status = 1 AND NOT {_unfinished('create')}",
        "is CREATING, but no operation creates it",
        mend=f"UPDATE resource SET status = 3 WHERE id = ? AND status = 1 "
        f"AND NOT {_unfinished('create')}",
    ),
    "resource-deleting": Check(
        f"SELECT id FROM resource WHERE status = 4 AND NOT {_unfinished('delete')}",
        "is DELETING, but no operation deletes it",
        mend=f"UPDATE resource SET status = 2 WHERE id = ? AND status = 4 "
        f"AND NOT {_unfinished('delete')}",
    ),
    "resource-ready": Check(
        "SELECT id FROM resource WHERE status = 2 "
        f"AND ({_unfinished('create')} OR {_unfinished('delete')})",
        "is READY, but an operation that creates or deletes it is under way",
    ),
    "binding-orphaned": Check(
        f"SELECT DISTINCT resource_id FROM access_binding WHERE {_NO_BOUND}",
        "has access bindings, but does not exist",
        mend=f"DELETE FROM access_binding WHERE resource_id = ? AND {_NO_BOUND}",
    ),
    # --- contents ---------------------------------------------------------------------------------
    "content-forgotten": Check(
        f"SELECT id FROM content WHERE check_due = 0 AND {_UNUSED}",
        "is used by nothing, but the collector does not know",
        mend=f"UPDATE content SET check_due = 1 WHERE id = ? AND check_due = 0 AND {_UNUSED}",
    ),
    # --- operations -------------------------------------------------------------------------------
    "operation-state": Check(
        "SELECT id, state, owner, fence, attempt FROM operation WHERE state NOT IN (0, 1, 2) "
        "OR (state = 1 AND (owner = '' OR fence < 1 OR attempt < 1))",
        "is in state {} with owner '{}', fence {} and attempt {}, which cannot be",
    ),
    "operation-owner": Check(
        "SELECT id, owner FROM operation WHERE state <> 1 AND owner <> ''",
        "is not running, but has owner {}",
        mend="UPDATE operation SET owner = '' WHERE id = ? AND state <> 1 AND owner <> ''",
    ),
    "operation-result": Check(
        "SELECT id FROM operation WHERE state = 2 AND (error = '') = (response = '')",
        "has ended, but not with exactly one of error and response",
    ),
    "operation-early": Check(
        "SELECT id FROM operation WHERE state < 2 AND (error <> '' OR response <> '')",
        "has a result, but has not ended",
    ),
    "operation-cancelled": Check(
        "SELECT id FROM operation WHERE state = 2 AND cancel_requested = 1 AND response <> ''",
        "was cancelled and succeeded nevertheless",
    ),
    "operation-secret": Check(
        "SELECT id FROM operation WHERE state = 2 AND sealed <> ''",
        "has ended, but its sealed secret is still kept",
        mend="UPDATE operation SET sealed = '' WHERE id = ? AND state = 2 AND sealed <> ''",
    ),
    "operation-resource": Check(
        f"SELECT id, kind, resource_id FROM operation WHERE state < 2 AND kind IN {_kinds()} "
        "AND NOT EXISTS (SELECT 1 FROM resource WHERE resource.id = operation.resource_id)",
        "is to do {} on {}, which does not exist; cancel it",
    ),
    "operation-conflict": Check(
        "SELECT MIN(id), resource_id, COUNT(*) FROM operation WHERE state < 2 "
        "GROUP BY resource_id HAVING COUNT(*) > 1",
        "is under way on {} beside others, {} in all",
    ),
    "key-orphaned": Check(
        f"SELECT DISTINCT operation_id FROM idempotency_key WHERE {_NO_OPERATION}",
        "has idempotency keys, but does not exist",
        mend=f"DELETE FROM idempotency_key WHERE operation_id = ? AND {_NO_OPERATION}",
    ),
}

REFERENCES = {
    ("resource", "content"),
    ("access_binding", "resource"),
    ("idempotency_key", "operation"),
}
"""Foreign keys, from table to table, that the checks look after by themselves."""

_RESOURCE_KINDS: dict[str, type[Resource]] = {kind.NOUN: kind for kind in (Image, Disk, Snapshot)}
_RESOURCES = f"SELECT {rows.RESOURCE_COLUMNS}, kind FROM resource WHERE id > ? ORDER BY id LIMIT ?"
_OPERATIONS = (
    f"SELECT {rows.OPERATION_COLUMNS}, payload FROM operation WHERE id > ? ORDER BY id LIMIT ?"
)
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)


def violations(read: Read) -> Iterator[Finding]:
    """Whatever contradicts an invariant."""
    for name, check in CHECKS.items():
        for subject, *shown in read(f"{check.find} LIMIT {_MOST}", ()):
            text = check.text.format(*shown)
            yield Finding(name, str(subject), text, can_mend=bool(check.mend))
    yield from _unreadable(read, _RESOURCES, "resource-unreadable", _decode_resource)
    yield from _unreadable(read, _OPERATIONS, "operation-unreadable", _decode_operation)


def _unreadable(
    read: Read, page: str, name: str, decode: Callable[[rows.Row], object]
) -> Iterator[Finding]:
    """Rows that no program can make anything of."""
    last = ""
    while found := read(page, (last, _PAGE)):
        last = str(found[-1][0])
        for row in found:
            try:
                decode(row)
            except _UNREADABLE as error:
                text = f"cannot be read: {type(error).__name__}"
                yield Finding(name, str(row[0]), text)


def _decode_resource(row: rows.Row) -> None:
    kind = _RESOURCE_KINDS.get(row[-1])
    if kind is not None:  # another check tells
        rows.resource_from_row(kind, row)


def _decode_operation(row: rows.Row) -> None:
    rows.operation_from_row(row)
    if row[-1]:
        json.loads(row[-1])
