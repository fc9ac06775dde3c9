"""What ImageService, DiskService and SnapshotService do alike, over the wire."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from api.client import refused
from api.cloud import PLURALS, ZONE, Cloud, Kind, fresh_folder, in_process, unpacked
from darkroom_pb.yandex.cloud.compute.v1 import hardware_generation_pb2

INVALID = grpc.StatusCode.INVALID_ARGUMENT
LABELS = {"env": "test", "team/unit": "a_b.c@d\\e"}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with in_process(tmp_path_factory.mktemp("cloud")) as served:
        yield served


@pytest.fixture(params=PLURALS)
def kind(cloud: Cloud, request: pytest.FixtureRequest) -> Kind:
    return cloud.kind(request.param)


@pytest.fixture
def folder() -> str:
    return fresh_folder()


def names(found: list[Any]) -> list[str]:
    return [each.name for each in found]


# --- Create, Get, Delete --------------------------------------------------------------------------


def test_what_create_is_told_is_shown(kind: Kind, folder: str) -> None:
    operation = kind.begin(folder, name="the-name_1", description="Text, é.", labels=LABELS)
    shown = kind.get(kind.id_of(operation))
    assert (shown.name, shown.description, dict(shown.labels)) == ("the-name_1", "Text, é.", LABELS)
    assert (shown.folder_id, shown.status) == (folder, type(shown).READY)
    assert len(shown.id) == 20
    assert shown.created_at.seconds == operation.created_at.seconds and not shown.created_at.nanos
    topology = shown.hardware_generation.legacy_features.pci_topology
    assert topology == hardware_generation_pb2.PCI_TOPOLOGY_V1
    assert not shown.HasField("kms_key")
    assert operation.done and unpacked(operation.response) == shown


def test_the_hardware_of_the_request_overrides(kind: Kind, folder: str) -> None:
    features = {"secure_boot_template_id": "template", "vtpm_enabled": True}
    wanted: dict[str, Any] = {"generation2_features": features}
    shown = kind.get(kind.create(folder, hardware_generation=wanted))
    assert shown.hardware_generation == hardware_generation_pb2.HardwareGeneration(**wanted)
    second: dict[str, Any] = {"legacy_features": {"pci_topology": "PCI_TOPOLOGY_V2"}}
    shown = kind.get(kind.create(folder, hardware_generation=second))
    assert shown.hardware_generation == hardware_generation_pb2.HardwareGeneration(**second)
    unspecified = kind.get(kind.create(folder, hardware_generation={"legacy_features": {}}))
    assert unspecified.hardware_generation.legacy_features.pci_topology == 1


def test_delete_answers_empty_and_get_not_found(kind: Kind, folder: str) -> None:
    made = kind.create(folder, name="doomed")
    operation = kind.delete(made)
    assert operation.done and unpacked(operation.response) == Empty()
    failed = refused(lambda: kind.get(made))
    assert failed.code is grpc.StatusCode.NOT_FOUND
    assert failed.message == f'{kind.noun.capitalize()} "{made}" not found'
    assert kind.listed(folder) == []
    kind.create(folder, name="doomed")  # the name is free again


NEED_ONE = (
    *("Get", "Update", "Delete", "ListOperations"),
    *("ListAccessBindings", "SetAccessBindings", "UpdateAccessBindings"),
)
BINDING = {"role_id": "viewer", "subject": {"id": "someone", "type": "userAccount"}}
MORE_FIELDS: dict[str, Any] = {
    "UpdateAccessBindings": {"access_binding_deltas": [{"action": 1, "access_binding": BINDING}]},
    "Move": {"destination_folder_id": "elsewhere"},
    "Relocate": {"destination_zone_id": ZONE},
}


@pytest.mark.parametrize("method", [*NEED_ONE, "Move", "Relocate", "ListSnapshotSchedules"])
def test_what_is_not_there_is_not_found(cloud: Cloud, kind: Kind, folder: str, method: str) -> None:
    if method not in kind.stub.service.methods_by_name:
        assert method not in NEED_ONE and kind.plural != "disks"
        return
    id_field = "resource_id" if method.endswith("Bindings") else kind.id_field
    other_kind = cloud.kind(PLURALS[PLURALS.index(kind.plural) - 1])
    for absent in ("fd8absent", other_kind.create(folder)):
        fields = {id_field: absent, **MORE_FIELDS.get(method, {})}
        failed = refused(lambda fields=fields: getattr(kind.stub, method)(**fields))  # type: ignore[misc]
        assert failed.code is grpc.StatusCode.NOT_FOUND
        assert failed.message == f'{kind.noun.capitalize()} "{absent}" not found'


# --- names ----------------------------------------------------------------------------------------


def test_a_name_is_taken_once_per_folder_and_kind(kind: Kind, cloud: Cloud, folder: str) -> None:
    kind.create(folder, name="mine")
    other = kind.create(folder, name="other")
    noun = kind.noun.capitalize()
    for attempt in (
        lambda: kind.begin(folder, name="mine"),
        lambda: kind.update(other, "name", name="mine"),
    ):
        failed = refused(attempt)
        assert failed.code is grpc.StatusCode.ALREADY_EXISTS
        assert failed.message == f'{noun} with name "mine" already exists'
    assert kind.get(other).name == "other"
    kind.update(other, "name", name="other")  # its own name is not in its way
    kind.create(fresh_folder(), name="mine")
    for plural in PLURALS:
        if plural != kind.plural:
            cloud.kind(plural).create(folder, name="mine")
    assert kind.get(kind.create(folder)).name == kind.get(kind.create(folder)).name == ""


def test_one_of_many_concurrent_creates_gets_the_name(kind: Kind, folder: str) -> None:
    kind.create(folder)  # makes the source
    outcomes: list[grpc.StatusCode | None] = []
    barrier = threading.Barrier(8)

    def create() -> None:
        barrier.wait()
        try:
            kind.begin(folder, name="contended")
        except grpc.RpcError as error:
            outcomes.append(error.code())
        else:
            outcomes.append(None)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(None) == 1
    assert outcomes.count(grpc.StatusCode.ALREADY_EXISTS) == 7
    assert names(kind.listed(folder)).count("contended") == 1


# --- Update ---------------------------------------------------------------------------------------

BEFORE = {"name": "before", "description": "old", "labels": {"old": "1"}}
AFTER = {"name": "after", "description": "new", "labels": {"new": "2"}}


def told(shown: Any) -> dict[str, Any]:
    return {"name": shown.name, "description": shown.description, "labels": dict(shown.labels)}


@pytest.mark.parametrize("path", AFTER)
def test_a_mask_of_one_field_changes_that_one(kind: Kind, folder: str, path: str) -> None:
    made = kind.create(folder, **BEFORE)
    before = kind.get(made)
    # Everything is sent, and only what the mask names counts.
    operation = kind.update(made, path, **AFTER)
    assert operation.done and unpacked(operation.response) == kind.get(made)
    assert told(kind.get(made)) == {**BEFORE, path: AFTER[path]}
    kind.update(made, path, **{path: BEFORE[path]})  # as Terraform does: nothing else is sent
    assert kind.get(made) == before


def test_a_field_in_the_mask_that_is_left_out_goes_back_to_its_default(
    kind: Kind, folder: str
) -> None:
    made = kind.create(folder, **BEFORE)
    kind.update(made, "name", "labels")
    assert told(kind.get(made)) == {"name": "", "description": "old", "labels": {}}


def test_no_mask_overwrites_all_that_can_be(kind: Kind, folder: str) -> None:
    made = kind.create(folder, **BEFORE)
    before = kind.get(made)
    kind.update(made, description="new")
    assert told(kind.get(made)) == {"name": "", "description": "new", "labels": {}}
    kind.update(made, **BEFORE)
    assert kind.get(made) == before  # size, source and so on were not touched


@pytest.mark.parametrize("path", ["nonsense", "folder_id", "status", "labels.old", "Name", "", "*"])
def test_a_path_that_cannot_be_updated_is_refused_by_name(
    kind: Kind, folder: str, path: str
) -> None:
    made = kind.create(folder, **BEFORE)
    failed = refused(lambda: kind.update(made, "name", path, name="after"))
    assert failed.code is INVALID
    assert failed.fields.keys() == {"update_mask"}
    assert failed.fields["update_mask"].startswith(f'"{path}" ')
    assert told(kind.get(made)) == BEFORE


@pytest.mark.parametrize(
    ("plural", "paths"),
    [
        (
            "images",
            ["family", "pooled", "os", "product_ids", "image_id", "hardware_generation", "size"],
        ),
        ("disks", ["type_id", "zone_id", "block_size", "kms_key_id", "disk_id"]),
        ("snapshots", ["disk_id", "disk_size", "snapshot_id", "hardware_generation"]),
    ],
)
def test_every_immutable_path_is_named(
    cloud: Cloud, folder: str, plural: str, paths: list[str]
) -> None:
    kind = cloud.kind(plural)
    made = kind.create(folder)
    for path in paths:
        failed = refused(lambda path=path: kind.update(made, path))  # type: ignore[misc]
        assert failed.fields["update_mask"].startswith(f'"{path}" ')


# --- List -----------------------------------------------------------------------------------------


def test_list_filters_and_orders(kind: Kind, folder: str) -> None:
    for number, name in enumerate(("b", "c", "a", "")):
        kind.create(folder, name=name, labels={"parity": str(number % 2)})
    kind.create(fresh_folder(), name="a")
    everything = kind.listed(folder)
    assert [each.id for each in everything] == sorted(each.id for each in everything)
    assert names(kind.listed(folder, order_by="name")) == ["", "a", "b", "c"]
    assert names(kind.listed(folder, order_by="name desc")) == ["c", "b", "a", ""]
    assert names(kind.listed(folder, order_by="createdAt")) == ["b", "c", "a", ""]
    assert names(kind.listed(folder, order_by="created_at desc")) == ["", "a", "c", "b"]
    assert names(kind.listed(folder, filter='name = "a"')) == ["a"]
    assert names(kind.listed(folder, filter='name = "absent"')) == []
    by_label = 'labels.parity = "1" AND name != ""'
    assert names(kind.listed(folder, filter=by_label, order_by="name")) == ["c"]
    inside = 'name IN ("a", "b") AND status = "READY"'
    assert names(kind.listed(folder, filter=inside, order_by="name", page_size=1)) == ["a", "b"]
    outside = "name NOT IN ('a', '')"
    assert names(kind.listed(folder, filter=outside, order_by="name")) == ["b", "c"]
    one = everything[0]
    assert kind.listed(folder, filter=f'id = "{one.id}"') == [one]
    at = one.created_at.ToJsonString()  # what a user copies from a reply finds the row
    assert one in kind.listed(folder, filter=f'created_at = "{at}"')
    assert one not in kind.listed(folder, filter=f'created_at > "{at}"')


def test_a_filter_by_family_is_for_images(cloud: Cloud, folder: str) -> None:
    made = cloud.kind("images").create(folder, family="fam")
    cloud.kind("images").create(folder)
    (found,) = cloud.kind("images").listed(folder, filter='family = "fam"')
    assert found.id == made
    for plural in ("disks", "snapshots"):
        kind = cloud.kind(plural)
        failed = refused(lambda kind=kind: kind.listed(folder, filter='family = "fam"'))  # type: ignore[misc]
        assert (failed.code, [*failed.fields]) == (INVALID, ["filter"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("filter", "name"),
        ("filter", 'size = "1"'),
        ("filter", 'name = "a" OR name = "b"'),
        ("filter", 'name = "' + "a" * 1000 + '"'),
        ("order_by", "size"),
        ("order_by", "name sideways"),
        ("order_by", "name" + " " * 100),
        ("page_size", 1001),
        ("page_size", -1),
        ("page_token", "nonsense"),
        ("page_token", "t" * 101),
    ],
)
def test_a_bad_listing_is_refused_by_field(
    kind: Kind, folder: str, field: str, value: object
) -> None:
    failed = refused(lambda: kind.page(folder, **{field: value}))
    assert (failed.code, [*failed.fields]) == (INVALID, [field])


def test_pages_have_a_default_size_and_stay_right_while_rows_come_and_go(
    cloud: Cloud, folder: str
) -> None:
    kind = cloud.kind("snapshots")
    disk = cloud.kind("disks").create(folder)
    made = [kind.create(folder, disk_id=disk, name=f"n{number:03d}") for number in range(105)]
    page, token = kind.page(folder)
    assert len(page) == 100 and token
    page, token = kind.page(folder, page_size=1000)
    assert len(page) == 105 and not token
    page, token = kind.page(folder, order_by="name", page_size=10)
    assert names(page) == [f"n{number:03d}" for number in range(10)]
    kind.delete(made[9])  # the row that the token points at
    kind.delete(made[3])
    kind.delete(made[12])
    kind.create(folder, disk_id=disk, name="a-before")
    kind.create(folder, disk_id=disk, name="n010-behind")
    page, _ = kind.page(folder, order_by="name", page_size=4, page_token=token)
    assert names(page) == ["n010", "n010-behind", "n011", "n013"]


@pytest.mark.parametrize("order", ["", "name", "createdAt desc", "name, createdAt desc"])
def test_the_longest_tokens_keep_to_the_limit(cloud: Cloud, folder: str, order: str) -> None:
    kind = cloud.kind("disks")
    for letter in "zyx":
        kind.create(folder, name=letter * 63)
    assert len(kind.listed(folder, order_by=order, page_size=1)) == 3  # looks at every token


def test_a_token_is_good_for_its_own_listing_only(kind: Kind, cloud: Cloud, folder: str) -> None:
    for name in ("a", "b"):
        kind.create(folder, name=name)
    asked = {"filter": 'status = "READY"', "order_by": "name", "page_size": 1}
    _, token = kind.page(folder, **asked)
    assert names(kind.page(folder, **asked, page_token=token)[0]) == ["b"]
    assert names(kind.page(folder, **{**asked, "page_size": 2}, page_token=token)[0]) == ["b"]
    others: list[tuple[Kind, str, dict[str, Any]]] = [
        (kind, fresh_folder(), asked),
        (kind, folder, {**asked, "filter": ""}),
        (kind, folder, {**asked, "order_by": "name desc"}),
        *((cloud.kind(each), folder, asked) for each in PLURALS if each != kind.plural),
    ]
    for other, elsewhere, fields in others:
        failed = refused(lambda o=other, e=elsewhere, f=fields: o.page(e, **f, page_token=token))  # type: ignore[misc]
        assert (failed.code, failed.reason) == (INVALID, "PAGE_TOKEN_INVALID")
    for damaged in (token[1:], token[:-4], token.swapcase(), token + "AAAA", "é" * 10):
        failed = refused(lambda d=damaged: kind.page(folder, **asked, page_token=d))  # type: ignore[misc]
        assert (failed.code, failed.reason) == (INVALID, "PAGE_TOKEN_INVALID")


# --- ListOperations -------------------------------------------------------------------------------


def test_operations_are_listed_oldest_first_and_in_pages(kind: Kind, folder: str) -> None:
    begun = [kind.begin(folder)]
    made = kind.id_of(begun[0])
    begun += [kind.update(made, "description", description=str(n)) for n in range(4)]
    kind.create(folder)
    fields: dict[str, Any] = {kind.id_field: made}
    reply = kind.stub.ListOperations(**fields)
    assert list(reply.operations) == begun and not reply.next_page_token
    found: list[Any] = []
    token = ""
    while True:
        reply = kind.stub.ListOperations(**fields, page_size=2, page_token=token)
        found += reply.operations
        token = reply.next_page_token
        if not token:
            break
        assert len(token) <= 100 and len(reply.operations) == 2
    assert found == begun
    token = kind.stub.ListOperations(**fields, page_size=1).next_page_token
    other: dict[str, Any] = {kind.id_field: kind.create(folder)}
    for wrong, page_token in ((other, token), (fields, token[:-2]), (fields, "nonsense")):
        failed = refused(
            lambda w=wrong, p=page_token: kind.stub.ListOperations(**w, page_token=p)  # type: ignore[misc]
        )
        assert (failed.code, failed.reason) == (INVALID, "PAGE_TOKEN_INVALID")
    for page_size in (-1, 1001):
        failed = refused(lambda p=page_size: kind.stub.ListOperations(**fields, page_size=p))  # type: ignore[misc]
        assert [*failed.fields] == ["page_size"]


# --- access bindings ------------------------------------------------------------------------------


def binding(role: str, subject: str = "someone", kind: str = "userAccount") -> dict[str, Any]:
    return {"role_id": role, "subject": {"id": subject, "type": kind}}


def bindings_of(kind: Kind, resource_id: str, **fields: Any) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    token = ""
    while True:
        reply = kind.stub.ListAccessBindings(resource_id=resource_id, page_token=token, **fields)
        found += [(b.role_id, b.subject.type, b.subject.id) for b in reply.access_bindings]
        token = reply.next_page_token
        if not token:
            return found
        assert len(token) <= 2000


def deltas_of(operation: Any) -> list[tuple[int, str]]:
    """Actions (1 ADD, 2 REMOVE) and roles that an operation says were effective."""
    assert operation.done
    deltas = unpacked(operation.response).effective_deltas
    return sorted((each.action, each.access_binding.role_id) for each in deltas)


def test_bindings_are_set_changed_and_listed(kind: Kind, folder: str) -> None:
    made = kind.create(folder)
    assert bindings_of(kind, made) == []
    stub = kind.stub
    operation = stub.SetAccessBindings(
        resource_id=made, access_bindings=[binding("viewer"), binding("editor"), binding("viewer")]
    )
    assert deltas_of(operation) == [(1, "editor"), (1, "viewer")]
    assert unpacked(operation.metadata).resource_id == made
    assert bindings_of(kind, made) == [
        ("editor", "userAccount", "someone"),
        ("viewer", "userAccount", "someone"),
    ]
    operation = stub.SetAccessBindings(
        resource_id=made, access_bindings=[binding("viewer"), binding("admin")]
    )
    assert deltas_of(operation) == [(1, "admin"), (2, "editor")]
    operation = stub.UpdateAccessBindings(
        resource_id=made,
        access_binding_deltas=[
            {"action": "REMOVE", "access_binding": binding("admin")},
            {"action": "REMOVE", "access_binding": binding("never-there")},
            {"action": "ADD", "access_binding": binding("viewer")},
            {"action": "ADD", "access_binding": binding("auditor", "allUsers", "system")},
            {"action": "ADD", "access_binding": binding("fleeting")},
            {"action": "REMOVE", "access_binding": binding("fleeting")},
        ],
    )
    assert deltas_of(operation) == [(1, "auditor"), (2, "admin")]
    assert unpacked(operation.metadata).resource_id == made
    assert bindings_of(kind, made) == [
        ("auditor", "system", "allUsers"),
        ("viewer", "userAccount", "someone"),
    ]
    assert deltas_of(stub.SetAccessBindings(resource_id=made)) == [(2, "auditor"), (2, "viewer")]
    assert bindings_of(kind, made) == []


def test_bindings_come_in_pages_whatever_their_subjects_are(kind: Kind, folder: str) -> None:
    made = kind.create(folder)
    subjects = ["group:organization:x:users", "a,b", ",", "é" * 100, "\1", '"', "plain"]
    wanted = sorted(("viewer", "group", each) for each in subjects)
    kind.stub.SetAccessBindings(
        resource_id=made, access_bindings=[binding("viewer", each, "group") for each in subjects]
    )
    assert bindings_of(kind, made, page_size=1) == wanted
    assert bindings_of(kind, made, page_size=1000) == wanted
    token = kind.stub.ListAccessBindings(resource_id=made, page_size=1).next_page_token
    other = kind.create(folder)
    failed = refused(lambda: kind.stub.ListAccessBindings(resource_id=other, page_token=token))
    assert (failed.code, failed.reason) == (INVALID, "PAGE_TOKEN_INVALID")
    for page_size in (-1, 1001):
        failed = refused(
            lambda p=page_size: kind.stub.ListAccessBindings(resource_id=made, page_size=p)  # type: ignore[misc]
        )
        assert [*failed.fields] == ["page_size"]


def test_a_resource_has_at_most_a_thousand_bindings(kind: Kind, folder: str) -> None:
    made = kind.create(folder)
    thousand = [binding("viewer", f"s{number:04d}") for number in range(1000)]
    one_more = [*thousand, binding("viewer", "one-more")]
    stub = kind.stub
    failed = refused(lambda: stub.SetAccessBindings(resource_id=made, access_bindings=one_more))
    assert (failed.code, [*failed.fields]) == (INVALID, ["access_bindings"])
    deltas = [{"action": "ADD", "access_binding": each} for each in one_more]
    for wrong in (deltas, []):
        failed = refused(
            lambda w=wrong: stub.UpdateAccessBindings(resource_id=made, access_binding_deltas=w)  # type: ignore[misc]
        )
        assert (failed.code, [*failed.fields]) == (INVALID, ["access_binding_deltas"])
    stub.SetAccessBindings(resource_id=made, access_bindings=thousand)
    assert len(bindings_of(kind, made)) == 1000
    last = deltas[-1:]
    failed = refused(
        lambda: stub.UpdateAccessBindings(resource_id=made, access_binding_deltas=last)
    )
    assert (failed.code, failed.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "TOO_MANY_BINDINGS",
    )
    swap = [*last, {"action": "REMOVE", "access_binding": thousand[0]}]
    assert deltas_of(stub.UpdateAccessBindings(resource_id=made, access_binding_deltas=swap)) == [
        (1, "viewer"),
        (2, "viewer"),
    ]
    assert len(bindings_of(kind, made)) == 1000


def test_a_binding_must_be_complete(kind: Kind, folder: str) -> None:
    made = kind.create(folder)
    for wrong, field in (
        ({}, "role_id"),
        (binding(""), "role_id"),
        (binding("r" * 65), "role_id"),
        (binding("viewer", ""), "subject.id"),
        (binding("viewer", "s" * 101), "subject.id"),
        (binding("viewer", "s", ""), "subject.type"),
        (binding("viewer", "s", "t" * 101), "subject.type"),
        ({"role_id": "viewer"}, "subject"),
    ):
        failed = refused(
            lambda w=wrong: kind.stub.SetAccessBindings(resource_id=made, access_bindings=[w])  # type: ignore[misc]
        )
        assert f"access_bindings[0].{field}" in failed.fields
    for wrong, field in (
        ({"access_binding": binding("viewer")}, "action"),
        ({"action": "ADD"}, "access_binding"),
        ({"action": 7, "access_binding": binding("viewer")}, "action"),
    ):
        failed = refused(
            lambda w=wrong: kind.stub.UpdateAccessBindings(  # type: ignore[misc]
                resource_id=made, access_binding_deltas=[w]
            )
        )
        assert [*failed.fields] == [f"access_binding_deltas[0].{field}"]


# --- idempotency-key ------------------------------------------------------------------------------


def test_every_change_can_be_repeated_with_its_key(kind: Kind, folder: str) -> None:
    # What is made of a source needs the same source in the repeated request.
    shown = kind.get(kind.create(folder))
    source = {"disk_id": shown.source_disk_id} if kind.noun == "snapshot" else {}

    def keyed(method: str) -> dict[str, Any]:
        return {"metadata": (("idempotency-key", f"{folder}-{kind.noun}-{method}"),)}

    first = kind.begin(folder, name="once", **source, **keyed("Create"))
    assert kind.begin(folder, name="once", **source, **keyed("Create")) == first
    made = kind.id_of(first)
    changes: dict[str, dict[str, Any]] = {
        "Update": {kind.id_field: made, "name": "renamed"},
        "SetAccessBindings": {"resource_id": made, "access_bindings": [BINDING]},
        "UpdateAccessBindings": {"resource_id": made, **MORE_FIELDS["UpdateAccessBindings"]},
        "Delete": {kind.id_field: made},
    }
    for method, fields in changes.items():
        begin = getattr(kind.stub, method)
        assert begin(**fields, **keyed(method)) == begin(**fields, **keyed(method))
    failed = refused(lambda: kind.begin(folder, name="other", **source, **keyed("Create")))
    assert (failed.code, failed.reason) == (INVALID, "IDEMPOTENCY_KEY_REUSED")


def test_the_order_of_bindings_makes_no_other_request(kind: Kind, folder: str) -> None:
    made = kind.create(folder)
    other = {**BINDING, "role_id": "editor"}
    key = {"metadata": (("idempotency-key", f"{folder}-{kind.noun}-set"),)}

    def set_bindings(*bindings: dict[str, Any]) -> Any:
        return kind.stub.SetAccessBindings(resource_id=made, access_bindings=bindings, **key)

    assert set_bindings(BINDING, other) == set_bindings(other, BINDING, other)
    assert refused(lambda: set_bindings(other)).reason == "IDEMPOTENCY_KEY_REUSED"
