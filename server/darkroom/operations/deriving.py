"""Sources that share their content: an image, a disk or a snapshot that something is made of."""

from dataclasses import dataclass
from typing import Any

from darkroom.domain import errors
from darkroom.domain.resource import Os, OsType, Resource, Status
from darkroom.storage.port import Transaction


@dataclass(frozen=True)
class ResourceSource:
    """A resource of the installation, by kind and id."""

    kind: type[Resource]
    id: str

    def identity(self) -> dict[str, Any]:
        return {self.kind.NOUN: self.id}

    def locked(self, tx: Transaction) -> Resource:
        """The source, held until the transaction ends. Raises `Failure` if it cannot be one."""
        source = tx.resource(self.kind, self.id, shared=True)
        if source is None:
            raise errors.source_not_found(self.kind.NOUN, self.id)
        if source.status is not Status.READY:
            raise errors.source_not_ready(self.kind.NOUN, self.id, source.status.name)
        return source


def inherited(source: Resource) -> dict[str, Any]:
    """The fields that whatever is made of `source` takes from it; no byte is copied."""
    return {
        "status": Status.READY,
        "size_bytes": source.size_bytes,
        "storage_size_bytes": source.storage_size_bytes,
        "product_ids": source.product_ids,
        "os": source.os,
        "hardware_generation": source.hardware_generation,
        "kms_key": source.kms_key,
        "content_id": source.content_id,
    }


def os_of(requested: Os | None, inherited_os: Os) -> Os:
    """What the request says, or what the source has.

    Terraform always sends `os`, with an unspecified type when the user named none: that is "not
    said", so it inherits (its code).
    """
    if requested is None or requested.type is OsType.UNSPECIFIED:
        driver = "" if requested is None else requested.nvidia_driver
        return Os(inherited_os.type, driver or inherited_os.nvidia_driver)
    return requested
