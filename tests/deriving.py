"""Makes images, disks and snapshots of each other through a running installation."""

from typing import Any, TypeVar

from google.protobuf.message import Message

from darkroom_pb.yandex.cloud.compute.v1 import (
    disk_pb2,
    disk_service_pb2,
    disk_service_pb2_grpc,
    image_pb2,
    image_service_pb2,
    snapshot_pb2,
    snapshot_service_pb2,
    snapshot_service_pb2_grpc,
)
from darkroom_pb.yandex.cloud.operation import operation_pb2
from installation import Installation

M = TypeVar("M", bound=Message)
Made = image_pb2.Image | disk_pb2.Disk | snapshot_pb2.Snapshot


class Deriving:
    """Every method but `imported` asserts that its operation has ended in the first reply."""

    def __init__(self, darkroom: Installation) -> None:
        assert darkroom.channel is not None
        self._darkroom = darkroom
        self.images = darkroom.images
        self.disks = disk_service_pb2_grpc.DiskServiceStub(darkroom.channel)
        self.snapshots = snapshot_service_pb2_grpc.SnapshotServiceStub(darkroom.channel)

    def imported(self, uri: str, **fields: Any) -> image_pb2.Image:
        image = image_pb2.Image()
        operation = self._darkroom.done(self._darkroom.create(uri, **fields).id)
        assert operation.response.Unpack(image), operation
        return image

    def image(self, **fields: Any) -> image_pb2.Image:
        request = image_service_pb2.CreateImageRequest(folder_id="folder", **fields)
        image = _answered(self.images.Create(request), image_pb2.Image())
        assert image == self._darkroom.image(image.id)
        return image

    def disk(self, **fields: Any) -> disk_pb2.Disk:
        request = disk_service_pb2.CreateDiskRequest(
            folder_id="folder", zone_id="ru-central1-a", **fields
        )
        disk = _answered(self.disks.Create(request), disk_pb2.Disk())
        assert disk == self.disks.Get(disk_service_pb2.GetDiskRequest(disk_id=disk.id))
        return disk

    def snapshot(self, **fields: Any) -> snapshot_pb2.Snapshot:
        request = snapshot_service_pb2.CreateSnapshotRequest(folder_id="folder", **fields)
        snapshot = _answered(self.snapshots.Create(request), snapshot_pb2.Snapshot())
        get = snapshot_service_pb2.GetSnapshotRequest(snapshot_id=snapshot.id)
        assert snapshot == self.snapshots.Get(get)
        return snapshot

    def delete(self, made: Made) -> None:
        match made:
            case image_pb2.Image():
                operation = self.images.Delete(
                    image_service_pb2.DeleteImageRequest(image_id=made.id)
                )
            case disk_pb2.Disk():
                operation = self.disks.Delete(disk_service_pb2.DeleteDiskRequest(disk_id=made.id))
            case _:
                operation = self.snapshots.Delete(
                    snapshot_service_pb2.DeleteSnapshotRequest(snapshot_id=made.id)
                )
        assert operation.done and not operation.HasField("error"), operation


def _answered(operation: operation_pb2.Operation, response: M) -> M:
    assert operation.done and operation.response.Unpack(response), operation
    return response
