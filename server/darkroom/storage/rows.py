"""Rows and SQL that every adapter shares. Parameters are positional, written `?`."""

import json
from typing import Any

from darkroom.domain.errors import Failure
from darkroom.domain.image import HardwareGeneration, Image, KmsKey, Os, OsType, Status
from darkroom.domain.operation import Operation, State

Row = tuple[Any, ...]

_IMAGE_COLUMNS = (
    "id, folder_id, created_at_us, status, name, description, labels, family, size_bytes, "
    "storage_size_bytes, min_disk_size_bytes, product_ids, os_type, os_nvidia_driver, pooled, "
    "hardware, kms_key, content_id"
)
_OPERATION_COLUMNS = (
    "id, kind, folder_id, resource_id, created_at_us, created_by, modified_at_us, state, "
    "cancel_requested, fence, phase, progress_done_bytes, progress_total_bytes, error, response"
)

IMAGE_BY_ID = f"SELECT {_IMAGE_COLUMNS} FROM image WHERE id = ?"
IMAGES_OF_FOLDER = (
    f"SELECT {_IMAGE_COLUMNS} FROM image WHERE folder_id = ? AND id > ? ORDER BY id LIMIT ?"
)
INSERT_IMAGE = (
    f"INSERT INTO image ({_IMAGE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, "
    "?, ?, ?)"
)
UPDATE_IMAGE = (
    "UPDATE image SET folder_id = ?, created_at_us = ?, status = ?, name = ?, description = ?, "
    "labels = ?, family = ?, size_bytes = ?, storage_size_bytes = ?, min_disk_size_bytes = ?, "
    "product_ids = ?, os_type = ?, os_nvidia_driver = ?, pooled = ?, hardware = ?, kms_key = ?, "
    "content_id = ? WHERE id = ?"
)
DELETE_IMAGE = "DELETE FROM image WHERE id = ?"

INSERT_CONTENT = (
    "INSERT INTO content (id, virtual_size_bytes, stored_size_bytes, sha256, source_sha256, "
    "created_at_us) VALUES (?, ?, ?, ?, ?, ?)"
)
UNREFERENCED_CONTENTS = (
    "SELECT id FROM content WHERE NOT EXISTS "
    "(SELECT 1 FROM image WHERE image.content_id = content.id) ORDER BY id LIMIT ?"
)
DELETE_UNREFERENCED_CONTENT = (
    "DELETE FROM content WHERE id = ? AND NOT EXISTS "
    "(SELECT 1 FROM image WHERE image.content_id = content.id)"
)
CONTENT_EXISTS = "SELECT 1 FROM content WHERE id = ?"

OPERATION_BY_ID = f"SELECT {_OPERATION_COLUMNS} FROM operation WHERE id = ?"
UNFINISHED_ON_RESOURCE = (
    "SELECT id FROM operation WHERE resource_id = ? AND state < 2 ORDER BY created_at_us LIMIT 1"
)
INSERT_OPERATION = (
    f"INSERT INTO operation ({_OPERATION_COLUMNS}, owner, beat, attempt, delay_ms, payload, "
    "sealed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', 0, 0, 0, ?, ?)"
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
CLAIMED_EXTRAS = "SELECT attempt, payload, sealed FROM operation WHERE id = ?"
LIVE_ATTEMPT = "SELECT 1 FROM operation WHERE id = ? AND fence = ? AND state = 1"
PUT_BACK = (
    "UPDATE operation SET state = 0, owner = '', delay_ms = ?, attempt = attempt - ?, phase = '', "
    "progress_done_bytes = 0, progress_total_bytes = NULL "
    "WHERE id = ? AND owner = ? AND fence = ? AND state = 1"
)
PUT_BACK_ALL = (
    "UPDATE operation SET state = 0, owner = '', delay_ms = 0, phase = '', "
    "progress_done_bytes = 0, progress_total_bytes = NULL WHERE owner = ? AND state = 1"
)
PURGE_OPERATIONS = (
    "DELETE FROM operation WHERE id IN (SELECT id FROM operation "
    "WHERE state = 2 AND modified_at_us < ? ORDER BY modified_at_us LIMIT ?)"
)

REPLAY = (
    "SELECT request_hash, operation_id FROM idempotency_key "
    "WHERE subject = ? AND idempotency_key = ?"
)
REMEMBER = (
    "INSERT INTO idempotency_key (subject, idempotency_key, request_hash, operation_id) "
    "VALUES (?, ?, ?, ?)"
)

_DEFAULT_HARDWARE = HardwareGeneration()


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def image_row(image: Image) -> Row:
    """Values in the order of the image columns; empty text stands for the common default."""
    hardware = image.hardware_generation
    return (
        image.id,
        image.folder_id,
        image.created_at_us,
        int(image.status),
        image.name,
        image.description,
        _dumps(image.labels) if image.labels else "",
        image.family,
        image.size_bytes,
        image.storage_size_bytes,
        image.min_disk_size_bytes,
        _dumps(image.product_ids) if image.product_ids else "",
        int(image.os.type),
        image.os.nvidia_driver,
        int(image.pooled),
        "" if hardware == _DEFAULT_HARDWARE else _dumps(hardware.__dict__),
        _dumps(image.kms_key.__dict__) if image.kms_key else "",
        image.content_id,
    )


def image_from_row(row: Row) -> Image:
    hardware, kms_key = row[15], row[16]
    return Image(
        id=row[0],
        folder_id=row[1],
        created_at_us=row[2],
        status=Status(row[3]),
        name=row[4],
        description=row[5],
        labels=json.loads(row[6]) if row[6] else {},
        family=row[7],
        size_bytes=row[8],
        storage_size_bytes=row[9],
        min_disk_size_bytes=row[10],
        product_ids=tuple(json.loads(row[11])) if row[11] else (),
        os=Os(OsType(row[12]), row[13]),
        pooled=bool(row[14]),
        hardware_generation=(
            HardwareGeneration(**json.loads(hardware)) if hardware else _DEFAULT_HARDWARE
        ),
        kms_key=KmsKey(**json.loads(kms_key)) if kms_key else None,
        content_id=row[17],
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
        error_text(operation.error),
        response_text(operation.response),
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
        error=Failure.from_record(json.loads(row[13])) if row[13] else None,
        response=json.loads(row[14]) if row[14] else None,
    )
