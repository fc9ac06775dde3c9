"""Move a disk to another folder, or relocate it to another zone: rows only."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from darkroom.domain.disk import Disk
from darkroom.domain.operation import DISK_MOVE, DISK_RELOCATE
from darkroom.domain.resource import PlacementPolicy, encoded
from darkroom.operations.changing import existing_ready
from darkroom.operations.desk import Begun, Opening
from darkroom.operations.effect import Effect
from darkroom.storage.port import Transaction


@dataclass(frozen=True)
class MoveDisk:
    """Give a disk another folder; its name must be free there."""

    kind: ClassVar[str] = DISK_MOVE

    disk_id: str
    folder_id: str

    def identity(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def begin(self, tx: Transaction, opening: Opening) -> Begun:
        disk = existing_ready(tx, Disk, self.disk_id)
        metadata = {
            "source_folder_id": disk.folder_id,
            "destination_folder_id": self.folder_id,
        }
        return _overwritten(self.kind, replace(disk, folder_id=self.folder_id), metadata, opening)


@dataclass(frozen=True)
class RelocateDisk:
    """Give a disk another zone. The zone is checked by whoever knows the configured ones."""

    kind: ClassVar[str] = DISK_RELOCATE

    disk_id: str
    zone_id: str
    placement_policy: PlacementPolicy | None = None

    def identity(self) -> dict[str, Any]:
        return {name: encoded(value) for name, value in self.__dict__.items()}

    def begin(self, tx: Transaction, opening: Opening) -> Begun:
        disk = existing_ready(tx, Disk, self.disk_id)
        metadata = {"source_zone_id": disk.zone_id, "destination_zone_id": self.zone_id}
        placement = self.placement_policy or PlacementPolicy()
        relocated = replace(disk, zone_id=self.zone_id, placement_policy=placement)
        return _overwritten(self.kind, relocated, metadata, opening)


def _overwritten(kind: str, disk: Disk, metadata: dict[str, str], opening: Opening) -> Begun:
    operation = opening.operation(kind, disk.folder_id, disk.id, response=disk.to_record())
    return Begun(replace(operation, metadata=metadata), effect=Effect(overwritten=disk))
