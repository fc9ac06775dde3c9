"""yandex.cloud.compute.v1.DiskService."""

from darkroom.api.calls import Call
from darkroom.api.convert import create_disk_command, disk_to_message, placement_from_message
from darkroom.api.masks import Updatable
from darkroom.api.resources import ResourceServicer, Wire
from darkroom.domain import errors
from darkroom.domain.disk import Disk
from darkroom.domain.places import Places
from darkroom.operations.desk import Operations
from darkroom.operations.disk_move import MoveDisk, RelocateDisk
from darkroom.storage.port import MetadataStore
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

    def _check_zone(self, zone_id: str) -> None:
        if zone_id not in self._places.zone_ids:
            raise errors.unknown_choice("Zone", zone_id, self._places.zone_ids)

    def Create(self, call: Call) -> operation_pb2.Operation:
        command = create_disk_command(call.request)
        self._check_zone(command.zone_id)
        if command.type_id not in self._places.disk_type_ids:
            raise errors.unknown_choice("Disk type", command.type_id, self._places.disk_type_ids)
        return self._begun(call, command)

    def Move(self, call: Call) -> operation_pb2.Operation:
        return self._begun(call, MoveDisk(self._id(call), call.request.destination_folder_id))

    def Relocate(self, call: Call) -> operation_pb2.Operation:
        request = call.request
        self._check_zone(request.destination_zone_id)
        placement = None
        if request.HasField("disk_placement_policy"):
            placement = placement_from_message(request.disk_placement_policy)
        command = RelocateDisk(self._id(call), request.destination_zone_id, placement)
        return self._begun(call, command)

    def ListSnapshotSchedules(
        self, call: Call
    ) -> disk_service_pb2.ListDiskSnapshotSchedulesResponse:
        self._found(self._id(call))
        return disk_service_pb2.ListDiskSnapshotSchedulesResponse()
