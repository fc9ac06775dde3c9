"""Between the messages of the API and what the rest of the program means by them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from darkroom.api.status import to_status
from darkroom.domain.disk import Disk
from darkroom.domain.image import Image
from darkroom.domain.operation import DESCRIPTIONS, IMAGE_CREATE, IMAGE_DELETE, Operation
from darkroom.domain.resource import HardwareGeneration, Os, OsType
from darkroom.domain.snapshot import Snapshot
from darkroom.operations.deriving import ResourceSource
from darkroom.operations.image_create import CreateImage, Source, UriSource
from darkroom_pb.yandex.cloud.api import operation_pb2 as operation_option
from darkroom_pb.yandex.cloud.compute.v1 import (
    hardware_generation_pb2,
    image_pb2,
    image_service_pb2,
)
from darkroom_pb.yandex.cloud.operation import operation_pb2

_MICROSECONDS = 1_000_000
_TYPE_URL = "type.googleapis.com/"


class OperationTypeError(ValueError):
    """What an operation would carry is not what its method's option promises."""


# --- images ---------------------------------------------------------------------------------------


def image_to_message(image: Image) -> image_pb2.Image:
    """An image as users see it: created_at in whole seconds, os and hardware always there."""
    os = image.os
    message = image_pb2.Image(
        id=image.id,
        folder_id=image.folder_id,
        created_at=Timestamp(seconds=image.created_at_us // _MICROSECONDS),
        name=image.name,
        description=image.description,
        labels=image.labels,
        family=image.family,
        size=image.size_bytes,
        storage_size=image.storage_size_bytes,
        min_disk_size=image.min_disk_size_bytes,
        product_ids=image.product_ids,
        status=int(image.status),  # type: ignore[arg-type]
        os=image_pb2.Os(type=int(os.type)),  # type: ignore[arg-type]
        pooled=image.pooled,
        hardware_generation=_hardware_to_message(image.hardware_generation),
    )
    if os.nvidia_driver:
        message.os.nvidia.driver = os.nvidia_driver
    if image.kms_key is not None:
        message.kms_key.key_id = image.kms_key.key_id
        message.kms_key.version_id = image.kms_key.version_id
    return message


def _hardware_to_message(
    hardware: HardwareGeneration,
) -> hardware_generation_pb2.HardwareGeneration:
    if hardware.generation2:
        return hardware_generation_pb2.HardwareGeneration(
            generation2_features=hardware_generation_pb2.Generation2HardwareFeatures(
                secure_boot_template_id=hardware.secure_boot_template_id,
                vtpm_enabled=hardware.vtpm_enabled,
            )
        )
    return hardware_generation_pb2.HardwareGeneration(
        legacy_features=hardware_generation_pb2.LegacyHardwareFeatures(
            pci_topology=hardware.pci_topology  # type: ignore[arg-type]
        )
    )


def _hardware_from_message(
    message: hardware_generation_pb2.HardwareGeneration,
) -> HardwareGeneration | None:
    match message.WhichOneof("features"):
        case "generation2_features":
            features = message.generation2_features
            return HardwareGeneration(
                pci_topology=hardware_generation_pb2.PCI_TOPOLOGY_V2,
                generation2=True,
                secure_boot_template_id=features.secure_boot_template_id,
                vtpm_enabled=features.vtpm_enabled,
            )
        case "legacy_features":
            topology = message.legacy_features.pci_topology
            return HardwareGeneration(topology or hardware_generation_pb2.PCI_TOPOLOGY_V1)
        case _:
            return None


def _source(request: image_service_pb2.CreateImageRequest) -> Source:
    match request.WhichOneof("source"):
        case "uri":
            return UriSource(request.uri)
        case "image_id":
            return ResourceSource(Image, request.image_id)
        case "disk_id":
            return ResourceSource(Disk, request.disk_id)
        case "snapshot_id":
            return ResourceSource(Snapshot, request.snapshot_id)
        case other:
            raise AssertionError(f"validation let source {other} through")


def create_image_command(request: image_service_pb2.CreateImageRequest) -> CreateImage:
    """A valid request as a command."""
    os = None
    if request.HasField("os"):
        os = Os(OsType(request.os.type), request.os.nvidia.driver)
    hardware = None
    if request.HasField("hardware_generation"):
        hardware = _hardware_from_message(request.hardware_generation)
    return CreateImage(
        folder_id=request.folder_id,
        source=_source(request),
        name=request.name,
        description=request.description,
        labels=dict(request.labels),
        family=request.family,
        min_disk_size_bytes=request.min_disk_size,
        product_ids=tuple(request.product_ids),
        os=os,
        pooled=request.pooled,
        hardware_generation=hardware,
    )


# --- operations -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class OperationTypes:
    """What the two Any fields of operations of one kind hold."""

    method: MethodDescriptor
    metadata_type: type[Message]
    metadata: Callable[[Operation], Message]
    response_type: type[Message]
    response: Callable[[dict[str, Any]], Message]


_IMAGE_SERVICE = image_service_pb2.DESCRIPTOR.services_by_name["ImageService"]

OPERATION_TYPES: dict[str, OperationTypes] = {
    IMAGE_CREATE: OperationTypes(
        _IMAGE_SERVICE.methods_by_name["Create"],
        image_service_pb2.CreateImageMetadata,
        lambda operation: image_service_pb2.CreateImageMetadata(image_id=operation.resource_id),
        image_pb2.Image,
        lambda record: image_to_message(Image.from_record(record)),
    ),
    IMAGE_DELETE: OperationTypes(
        _IMAGE_SERVICE.methods_by_name["Delete"],
        image_service_pb2.DeleteImageMetadata,
        lambda operation: image_service_pb2.DeleteImageMetadata(image_id=operation.resource_id),
        Empty,
        lambda _record: Empty(),
    ),
}


def check_operation_types(table: dict[str, OperationTypes]) -> None:
    """Raise `OperationTypeError` where the table departs from the options of the methods."""
    missing = {IMAGE_CREATE, IMAGE_DELETE} - table.keys()
    if missing:
        raise OperationTypeError(f"no types are named for {', '.join(sorted(missing))}")
    for kind, types in table.items():
        option = types.method.GetOptions().Extensions[operation_option.operation]
        scope = types.method.containing_service.file.package
        for promised, actual in (
            (option.metadata, types.metadata_type.DESCRIPTOR),
            (option.response, types.response_type.DESCRIPTOR),
        ):
            if actual.full_name not in _candidates(promised, scope):
                raise OperationTypeError(
                    f"{kind}: {types.method.full_name} promises {promised}, not {actual.full_name}"
                )


def _candidates(name: str, scope: str) -> list[str]:
    """What a name may mean, looked up from a package outwards as in a .proto file."""
    parts = scope.split(".")
    return [".".join([*parts[:length], name]) for length in range(len(parts), -1, -1)]


def _pack(target: AnyMessage, message: Message) -> None:
    target.type_url = _TYPE_URL + message.DESCRIPTOR.full_name
    target.value = message.SerializeToString()


def _timestamp(microseconds: int) -> Timestamp:
    seconds, rest = divmod(microseconds, _MICROSECONDS)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def operation_to_message(operation: Operation) -> operation_pb2.Operation:
    """An operation as users see it: metadata always there, of exactly the promised type."""
    types = OPERATION_TYPES[operation.kind]
    message = operation_pb2.Operation(
        id=operation.id,
        description=DESCRIPTIONS[operation.kind],
        created_at=_timestamp(operation.created_at_us),
        created_by=operation.created_by,
        modified_at=_timestamp(operation.modified_at_us),
        done=operation.done,
    )
    _pack(message.metadata, types.metadata(operation))
    if operation.error is not None:
        message.error.CopyFrom(to_status(operation.error))
    elif operation.response is not None:
        _pack(message.response, types.response(operation.response))
    return message
