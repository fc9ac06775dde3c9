"""Every operation carries exactly what its method promises, and OperationService shows it."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool

from api.client import URI, refused
from api.cloud import PLURALS, SERVICES, Cloud, Kind, fresh_folder, in_process, unpacked
from darkroom.domain.ids import new_id
from darkroom.domain.operation import Operation, State
from darkroom.operations.desk import wall_clock_us
from darkroom_pb.yandex.cloud.api import operation_pb2 as operation_option

BINDING = {"role_id": "viewer", "subject": {"id": "someone", "type": "userAccount"}}
FIELDS: dict[str, dict[str, Any]] = {
    "Update": {"name": "renamed"},
    "SetAccessBindings": {"access_bindings": [BINDING]},
    "UpdateAccessBindings": {
        "access_binding_deltas": [{"action": "ADD", "access_binding": BINDING}]
    },
    "Move": {"destination_folder_id": "elsewhere"},
    "Relocate": {"destination_zone_id": "ru-central1-b"},
    "Delete": {},
}
DESCRIPTIONS = {
    "Create": "Create {}",
    "Update": "Update {}",
    "Delete": "Delete {}",
    "Move": "Move {}",
    "Relocate": "Relocate {}",
    "SetAccessBindings": "Set {} access bindings",
    "UpdateAccessBindings": "Update {} access bindings",
}
CHANGES = [
    (plural, method.name)
    for plural in PLURALS
    for method in SERVICES[f"{plural.removesuffix('s').capitalize()}Service"].methods
    if method.GetOptions().HasExtension(operation_option.operation)
]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with in_process(tmp_path_factory.mktemp("cloud")) as served:
        yield served


def full_name(name: str) -> str:
    """What a name in the option of a compute method means."""
    pool = descriptor_pool.Default()
    for scope in ("yandex.cloud.compute.v1.", "yandex.cloud.", ""):
        try:
            return str(pool.FindMessageTypeByName(scope + name).full_name)
        except KeyError:
            continue
    raise AssertionError(f"{name} is no message")


def begun(kind: Kind, method: str) -> Any:
    """An operation of the method."""
    if method == "Create":
        return kind.begin(fresh_folder())
    made = kind.create(fresh_folder())
    id_field = "resource_id" if method.endswith("Bindings") else kind.id_field
    fields: dict[str, Any] = {id_field: made, **FIELDS[method]}
    return getattr(kind.stub, method)(**fields)


@pytest.mark.parametrize(("plural", "method"), CHANGES)
def test_metadata_and_response_are_of_the_promised_types(
    cloud: Cloud, plural: str, method: str
) -> None:
    kind = cloud.kind(plural)
    operation = begun(kind, method)
    options = kind.stub.service.methods_by_name[method].GetOptions()
    promised = options.Extensions[operation_option.operation]
    assert operation.done and operation.WhichOneof("result") == "response"
    assert operation.metadata.TypeName() == full_name(promised.metadata)
    assert operation.response.TypeName() == full_name(promised.response)
    id_field = "resource_id" if method.endswith("Bindings") else kind.id_field
    assert len(getattr(unpacked(operation.metadata), id_field)) == 20
    assert operation.description == DESCRIPTIONS[method].format(kind.noun)
    assert operation.created_by == "anonymous"
    assert operation.created_at == operation.modified_at
    assert len(operation.id) == 20
    assert cloud.operations.Get(operation_id=operation.id) == operation


def test_an_operation_can_be_read_when_its_resource_is_gone(cloud: Cloud) -> None:
    kind = cloud.kind("disks")
    created = kind.begin(fresh_folder())
    deleted = kind.delete(kind.id_of(created))
    for operation in (created, deleted):
        assert cloud.operations.Get(operation_id=operation.id) == operation
        assert cloud.operations.Cancel(operation_id=operation.id) == operation


def test_a_cancelled_creation_ends_with_cancelled_and_leaves_nothing(cloud: Cloud) -> None:
    images = cloud.kind("images")
    folder = fresh_folder()
    operation = images.begin(folder, uri=URI, name="n")
    assert not operation.done and operation.WhichOneof("result") is None
    assert operation.metadata.TypeName() == "yandex.cloud.compute.v1.CreateImageMetadata"
    cancelled = cloud.operations.Cancel(operation_id=operation.id)
    assert cancelled.done and cancelled.error.code == grpc.StatusCode.CANCELLED.value[0]
    assert (cancelled.metadata, cancelled.created_at) == (operation.metadata, operation.created_at)
    assert cancelled.modified_at.ToNanoseconds() > operation.modified_at.ToNanoseconds()
    assert images.listed(folder) == []
    images.create(folder, name="n")


@pytest.mark.parametrize("method", ["Get", "Cancel"])
def test_an_operation_that_is_not_there_is_not_found(cloud: Cloud, method: str) -> None:
    call: Callable[..., Any] = getattr(cloud.operations, method)
    failed = refused(lambda: call(operation_id="fd8absent"))
    assert failed.code is grpc.StatusCode.NOT_FOUND
    assert failed.message == 'Operation "fd8absent" not found'


def from_a_newer_version(cloud: Cloud, resource_id: str, state: State) -> str:
    """Keep an operation of a kind that this version does not know; returns its id."""
    response = {"surprise": 1} if state is State.DONE else None
    now_us = wall_clock_us()
    values = (new_id(), "image.polish", "folder", resource_id, now_us, "someone", now_us, state)
    operation = Operation(*values, response=response)
    cloud.store.write(lambda tx: tx.insert_operation(operation))
    return operation.id


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("method", ["Get", "Cancel"])
def test_an_operation_of_a_kind_that_only_a_newer_version_knows_is_told_so(
    cloud: Cloud, state: State, method: str
) -> None:
    operation_id = from_a_newer_version(cloud, "fd8image", state)
    call: Callable[..., Any] = getattr(cloud.operations, method)
    failed = refused(lambda: call(operation_id=operation_id))
    assert failed.code is grpc.StatusCode.UNIMPLEMENTED
    assert failed.reason == "OPERATION_KIND_UNKNOWN"
    assert operation_id in failed.message
    kept = cloud.store.get_operation(operation_id)
    assert kept is not None and kept.state is state and not kept.cancel_requested


def test_an_operation_of_an_unknown_kind_does_not_spoil_a_listing(cloud: Cloud) -> None:
    images = cloud.kind("images")
    made = images.create(fresh_folder())
    unknown = from_a_newer_version(cloud, made, State.DONE)
    first, second = images.stub.ListOperations(image_id=made).operations
    assert first.metadata.TypeName() == "yandex.cloud.compute.v1.CreateImageMetadata"
    assert (second.id, second.description, second.done) == (unknown, "image.polish", True)
    assert not second.HasField("metadata") and second.WhichOneof("result") is None
