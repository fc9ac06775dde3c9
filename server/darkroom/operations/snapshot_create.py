"""Create a snapshot of a disk: rows only, it shares the disk's content."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from darkroom.domain.disk import Disk
from darkroom.domain.operation import SNAPSHOT_CREATE
from darkroom.domain.resource import HardwareGeneration, encoded
from darkroom.domain.snapshot import Snapshot
from darkroom.operations.deriving import ResourceSource, inherited
from darkroom.operations.desk import Begun, Opening
from darkroom.operations.effect import Effect
from darkroom.storage.port import Transaction


@dataclass(frozen=True)
class CreateSnapshot:
    """Create a snapshot; `hardware_generation` is None where the request left it out."""

    kind: ClassVar[str] = SNAPSHOT_CREATE

    folder_id: str
    disk_id: str
    name: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    hardware_generation: HardwareGeneration | None = None

    def identity(self) -> dict[str, Any]:
        values = {name: encoded(value) for name, value in self.__dict__.items()}
        values["labels"] = dict(self.labels)
        return values

    def begin(self, tx: Transaction, opening: Opening) -> Begun:
        disk = ResourceSource(Disk, self.disk_id).locked(tx)
        taken = inherited(disk)
        if self.hardware_generation is not None:
            taken["hardware_generation"] = self.hardware_generation
        snapshot = Snapshot(
            id=opening.new_id(),
            folder_id=self.folder_id,
            created_at_us=opening.now_us,
            name=self.name,
            description=self.description,
            labels=dict(self.labels),
            source_disk_id=disk.id,
            **taken,
        )
        operation = opening.operation(
            self.kind, self.folder_id, snapshot.id, response=snapshot.to_record()
        )
        return Begun(
            replace(operation, metadata={"disk_id": disk.id}), effect=Effect(made=snapshot)
        )
