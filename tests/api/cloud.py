"""A server in this process and generated stubs over loopback, for tests of whole methods."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from darkroom import wiring
from darkroom.api.access.modes import access
from darkroom.api.server import build_server
from darkroom.config import Settings
from darkroom.domain.content import Content
from darkroom.domain.ids import new_id
from darkroom.domain.image import Image, default_min_disk_size_bytes
from darkroom.domain.resource import Status
from darkroom.operations.desk import wall_clock_us
from darkroom.storage.port import MetadataStore
from darkroom_pb.yandex.cloud.compute.v1 import (
    disk_service_pb2,
    disk_service_pb2_grpc,
    disk_type_service_pb2,
    disk_type_service_pb2_grpc,
    image_service_pb2,
    image_service_pb2_grpc,
    snapshot_service_pb2,
    snapshot_service_pb2_grpc,
    zone_service_pb2,
    zone_service_pb2_grpc,
)
from darkroom_pb.yandex.cloud.operation import operation_service_pb2, operation_service_pb2_grpc

ZONE = "ru-central1-a"
MIB = 1 << 20
GIB = 1 << 30
PLURALS = ("images", "disks", "snapshots")

_STUBS: dict[str, tuple[Any, Any]] = {
    "ImageService": (image_service_pb2, image_service_pb2_grpc),
    "DiskService": (disk_service_pb2, disk_service_pb2_grpc),
    "SnapshotService": (snapshot_service_pb2, snapshot_service_pb2_grpc),
    "ZoneService": (zone_service_pb2, zone_service_pb2_grpc),
    "DiskTypeService": (disk_type_service_pb2, disk_type_service_pb2_grpc),
    "OperationService": (operation_service_pb2, operation_service_pb2_grpc),
}
SERVICES: dict[str, ServiceDescriptor] = {
    name: module.DESCRIPTOR.services_by_name[name] for name, (module, _) in _STUBS.items()
}
"""The services under test, by name."""


class Stub:
    """A generated stub whose methods take the fields of their request."""

    def __init__(self, channel: grpc.Channel, name: str) -> None:
        self.service = SERVICES[name]
        self._stub = getattr(_STUBS[name][1], f"{name}Stub")(channel)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        request = GetMessageClass(self.service.methods_by_name[method].input_type)
        rpc = getattr(self._stub, method)

        def call(*, metadata: tuple[tuple[str, str], ...] = (), **fields: Any) -> Any:
            return rpc(request(**fields), metadata=metadata, timeout=30)

        return call


class Kind:
    """Images, disks or snapshots: what the three services do alike, under one set of names."""

    def __init__(self, cloud: "Cloud", plural: str) -> None:
        self.plural = plural
        self.noun = plural.removesuffix("s")
        self.id_field = f"{self.noun}_id"
        self.stub: Stub = getattr(cloud, plural)
        self._cloud = cloud

    def begin(self, folder: str, **fields: Any) -> Any:
        """Create from something that is READY; returns the operation."""
        if self.noun == "image" and not fields.keys() & {"uri", "disk_id", "snapshot_id"}:
            fields.setdefault("image_id", self._cloud.ready_image())
        if self.noun == "disk":
            fields = {"zone_id": ZONE, "size": 8 * MIB, **fields}
        if self.noun == "snapshot" and "disk_id" not in fields:
            disk = self._cloud.disks.Create(folder_id=new_id("b1g"), zone_id=ZONE, size=8 * MIB)
            fields["disk_id"] = unpacked(disk.metadata).disk_id
        return self.stub.Create(folder_id=folder, **fields)

    def create(self, folder: str, **fields: Any) -> str:
        """The same; returns the id of what was made."""
        return self.id_of(self.begin(folder, **fields))

    def id_of(self, operation: Any) -> str:
        return str(getattr(unpacked(operation.metadata), self.id_field))

    def get(self, resource_id: str) -> Any:
        return self.stub.Get(**{self.id_field: resource_id})

    def update(self, resource_id: str, *paths: str, **fields: Any) -> Any:
        """Update with a mask of these paths, or without a mask if there are none."""
        mask = {"update_mask": {"paths": paths}} if paths else {}
        return self.stub.Update(**{self.id_field: resource_id}, **mask, **fields)

    def delete(self, resource_id: str) -> Any:
        return self.stub.Delete(**{self.id_field: resource_id})

    def page(self, folder: str, **fields: Any) -> tuple[list[Any], str]:
        """One page of List and the token of the next one."""
        reply = self.stub.List(folder_id=folder, **fields)
        return list(getattr(reply, self.plural)), str(reply.next_page_token)

    def listed(self, folder: str, **fields: Any) -> list[Any]:
        """All pages of List."""
        found, token = self.page(folder, **fields)
        while token:
            assert len(token) <= 100
            more, token = self.page(folder, **fields, page_token=token)
            found += more
        return found


class Cloud:
    """Stubs of all services, and the database behind them for what no method makes at once."""

    def __init__(self, channel: grpc.Channel, store: MetadataStore) -> None:
        self.channel = channel
        self.store = store
        self.images = Stub(channel, "ImageService")
        self.disks = Stub(channel, "DiskService")
        self.snapshots = Stub(channel, "SnapshotService")
        self.zones = Stub(channel, "ZoneService")
        self.disk_types = Stub(channel, "DiskTypeService")
        self.operations = Stub(channel, "OperationService")
        self._ready_image = ""

    def stub(self, service: str) -> Stub:
        return Stub(self.channel, service)

    def kind(self, plural: str) -> Kind:
        return Kind(self, plural)

    def ready_image(self, **values: Any) -> str:
        """The id of an image as an import leaves it: 8 MiB, unless the values say otherwise."""
        if not values and self._ready_image:
            return self._ready_image
        size_bytes = values.setdefault("size_bytes", 8 * MIB)
        content = Content(f"{new_id()}.1", size_bytes, 3 * MIB, "ab" * 32, "cd" * 32, 1)
        image = Image(
            **{
                "id": new_id(),
                "folder_id": "imported",
                "created_at_us": wall_clock_us(),
                "status": Status.READY,
                "storage_size_bytes": content.stored_size_bytes,
                "min_disk_size_bytes": default_min_disk_size_bytes(size_bytes),
                "content_id": content.id,
                **values,
            }
        )

        def change(tx: Any) -> None:
            tx.insert_content(content)
            tx.insert_resource(image)

        self.store.write(change)
        if values.keys() == {"size_bytes"} and size_bytes == 8 * MIB:
            self._ready_image = image.id
        return image.id


@contextlib.contextmanager
def in_process(folder: Path, **settings: Any) -> Iterator[Cloud]:
    """A server without workers on a database of its own."""
    deployment = wiring.open_deployment(
        Settings(data_dir=folder / "data", listen="127.0.0.1:0", **settings)
    )
    deployment.store.migrate()
    server = build_server(
        deployment.settings,
        deployment.store,
        wiring.operations(deployment),
        access(deployment.settings, deployment.store),
    )
    server.start()
    try:
        with grpc.insecure_channel(server.address) as channel:
            yield Cloud(channel, deployment.store)
    finally:
        server.stop(0)
        deployment.close()


_folders = itertools.count()


def fresh_folder() -> str:
    """The id of a folder that no other test uses."""
    return f"folder-{os.getpid()}-{next(_folders)}"


def unpacked(packed: AnyMessage) -> Any:
    """The message in an Any, of the type that it names."""
    descriptor = descriptor_pool.Default().FindMessageTypeByName(packed.TypeName())
    message: Message = GetMessageClass(descriptor)()
    assert packed.Unpack(message)
    return message
