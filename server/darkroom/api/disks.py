"""yandex.cloud.compute.v1.DiskService."""

from dataclasses import dataclass
from typing import Any

from darkroom.api.calls import Call
from darkroom.api.convert import create_disk_command, disk_to_message, placement_from_message
from darkroom.api.masks import Updatable
from darkroom.api.resources import ResourceServicer, Wire
from darkroom.domain import errors
from darkroom.domain.disk import Disk
from darkroom.domain.places import Places
from darkroom.operations.desk import Begun, Command, Opening, Operations
from darkroom.operations.disk_move import MoveDisk, RelocateDisk
from darkroom.storage.port import MetadataStore, Transaction
from darkroom_pb.yandex.cloud.compute.v1 import disk_service_pb2
from darkroom_pb.yandex.cloud.operation import operation_pb2

_UPDATABLE = {
    "name": Updatable("name", lambda request: request.name),
    "description": Updatable("description", lambda request: request.description),
    "labels": Updatable("labels", lambda request: dict(request.labels)),
    "size": Updatable("size_bytes", lambda request: request.size),
    "disk_placement_policy": Updatable(
        "placement_policy", lambda request: placement_from_message(request.disk_placement_policy)
    ),
    # What Terraform names.
    "disk_placement_policy.placement_group_id": Updatable(
        "placement_policy.placement_group_id",
        lambda request: request.disk_placement_policy.placement_group_id,
    ),
    "disk_placement_policy.placement_group_partition": Updatable(
        "placement_policy.placement_group_partition",
        lambda request: request.disk_placement_policy.placement_group_partition,
    ),
}


@dataclass(frozen=True)
class _Placed:
    """A command whose places are checked when it begins: a repeat is past that."""

    command: Command
    places: Places
    zone_id: str
    type_id: str = ""

    @property
    def kind(self) -> str:
        return self.command.kind

    def identity(self) -> dict[str, Any]:
        return self.command.identity()

    def begin(self, tx: Transaction, opening: Opening) -> Begun:
        places = self.places
        if self.zone_id not in places.zone_ids:
            raise errors.unknown_choice("Zone", self.zone_id, places.zone_ids)
        if self.type_id and self.type_id not in places.disk_type_ids:
            raise errors.unknown_choice("Disk type", self.type_id, places.disk_type_ids)
        return self.command.begin(tx, opening)


class DiskServicer(ResourceServicer[Disk]):
    """What only disks have: zones, types, moving."""

    SERVICE = disk_service_pb2.DESCRIPTOR.services_by_name["DiskService"]
    WIRE = Wire(
        Disk,
        "disk_id",
        disk_to_message,
        disk_service_pb2.ListDisksResponse,
        "disks",
        disk_service_pb2.ListDiskOperationsResponse,
        _UPDATABLE,
    )

    def __init__(self, store: MetadataStore, operations: Operations, places: Places) -> None:
        super().__init__(store, operations)
        self._places = places

    def Create(self, call: Call) -> operation_pb2.Operation:
        command = create_disk_command(call.request)
        placed = _Placed(command, self._places, command.zone_id, command.type_id)
        return self._begun(call, placed)

    def Move(self, call: Call) -> operation_pb2.Operation:
        return self._begun(call, MoveDisk(self._id(call), call.request.destination_folder_id))

    def Relocate(self, call: Call) -> operation_pb2.Operation:
        request = call.request
        placement = None
        if request.HasField("disk_placement_policy"):
            placement = placement_from_message(request.disk_placement_policy)
        command = RelocateDisk(self._id(call), request.destination_zone_id, placement)
        return self._begun(call, _Placed(command, self._places, request.destination_zone_id))

    def ListSnapshotSchedules(
        self, call: Call
    ) -> disk_service_pb2.ListDiskSnapshotSchedulesResponse:
        self._found(self._id(call))
        return disk_service_pb2.ListDiskSnapshotSchedulesResponse()
