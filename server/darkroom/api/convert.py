"""Between the messages of the API and what the rest of the program means by them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf import descriptor_pool
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from darkroom.api.status import to_status
from darkroom.domain import errors
from darkroom.domain.access import AccessBinding, BindingDelta
from darkroom.domain.disk import (
    DEFAULT_BLOCK_SIZE_BYTES,
    DEFAULT_TYPE_ID,
    MAX_BLOCK_SIZE_BYTES,
    MAX_BLOCKS,
    MIN_BLOCK_SIZE_BYTES,
    Disk,
)
from darkroom.domain.errors import Code
from darkroom.domain.image import Image
from darkroom.domain.operation import DESCRIPTIONS, Operation, State
from darkroom.domain.places import disk_id_prefix
from darkroom.domain.resource import HardwareGeneration, Os, OsType, PlacementPolicy, Resource
from darkroom.domain.snapshot import Snapshot
from darkroom.operations.deriving import ResourceSource
from darkroom.operations.disk_create import CreateDisk
from darkroom.operations.image_create import CreateImage, Source, UriSource
from darkroom.operations.snapshot_create import CreateSnapshot
from darkroom_pb.yandex.cloud.access import access_pb2
from darkroom_pb.yandex.cloud.api import operation_pb2 as operation_option
from darkroom_pb.yandex.cloud.compute.v1 import (
    disk_pb2,
    disk_service_pb2,
    hardware_generation_pb2,
    image_pb2,
    image_service_pb2,
    kek_pb2,
    snapshot_pb2,
    snapshot_service_pb2,
)
from darkroom_pb.yandex.cloud.operation import operation_pb2

R = TypeVar("R", bound=Resource)

_MICROSECONDS = 1_000_000
_TYPE_URL = "type.googleapis.com/"


class OperationTypeError(ValueError):
    """What an operation would carry is not what its method's option promises."""


# --- resources ------------------------------------------------------------------------------------


def image_to_message(image: Image) -> image_pb2.Image:
    """An image as users see it: os and hardware always there."""
    os = image.os
    message = image_pb2.Image(
        **_common(image),
        family=image.family,
        size=image.size_bytes,
        storage_size=image.storage_size_bytes,
        min_disk_size=image.min_disk_size_bytes,
        os=image_pb2.Os(type=int(os.type)),  # type: ignore[arg-type]
        pooled=image.pooled,
    )
    if os.nvidia_driver:
        message.os.nvidia.driver = os.nvidia_driver
    return message


def disk_to_message(disk: Disk) -> disk_pb2.Disk:
    """A disk as users see it: the placement policy always there, Terraform reads it unasked."""
    message = disk_pb2.Disk(
        **_common(disk),
        type_id=disk.type_id,
        zone_id=disk.zone_id,
        size=disk.size_bytes,
        block_size=disk.block_size_bytes,
        instance_ids=disk.instance_ids,
        disk_placement_policy=disk_pb2.DiskPlacementPolicy(
            placement_group_id=disk.placement_policy.placement_group_id,
            placement_group_partition=disk.placement_policy.placement_group_partition,
        ),
    )
    if disk.source_image_id:
        message.source_image_id = disk.source_image_id
    if disk.source_snapshot_id:
        message.source_snapshot_id = disk.source_snapshot_id
    return message


def snapshot_to_message(snapshot: Snapshot) -> snapshot_pb2.Snapshot:
    return snapshot_pb2.Snapshot(
        **_common(snapshot),
        storage_size=snapshot.storage_size_bytes,
        disk_size=snapshot.size_bytes,
        source_disk_id=snapshot.source_disk_id,
    )


def _common(resource: Resource) -> dict[str, Any]:
    """The fields that the three messages have under the same names; created_at in seconds."""
    kms_key = resource.kms_key
    return {
        "id": resource.id,
        "folder_id": resource.folder_id,
        "created_at": Timestamp(seconds=resource.created_at_us // _MICROSECONDS),
        "name": resource.name,
        "description": resource.description,
        "labels": resource.labels,
        "product_ids": resource.product_ids,
        "status": int(resource.status),
        "hardware_generation": _hardware_to_message(resource.hardware_generation),
        "kms_key": kms_key and kek_pb2.KMSKey(key_id=kms_key.key_id, version_id=kms_key.version_id),
    }


def placement_from_message(message: disk_pb2.DiskPlacementPolicy) -> PlacementPolicy:
    return PlacementPolicy(message.placement_group_id, message.placement_group_partition)


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


def _requested_hardware(
    request: image_service_pb2.CreateImageRequest
    | disk_service_pb2.CreateDiskRequest
    | snapshot_service_pb2.CreateSnapshotRequest,
) -> HardwareGeneration | None:
    if not request.HasField("hardware_generation"):
        return None
    return _hardware_from_message(request.hardware_generation)


def create_image_command(request: image_service_pb2.CreateImageRequest) -> CreateImage:
    """A valid request as a command."""
    os = None
    if request.HasField("os"):
        os = Os(OsType(request.os.type), request.os.nvidia.driver)
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
        hardware_generation=_requested_hardware(request),
    )


def create_disk_command(request: disk_service_pb2.CreateDiskRequest) -> CreateDisk:
    """A valid request as a command. Raises `Failure` for a block size that cannot be."""
    block_size_bytes = request.block_size or DEFAULT_BLOCK_SIZE_BYTES
    violations = []
    in_range = MIN_BLOCK_SIZE_BYTES <= block_size_bytes <= MAX_BLOCK_SIZE_BYTES
    if not in_range or block_size_bytes & (block_size_bytes - 1):
        description = f"a power of two, {MIN_BLOCK_SIZE_BYTES} to {MAX_BLOCK_SIZE_BYTES}"
        violations.append(errors.FieldViolation("block_size", f"must be {description}"))
    elif request.size > block_size_bytes * MAX_BLOCKS:
        description = f"must be at most {block_size_bytes * MAX_BLOCKS} with this block size"
        violations.append(errors.FieldViolation("size", description))
    if request.snapshot_schedule_ids:
        description = "there are no snapshot schedules here; leave it out"
        violations.append(errors.FieldViolation("snapshot_schedule_ids", description))
    if violations:
        raise errors.request_invalid(violations)
    source = None
    match request.WhichOneof("source"):
        case "image_id":
            source = ResourceSource(Image, request.image_id)
        case "snapshot_id":
            source = ResourceSource(Snapshot, request.snapshot_id)
    return CreateDisk(
        folder_id=request.folder_id,
        zone_id=request.zone_id,
        size_bytes=request.size,
        source=source,
        name=request.name,
        description=request.description,
        labels=dict(request.labels),
        type_id=request.type_id or DEFAULT_TYPE_ID,
        block_size_bytes=block_size_bytes,
        placement_policy=placement_from_message(request.disk_placement_policy),
        hardware_generation=_requested_hardware(request),
        kms_key_id=request.kms_key_id,
        id_prefix=disk_id_prefix(request.zone_id),
    )


def create_snapshot_command(
    request: snapshot_service_pb2.CreateSnapshotRequest,
) -> CreateSnapshot:
    """A valid request as a command."""
    return CreateSnapshot(
        folder_id=request.folder_id,
        disk_id=request.disk_id,
        name=request.name,
        description=request.description,
        labels=dict(request.labels),
        hardware_generation=_requested_hardware(request),
    )


# --- access bindings ------------------------------------------------------------------------------


def binding_to_message(binding: AccessBinding) -> access_pb2.AccessBinding:
    return access_pb2.AccessBinding(
        role_id=binding.role_id,
        subject=access_pb2.Subject(id=binding.subject_id, type=binding.subject_type),
    )


def binding_from_message(message: access_pb2.AccessBinding) -> AccessBinding:
    return AccessBinding(message.role_id, message.subject.type, message.subject.id)


def delta_from_message(message: access_pb2.AccessBindingDelta) -> BindingDelta:
    """A valid delta; its action is ADD or REMOVE."""
    return BindingDelta(
        message.action == access_pb2.ADD, binding_from_message(message.access_binding)
    )


def _effective_deltas(record: dict[str, Any]) -> access_pb2.AccessBindingsOperationResult:
    return access_pb2.AccessBindingsOperationResult(
        effective_deltas=[
            access_pb2.AccessBindingDelta(
                action=action, access_binding=binding_to_message(AccessBinding(*values))
            )
            for action, part in ((access_pb2.REMOVE, "remove"), (access_pb2.ADD, "add"))
            for values in record[part]
        ]
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


def _types_of(
    service: ServiceDescriptor, kind: type[R], to_message: Callable[[R], Message]
) -> dict[str, OperationTypes]:
    """The table of one service, from the names of its methods."""
    noun = kind.NOUN.lower()

    def resource(record: dict[str, Any]) -> Message:
        return to_message(kind.from_record(record))

    def nothing(_record: dict[str, Any]) -> Message:
        return Empty()

    def types(verb: str) -> OperationTypes:
        method = service.methods_by_name[_METHODS[verb]]
        names = method.GetOptions().Extensions[operation_option.operation]
        metadata_type, response_type = (
            _message_class(name, service.file.package) for name in (names.metadata, names.response)
        )
        id_field = "resource_id" if verb.endswith("bindings") else f"{noun}_id"

        def metadata(operation: Operation) -> Message:
            return metadata_type(**{id_field: operation.resource_id}, **operation.metadata)

        answers: dict[type[Message], Callable[[dict[str, Any]], Message]] = {
            Empty: nothing,
            access_pb2.AccessBindingsOperationResult: _effective_deltas,
        }
        response = answers.get(response_type, resource)
        return OperationTypes(method, metadata_type, metadata, response_type, response)

    return {f"{noun}.{verb}": types(verb) for verb in _METHODS if f"{noun}.{verb}" in DESCRIPTIONS}


_METHODS = {
    "create": "Create",
    "update": "Update",
    "delete": "Delete",
    "move": "Move",
    "relocate": "Relocate",
    "set_bindings": "SetAccessBindings",
    "update_bindings": "UpdateAccessBindings",
}


def _message_class(name: str, scope: str) -> type[Message]:
    """The class of a message named in an option. Raises `OperationTypeError` if there is none."""
    pool = descriptor_pool.Default()
    for candidate in _candidates(name, scope):
        try:
            return GetMessageClass(pool.FindMessageTypeByName(candidate))
        except KeyError:
            continue
    raise OperationTypeError(f"{name} is no message")


def _candidates(name: str, scope: str) -> list[str]:
    """What a name may mean, looked up from a package outwards as in a .proto file."""
    parts = scope.split(".")
    return [".".join([*parts[:length], name]) for length in range(len(parts), -1, -1)]


OPERATION_TYPES: dict[str, OperationTypes] = {
    **_types_of(
        image_service_pb2.DESCRIPTOR.services_by_name["ImageService"], Image, image_to_message
    ),
    **_types_of(disk_service_pb2.DESCRIPTOR.services_by_name["DiskService"], Disk, disk_to_message),
    **_types_of(
        snapshot_service_pb2.DESCRIPTOR.services_by_name["SnapshotService"],
        Snapshot,
        snapshot_to_message,
    ),
}


def check_operation_types(table: dict[str, OperationTypes]) -> None:
    """Raise `OperationTypeError` where an operation would not be what its method promises.

    An example of every kind is made: what it carries must have the type that the option names.
    """
    missing = DESCRIPTIONS.keys() - table.keys()
    if missing:
        raise OperationTypeError(f"no types are named for {', '.join(sorted(missing))}")
    for kind, types in table.items():
        example = Operation(*(kind, kind, "", "", 0, "", 0, State.DONE))
        for promised, actual in (
            (types.metadata_type, types.metadata(example)),
            (types.response_type, types.response(_example_record(kind))),
        ):
            if not isinstance(actual, promised):
                name = type(actual).DESCRIPTOR.full_name
                raise OperationTypeError(f"{kind}: {types.method.full_name} answers {name}")


def _example_record(kind: str) -> dict[str, Any]:
    return {"id": "", "folder_id": "", "created_at_us": 0, "status": 2} | (
        {"add": [], "remove": []} if kind.endswith("bindings") else {}
    )


def _pack(target: AnyMessage, message: Message) -> None:
    target.type_url = _TYPE_URL + message.DESCRIPTOR.full_name
    # The same from every process: clients compare what is inside byte by byte.
    target.value = message.SerializeToString(deterministic=True)


def _timestamp(microseconds: int) -> Timestamp:
    seconds, rest = divmod(microseconds, _MICROSECONDS)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def operation_to_message(operation: Operation) -> operation_pb2.Operation:
    """An operation as users see it: metadata always there, of exactly the promised type.

    Raises `Failure` OPERATION_KIND_UNKNOWN.
    """
    types = OPERATION_TYPES.get(operation.kind)
    if types is None:
        raise errors.operation_kind_unknown(operation.id)
    message = _bare_operation(operation, DESCRIPTIONS[operation.kind])
    _pack(message.metadata, types.metadata(operation))
    if operation.error is not None:
        # A cancelled one needs no advice, and of a taken name the cloud has words of its own.
        advised = operation.error.code not in (Code.CANCELLED, Code.ALREADY_EXISTS)
        message.error.CopyFrom(to_status(operation.error, advised=advised))
    elif operation.response is not None:
        _pack(message.response, types.response(operation.response))
    return message


def listed_operation_to_message(operation: Operation) -> operation_pb2.Operation:
    """The same in a listing, which one operation of an unknown kind must not spoil.

    Such a one has its kind for a description, and neither metadata nor result.
    """
    if operation.kind in OPERATION_TYPES:
        return operation_to_message(operation)
    return _bare_operation(operation, operation.kind)


def _bare_operation(operation: Operation, description: str) -> operation_pb2.Operation:
    return operation_pb2.Operation(
        id=operation.id,
        description=description,
        created_at=_timestamp(operation.created_at_us),
        created_by=operation.created_by,
        modified_at=_timestamp(operation.modified_at_us),
        done=operation.done,
    )
