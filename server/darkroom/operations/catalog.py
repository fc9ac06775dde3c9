"""The operator's catalogue: images that are made at start-up, once, with ids that never change."""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass

from darkroom.domain.access import AccessBinding
from darkroom.domain.errors import Failure
from darkroom.domain.ids import stable_id
from darkroom.domain.image import Image
from darkroom.domain.resource import Status
from darkroom.operations.desk import Caller, Operations
from darkroom.operations.image_create import CreateImage, FileSource
from darkroom.storage.port import MetadataStore

log = logging.getLogger(__name__)

SUBJECT = "catalog"
"""Who created the images of the catalogue, and whose idempotency keys theirs are."""

READABLE_BY_EVERYONE = AccessBinding("compute.images.user", "system", "allAuthenticatedUsers")

_PAGE = 1000


class CatalogError(ValueError):
    """The catalogue cannot be used; the text names entries and fields."""


@dataclass(frozen=True)
class CatalogEntry:
    """One image of the catalogue: where it stands in the file, and how it is made."""

    place: str
    command: CreateImage


def catalog_id(folder_id: str, name: str) -> str:
    """The id of a catalogue's image: the same on every installation and at every start."""
    return stable_id(f"{folder_id}/{name}")


def stock(store: MetadataStore, operations: Operations, entries: Iterable[CatalogEntry]) -> None:
    """Begin making the images that are not there yet, or whose making failed.

    Any number of processes may do so at once: they begin one operation per image. An entry that
    is refused, for instance because its name is taken, is left out with a warning: it must not
    keep the rest from being served. Raises `CatalogError` for a file that cannot be read, and
    `Failure` when the database cannot answer.
    """
    for entry in entries:
        image_id = entry.command.image_id
        # Before the image: an operation that another process begins in between is then seen by
        # the image that it made.
        key = f"{image_id}/{_last_operation(store, image_id)}"
        image = store.get(Image, image_id)
        if image is not None and image.status is not Status.ERROR:
            continue
        _check_file(entry)
        try:
            operation = operations.begin(entry.command, Caller(SUBJECT, key), limited=False)
        except Failure as failure:
            if failure.retry_after_seconds is not None:
                raise
            fields = {"entry": entry.place, "reason": failure.reason}
            log.warning("catalogue image left out", extra={"fields": fields})
        else:
            fields = {"image_id": image_id, "operation_id": operation.id}
            log.info("catalogue image begun", extra={"fields": fields})


def _last_operation(store: MetadataStore, image_id: str) -> str:
    """Id of the last operation on the image, which outlives it, or an empty text.

    Part of the idempotency key: an attempt after a failed one, or after a deletion, is new.
    """
    after = (0, "")
    while found := store.list_operations(image_id, after, _PAGE):
        after = found[-1].created_at_us, found[-1].id
    return after[1]


def _check_file(entry: CatalogEntry) -> None:
    """Only where the image has yet to be made: the operator may remove the file afterwards."""
    source = entry.command.source
    if not isinstance(source, FileSource):
        return
    if not source.path.is_file() or not os.access(source.path, os.R_OK):
        raise CatalogError(f"{entry.place}: file: {source.path} is not a file that can be read")
