"""Rows that store tests are made of."""

from dataclasses import replace
from typing import Any

from darkroom.domain.content import Content
from darkroom.domain.ids import new_id
from darkroom.domain.image import Image, Status
from darkroom.domain.operation import IMAGE_CREATE, Operation, State
from darkroom.storage.port import MetadataStore

NOW_US = 1_790_000_000_000_000


def an_image(**values: Any) -> Image:
    image = Image(id=new_id(), folder_id="folder-a", created_at_us=NOW_US, status=Status.READY)
    return replace(image, **values)


def a_content(**values: Any) -> Content:
    content = Content(f"{new_id()}.1", 1 << 30, 1 << 20, "ab" * 32, "cd" * 32, NOW_US)
    return replace(content, **values)


def an_operation(**values: Any) -> Operation:
    operation = Operation(
        id=new_id(),
        kind=IMAGE_CREATE,
        folder_id="folder-a",
        resource_id=new_id(),
        created_at_us=NOW_US,
        created_by="tester",
        modified_at_us=NOW_US,
        state=State.PENDING,
    )
    return replace(operation, **values)


def insert_image(store: MetadataStore, **values: Any) -> Image:
    image = an_image(**values)
    store.write(lambda tx: tx.insert_resource(image))
    return image


def insert_operation(store: MetadataStore, **values: Any) -> Operation:
    operation = an_operation(**values)
    store.write(lambda tx: tx.insert_operation(operation, {"answer": 42}, "sealed text"))
    return operation
