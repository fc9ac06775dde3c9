"""What the server answers and refuses is what the OpenAPI document says."""

import functools
import re
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import write_docs
from api.client import refused
from api.cloud import MIB, SERVICES, ZONE, Cloud, fresh_folder, in_process, unpacked
from darkroom.api.validation import Report, Rules, Validator, is_map
from darkroom.domain.bounds import Bounds
from darkroom.domain.errors import CATALOGUE
from darkroom_pb.yandex.cloud.endpoint import api_endpoint_service_pb2
from darkroom_pb.yandex.cloud.iam.v1 import iam_token_service_pb2
from darkroom_pb.yandex.cloud.resourcemanager.v1 import cloud_service_pb2, folder_service_pb2
from openapi import CODES, DETAILS
from published import OFFERS, Offer, faults, offer

ALL_SERVICES: dict[str, ServiceDescriptor] = SERVICES | {
    name: service
    for module in (
        api_endpoint_service_pb2,
        iam_token_service_pb2,
        cloud_service_pb2,
        folder_service_pb2,
    )
    for name, service in module.DESCRIPTOR.services_by_name.items()
}
MANY = 64
"""Judging the thousand entries that some lists may have takes too long to do it often."""
USER = {"type": "userAccount", "id": "somebody"}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with in_process(tmp_path_factory.mktemp("cloud")) as served:
        yield served


def described(one: Offer) -> MethodDescriptor:
    return ALL_SERVICES[one.service].methods_by_name[one.method]


def ask(cloud: Cloud, one: Offer, request: Message) -> Message | grpc.StatusCode:
    """Call the method; the answer, or the code of the failure, both as the document has them."""
    method = described(one)
    call = cloud.channel.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    try:
        answer: Message = call(request, timeout=30)
    except grpc.RpcError as error:
        failure = refused(functools.partial(_again, error))
        http_status = CODES[failure.code.name][0]
        shown = json_format.MessageToDict(failure.status)
        assert faults(shown, one.answer(http_status)) == []
        return failure.code
    for everything in (True, False):
        shown = json_format.MessageToDict(answer, always_print_fields_with_no_presence=everything)
        assert faults(shown, one.answer(200)) == []
    return answer


def _again(error: grpc.RpcError) -> None:
    raise error


# --- answers --------------------------------------------------------------------------------------


class Walk:
    """Calls methods by the ids of their operations and remembers which have answered."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.answered: set[str] = set()

    def __call__(self, operation_id: str, /, **fields: Any) -> Any:
        one = offer(operation_id)
        request = GetMessageClass(described(one).input_type)(**fields)
        answer = ask(self._cloud, one, request)
        assert isinstance(answer, Message), f"{operation_id}: {answer}"
        self.answered.add(operation_id)
        return answer


def test_every_answer_is_as_published(cloud: Cloud) -> None:
    walk = Walk(cloud)
    folder = fresh_folder()
    walk("ApiEndpointService_List")
    walk("ApiEndpointService_Get", api_endpoint_id="compute")
    walk("IamTokenService_Create", yandex_passport_oauth_token="y0_token")
    walk("IamTokenService_CreateForServiceAccount", service_account_id="robot")
    (found,) = walk("CloudService_List").clouds
    walk("CloudService_Get", cloud_id=found.id)
    walk("FolderService_Get", folder_id=folder)
    walk("FolderService_List", cloud_id=found.id)
    walk("ZoneService_List")
    walk("ZoneService_Get", zone_id=ZONE)
    kinds = walk("DiskTypeService_List").disk_types
    walk("DiskTypeService_Get", disk_type_id=kinds[0].id)

    image = {
        "folder_id": folder,
        "name": "first",
        "family": "fam",
        "labels": {"team/unit": "a_b.c@d\\e"},
        "description": 'Text, é, "😀".',
        "product_ids": ["license"],
        "hardware_generation": {"generation2_features": {"vtpm_enabled": True}},
    }
    source = cloud.ready_image()
    made = {
        "Image": walk("ImageService_Create", image_id=source, **image),
        "Disk": walk("DiskService_Create", folder_id=folder, zone_id=ZONE, size=8 * MIB),
    }
    disk_id = unpacked(made["Disk"].metadata).disk_id
    made["Snapshot"] = walk("SnapshotService_Create", folder_id=folder, disk_id=disk_id)
    running = walk("ImageService_Create", folder_id=folder, uri=_URI)
    walk("ImageService_GetLatestByFamily", folder_id=folder, family="fam")
    walk("OperationService_Get", operation_id=running.id)
    walk("OperationService_Cancel", operation_id=running.id)
    walk("OperationService_Cancel_post", operation_id=running.id)
    walk("DiskService_Move", disk_id=disk_id, destination_folder_id=folder + "-2")
    walk("DiskService_Move", disk_id=disk_id, destination_folder_id=folder)
    walk("DiskService_Relocate", disk_id=disk_id, destination_zone_id="ru-central1-b")
    for noun, operation in made.items():
        key = f"{noun.lower()}_id"
        one = {key: getattr(unpacked(operation.metadata), key)}
        resource = {"resource_id": one[key]}
        binding = {"role_id": "compute.images.user", "subject": USER}
        walk(f"{noun}Service_Get", **one)
        walk(f"{noun}Service_List", folder_id=folder)
        walk(f"{noun}Service_Update", **one, name="second", labels={})
        walk(f"{noun}Service_SetAccessBindings", **resource, access_bindings=[binding])
        walk(f"{noun}Service_ListAccessBindings", **resource)
        delta = {"action": "REMOVE", "access_binding": binding}
        walk(f"{noun}Service_UpdateAccessBindings", **resource, access_binding_deltas=[delta])
        walk(f"{noun}Service_ListOperations", **one)
        walk(f"{noun}Service_Delete", **one)
        walk("OperationService_Get", operation_id=operation.id)
    # Nobody is asked for a token here, so there is none to revoke.
    served = {each.operation["operationId"] for each in OFFERS if each.is_served}
    assert walk.answered == served - {"IamTokenService_Revoke"}


_URI = "https://storage.yandexcloud.net/bucket/disk.qcow2?X-Amz-Signature=c0ffee"


def test_no_failure_of_the_catalogue_is_unheard_of() -> None:
    in_operations_alone = {"CANCELLED", "DATA_LOSS"}
    codes = {kind.code.name for kind in CATALOGUE.values()}
    assert codes <= CODES.keys() | in_operations_alone
    carried = {name for names in write_docs.details().values() for name in _names(names)}
    assert carried and carried <= DETAILS.keys()


def _names(cell: str) -> list[str]:
    return re.findall(r"`([\w.]+)`", cell)


# --- requests -------------------------------------------------------------------------------------


def texts(rules: Rules) -> st.SearchStrategy[str]:
    """Of the lengths at which rules part what they allow from what they forbid."""
    lengths = Bounds.parse(rules.length) if rules.length else Bounds(1, 63)
    edges = [length for end in (lengths.low, lengths.high) if end for length in (end, end + 1)]
    return st.one_of(
        st.just("abc"),  # every pattern of ours allows it
        st.sampled_from(["", "a", "A", "a-", "a_b", "-a", "0", "a\n", "a b", "é", "/\\@"]),
        st.sampled_from(edges).flatmap(
            lambda length: st.sampled_from([letter * length for letter in ("a", "é", "😀")])
        ),
    )


def numbers(rules: Rules) -> st.SearchStrategy[int]:
    bounds = Bounds.parse(rules.value) if rules.value else Bounds(0, 2**40)
    ends = [end for end in (bounds.low, bounds.high) if end is not None]
    near = [end + step for end in ends for step in (-1, 0, 1)]
    return st.sampled_from([*ends, *near, 0, -1])


def values(field: FieldDescriptor, rules: Rules, depth: int) -> st.SearchStrategy[Any]:
    """Single values of the type of a field, in what `json_format` reads."""
    if field.message_type is not None:
        if field.message_type.full_name == "google.protobuf.FieldMask":
            return st.sampled_from(["", "name", "name,labels", "minDiskSize"])
        if field.message_type.full_name == "google.protobuf.Timestamp":
            return st.just("2026-11-23T10:00:00Z")  # of intervals of times a schema cannot tell
        return requests(field.message_type, depth + 1)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    return texts(rules) if field.type == FieldDescriptor.TYPE_STRING else numbers(rules)


def contents(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """What a field may hold: one value, some, or as many as are just too many."""
    rules = Rules.of_field(field)
    if not field.is_repeated:
        return values(field, rules, depth)
    most = min((Bounds.parse(rules.size).high if rules.size else None) or 2, MANY)
    many = st.sampled_from([most, most + 1])
    if not is_map(field):
        one = values(field, rules, depth)
        return st.lists(one, max_size=2) | st.builds(lambda each, n: [each] * n, one, many)
    entry = field.message_type
    assert entry is not None
    value = values(entry.fields_by_name["value"], rules, depth)
    keys = texts(rules.map_key or Rules())
    return st.dictionaries(keys, value, max_size=2) | st.builds(
        lambda each, n: {f"k{number}": each for number in range(n)}, value, many
    )


def requests(message: Descriptor, depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Messages in JSON, most of whose fields keep the rules most of the time."""
    must: dict[str, st.SearchStrategy[Any]] = {}
    may: dict[str, st.SearchStrategy[Any]] = {}
    for field in message.fields:
        if field.containing_oneof is None:
            held = must if Rules.of_field(field).required else may
            held[field.name] = contents(field, depth)
    parts = [st.fixed_dictionaries(must, optional=may)]
    for oneof in message.oneofs:
        members = [
            st.fixed_dictionaries({field.name: contents(field, depth)}) for field in oneof.fields
        ]
        parts.append(st.one_of(*members, st.just({})))
    return st.tuples(*parts).map(lambda found: {k: v for each in found for k, v in each.items()})


def forbidden(one: Offer, shown: dict[str, Any]) -> list[str]:
    """What the document has against a request, given as a message in JSON."""
    rest, found = dict(shown), []
    for parameter in one.parameters:
        if parameter["in"] == "header":
            continue
        if parameter["name"] not in rest:
            found += [f"{parameter['name']} is missing"] if parameter.get("required") else []
            continue
        value = rest.pop(parameter["name"])
        is_number = parameter["schema"].get("type") == "integer"
        found += faults(int(value) if is_number else value, parameter["schema"])
    if one.body is None:
        assert not rest, "nothing of a request is left out"
        return found
    return found + faults(rest, one.body)


@pytest.mark.parametrize("one", OFFERS, ids=lambda one: one.operation["operationId"])
def test_the_document_forbids_what_the_server_refuses(cloud: Cloud, one: Offer) -> None:
    request_type = described(one).input_type
    judge = Validator().compile(request_type)

    @settings(
        max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(requests(request_type))
    def compare(written: dict[str, Any]) -> None:
        request = json_format.ParseDict(written, GetMessageClass(request_type)())
        report: Report = []
        judge(request, "", report)
        for everything in (True, False):
            shown = json_format.MessageToDict(
                request, always_print_fields_with_no_presence=everything
            )
            in_path = [each["name"] for each in one.parameters if each["in"] == "path"]
            assume(all(shown.get(name) for name in in_path))  # there is no such URL
            assert bool(forbidden(one, shown)) is bool(report), (report, shown)
        answer = ask(cloud, one, request)
        if one.is_served:
            assert report == [] or answer is grpc.StatusCode.INVALID_ARGUMENT

    compare()
