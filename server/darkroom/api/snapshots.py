"""yandex.cloud.compute.v1.SnapshotService."""

from darkroom.api.calls import Call
from darkroom.api.convert import create_snapshot_command, snapshot_to_message
from darkroom.api.masks import Updatable
from darkroom.api.resources import ResourceServicer, Wire
from darkroom.domain.snapshot import Snapshot
from darkroom_pb.yandex.cloud.compute.v1 import snapshot_service_pb2
from darkroom_pb.yandex.cloud.operation import operation_pb2

_UPDATABLE = {
    "name": Updatable("name", lambda request: request.name),
    "description": Updatable("description", lambda request: request.description),
    "labels": Updatable("labels", lambda request: dict(request.labels)),
}


class SnapshotServicer(ResourceServicer[Snapshot]):
    """Nothing but creation is special about snapshots."""

    SERVICE = snapshot_service_pb2.DESCRIPTOR.services_by_name["SnapshotService"]
    WIRE = Wire(
        Snapshot,
        "snapshot_id",
        snapshot_to_message,
        snapshot_service_pb2.ListSnapshotsResponse,
        "snapshots",
        snapshot_service_pb2.ListSnapshotOperationsResponse,
        _UPDATABLE,
    )

    def Create(self, call: Call) -> operation_pb2.Operation:
        return self._begun(call, create_snapshot_command(call.request))
