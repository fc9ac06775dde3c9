"""Create a disk, empty or from an image or a snapshot: rows only, whatever its size."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from darkroom.domain import errors
from darkroom.domain.disk import DEFAULT_BLOCK_SIZE_BYTES, DEFAULT_TYPE_ID, Disk
from darkroom.domain.image import Image
from darkroom.domain.operation import DISK_CREATE
from darkroom.domain.resource import (
    HardwareGeneration,
    KmsKey,
    PlacementPolicy,
    Resource,
    Status,
    encoded,
)
from darkroom.domain.snapshot import Snapshot
from darkroom.operations.changing import check_size_step
from darkroom.operations.deriving import ResourceSource, inherited
from darkroom.operations.desk import Begun, Opening
from darkroom.operations.effect import Effect
from darkroom.storage.port import Transaction


@dataclass(frozen=True)
class CreateDisk:
    """Create a disk. The zone and the type are checked by whoever knows the configured ones."""

    kind: ClassVar[str] = DISK_CREATE

    folder_id: str
    zone_id: str
    size_bytes: int
    source: ResourceSource | None = None
    name: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    type_id: str = DEFAULT_TYPE_ID
    block_size_bytes: int = DEFAULT_BLOCK_SIZE_BYTES
    placement_policy: PlacementPolicy = field(default_factory=PlacementPolicy)
    hardware_generation: HardwareGeneration | None = None
    kms_key_id: str = ""
    id_prefix: str = "fhm"
    """Ids of disks begin with what stands for their zone (cloud docs)."""

    def identity(self) -> dict[str, Any]:
        values = {name: encoded(value) for name, value in self.__dict__.items()}
        values["source"] = self.source.identity() if self.source else None
        values["labels"] = dict(self.labels)
        return values

    def begin(self, tx: Transaction, opening: Opening) -> Begun:
        check_size_step(self.size_bytes)
        taken: dict[str, Any] = {"status": Status.READY}
        if self.source is not None:
            source = self.source.locked(tx)
            required_bytes = smallest_disk_bytes(source)
            if self.size_bytes < required_bytes:
                raise errors.min_disk_size_too_small(required_bytes, "size")
            taken = inherited(source)
            taken["source_image_id"] = source.id if isinstance(source, Image) else ""
            taken["source_snapshot_id"] = source.id if isinstance(source, Snapshot) else ""
        taken["size_bytes"] = self.size_bytes
        if self.hardware_generation is not None:
            taken["hardware_generation"] = self.hardware_generation
        if self.kms_key_id:
            taken["kms_key"] = KmsKey(self.kms_key_id, "")
        disk = Disk(
            id=opening.new_id(self.id_prefix),
            folder_id=self.folder_id,
            created_at_us=opening.now_us,
            name=self.name,
            description=self.description,
            labels=dict(self.labels),
            type_id=self.type_id,
            zone_id=self.zone_id,
            block_size_bytes=self.block_size_bytes,
            placement_policy=self.placement_policy,
            **taken,
        )
        return Begun(
            opening.operation(self.kind, self.folder_id, disk.id, response=disk.to_record()),
            effect=Effect(made=disk),
        )


def smallest_disk_bytes(source: Resource) -> int:
    """The smallest disk that the source fits on."""
    if isinstance(source, Image):
        return max(source.min_disk_size_bytes, source.size_bytes)
    return source.size_bytes
