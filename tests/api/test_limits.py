"""The documented limits of every request field, held on the wire (figures: the cloud's own)."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

from api.client import refused
from api.cloud import SERVICES, Cloud, in_process

CHARACTERS = {
    **dict.fromkeys(("folder_id", "image_id", "disk_id", "snapshot_id", "zone_id"), 50),
    **dict.fromkeys(("destination_folder_id", "destination_zone_id"), 50),
    **dict.fromkeys(("type_id", "kms_key_id", "product_ids"), 50),
    "resource_id": 64,
    "description": 256,
    "page_token": 100,
    "filter": 1000,
    "order_by": 100,
}
"""Most characters of a text, wherever a field of that name occurs."""
UNLIMITED = {
    # The cloud names no limit, and neither do we: an id that is too long is simply not found.
    "yandex.cloud.operation.GetOperationRequest.operation_id",
    "yandex.cloud.operation.CancelOperationRequest.operation_id",
    "yandex.cloud.compute.v1.GetDiskTypeRequest.disk_type_id",
    "yandex.cloud.compute.v1.ListDiskSnapshotSchedulesRequest.disk_id",
    "yandex.cloud.compute.v1.ListDiskSnapshotSchedulesRequest.page_token",
    "yandex.cloud.compute.v1.CreateDiskRequest.snapshot_schedule_ids",
    # Bounded by the size of a request.
    "yandex.cloud.compute.v1.CreateImageRequest.uri",
}
BY_PATTERN = {"name", "family"}
REQUIRED = {
    **dict.fromkeys(("folder_id", "image_id", "disk_id", "snapshot_id", "zone_id"), True),
    **dict.fromkeys(("destination_folder_id", "destination_zone_id"), True),
    **dict.fromkeys(("resource_id", "operation_id", "disk_type_id", "size"), True),
    "access_binding_deltas": True,
}
"""Fields that must be there, unless they are one of several sources or changes."""
OPTIONAL = {
    "yandex.cloud.compute.v1.CreateImageRequest": {"image_id", "disk_id", "snapshot_id"},
    "yandex.cloud.compute.v1.CreateDiskRequest": {"image_id", "snapshot_id"},
    "yandex.cloud.compute.v1.UpdateDiskRequest": {"size"},
    "yandex.cloud.compute.v1.ListDiskSnapshotSchedulesRequest": {"disk_id"},
}
METHODS = [method for service in SERVICES.values() for method in service.methods]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with in_process(tmp_path_factory.mktemp("cloud")) as served:
        yield served


def name_of(method: MethodDescriptor) -> str:
    return f"{method.containing_service.name}.{method.name}"


def violations(cloud: Cloud, method: MethodDescriptor, **fields: Any) -> dict[str, str]:
    call = getattr(cloud.stub(method.containing_service.name), method.name)
    failed = refused(lambda: call(**fields))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT, failed.message
    return failed.fields


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_every_required_field_that_is_missing_is_named(
    cloud: Cloud, method: MethodDescriptor
) -> None:
    request = method.input_type
    optional = OPTIONAL.get(request.full_name, set())
    missing = {name for name in request.fields_by_name if name in REQUIRED} - optional
    if request.full_name.endswith("CreateImageRequest"):
        missing.add("source")
    if missing:
        assert violations(cloud, method).keys() == missing
    else:
        assert method.name in ("List", "ListSnapshotSchedules")


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_every_text_has_its_limit(cloud: Cloud, method: MethodDescriptor) -> None:
    call = getattr(cloud.stub(method.containing_service.name), method.name)
    for field in method.input_type.fields:
        if field.type != FieldDescriptor.TYPE_STRING or field.full_name in UNLIMITED:
            continue
        limit = 63 if field.name in BY_PATTERN else CHARACTERS[field.name]
        if field.name == "page_token" and method.name == "ListAccessBindings":
            limit = 2000

        def told(length: int, field: FieldDescriptor = field) -> str:
            value: Any = ["a" * length] if field.is_repeated else "a" * length
            # Refused in any case: nothing has that id, or the request is not complete.
            paged = {"page_size": 1001} if method.name.startswith("List") else {}
            failed = refused(lambda: call(**{**paged, field.name: value}))
            if failed.code is not grpc.StatusCode.INVALID_ARGUMENT:
                return ""
            return "".join(text for name, text in failed.fields.items() if field.name in name)

        assert "characters" in told(limit + 1) or "pattern" in told(limit + 1), field.full_name
        assert "characters" not in told(limit), field.full_name
        assert "pattern" not in told(limit), field.full_name


LABEL_KEY, LABEL_VALUE = "k" * 63, "v" * 63


@pytest.mark.parametrize("service", ["ImageService", "DiskService", "SnapshotService"])
@pytest.mark.parametrize("method", ["Create", "Update"])
def test_labels_have_their_limits(cloud: Cloud, service: str, method: str) -> None:
    rpc = SERVICES[service].methods_by_name[method]

    def complaints(labels: dict[str, str]) -> list[str]:
        # Nothing but the labels is sent: required fields are missing, so nothing is changed.
        return [each for each in violations(cloud, rpc, labels=labels) if "labels" in each]

    assert complaints({LABEL_KEY: LABEL_VALUE, "k": "", "a-_./\\@0": "-_./\\@0a"}) == []
    assert complaints({f"k{number}": "" for number in range(64)}) == []
    assert complaints({f"k{number}": "" for number in range(65)}) == ["labels"]
    for wrong in ({LABEL_KEY + "k": ""}, {"k": LABEL_VALUE + "v"}, {"": ""}, {"K": ""}, {"0": ""}):
        assert len(complaints(wrong)) >= 1, wrong
    assert len(complaints({"k": "V"})) == 1


@pytest.mark.parametrize("service", ["ImageService", "DiskService", "SnapshotService"])
@pytest.mark.parametrize("method", ["Create", "Update"])
def test_names_have_their_pattern(cloud: Cloud, service: str, method: str) -> None:
    rpc = SERVICES[service].methods_by_name[method]
    for name in ("", "a", "a-1", "a_b", "a" * 63, "a0"):
        assert "name" not in violations(cloud, rpc, name=name), name
    for name in ("A", "1a", "-a", "_a", "a-", "a_", "a.b", "a b", "é", "a" * 64, "a\n"):
        assert "name" in violations(cloud, rpc, name=name), name


def test_an_enum_takes_what_it_names(cloud: Cloud) -> None:
    create = SERVICES["ImageService"].methods_by_name["Create"]
    found = violations(
        cloud,
        create,
        os={"type": 9},
        hardware_generation={"legacy_features": {"pci_topology": 9}},
    )
    assert {"os.type", "hardware_generation.legacy_features.pci_topology"} <= found.keys()
