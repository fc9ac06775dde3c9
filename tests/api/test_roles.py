"""Mode `iam`: what each role may do, on the cloud, on a folder and on one resource."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from api.accounts import CLOUD, Accounts
from api.client import Client, Refused, refused, until
from api.conftest import Starter
from darkroom.api.access.modes import issuer
from darkroom.api.permissions import PERMISSIONS, PUBLIC
from darkroom.api.roles import ROLES
from darkroom.api.server import Server
from darkroom.config import Settings
from darkroom.domain.access import AccessBinding
from darkroom.domain.disk import Disk
from darkroom.domain.image import Image
from darkroom.domain.operation import Operation, State
from darkroom.domain.resource import Resource, Status
from darkroom.domain.snapshot import Snapshot
from darkroom.storage.port import Transaction
from darkroom.storage.sqlite import SqliteStore
from darkroom_pb.yandex.cloud.access import access_pb2
from darkroom_pb.yandex.cloud.compute.v1 import (
    disk_service_pb2,
    disk_service_pb2_grpc,
    image_service_pb2,
    snapshot_service_pb2,
    snapshot_service_pb2_grpc,
)
from darkroom_pb.yandex.cloud.operation import operation_service_pb2
from darkroom_pb.yandex.cloud.resourcemanager.v1 import (
    folder_service_pb2,
    folder_service_pb2_grpc,
)
from fuzz.calls import methods

FOLDER = "folder"
PLACES = (CLOUD, FOLDER, "resource")
IDS = {"ImageService": "fd8image", "DiskService": "fhmdisk", "SnapshotService": "fd8snapshot"}

READ = {"Get", "List", "GetLatestByFamily", "ListOperations", "ListSnapshotSchedules"}
READ_BINDINGS = {"ListAccessBindings"}
WRITE = {"Create", "Update", "Delete", "Move", "Relocate"}
BIND = {"SetAccessBindings", "UpdateAccessBindings"}
LOOK = READ | READ_BINDINGS
ON_FOLDERS = {"List", "Create"}
"""Methods that no right on one resource is enough for."""

MAY: dict[str, set[str]] = {
    "": set(),
    "compute.images.user": READ,
    "compute.auditor": LOOK,
    "compute.viewer": LOOK,
    "compute.operator": LOOK,
    "compute.editor": LOOK | WRITE,
    "compute.admin": LOOK | WRITE | BIND,
    "viewer": LOOK,
    "editor": LOOK | WRITE,
    "admin": LOOK | WRITE | BIND,
}
"""What the cloud's documentation says of the roles, in methods."""


def expected(path: str, role: str, place: str) -> bool:
    """Whether a caller with the role on the place may call the method."""
    service, _, method = path.rpartition(".")[2].partition("/")
    if PERMISSIONS[path] == PUBLIC:
        return True
    if service in IDS:
        if role == "compute.images.user" and service != "ImageService":
            return False
        if place == "resource" and method in (ON_FOLDERS | {"Move"}):
            # Moving needs a right on the folder that it moves to as well.
            return False
        return method in MAY[role]
    if service == "OperationService":
        # It is about the image, and somebody else began it.
        return {"Get": "Get", "Cancel": "Update"}[method] in MAY[role]
    if service in ("ZoneService", "DiskTypeService") or method == "Revoke":
        return True
    if service in ("CloudService", "FolderService"):
        if role in ("", "compute.images.user") or place == "resource":
            return False
        if method in ("Get", "List"):
            return True
        looks = {"ListOperations", "ListAccessBindings", "ListAccessPolicyBindings"}
        if service == "CloudService" or method == "Create":
            return place == CLOUD and (role == "admin" or method in looks)
        return role == "admin" or method in looks
    assert method == "CreateForServiceAccount"
    return role == "admin" and place == CLOUD


def request_of(path: str, message: Any) -> bytes:
    """A valid request of the method about what is in the folder."""
    service, _, method = path.rpartition(".")[2].partition("/")
    request = message()
    if service in IDS or service in ("CloudService", "FolderService", "OperationService"):
        own = {"CloudService": Settings.cloud_id, "FolderService": FOLDER}.get(service, "")
        values: dict[str, Any] = {
            "image_id": IDS["ImageService"],
            "disk_id": IDS["DiskService"],
            "snapshot_id": IDS["SnapshotService"],
            "resource_id": own or IDS.get(service, ""),
            "folder_id": FOLDER,
            "cloud_id": Settings.cloud_id,
            "operation_id": "fd8done",
            "family": "family",
            "zone_id": "ru-central1-a",
            "size": 1 << 30,
            "destination_folder_id": FOLDER,
            "destination_zone_id": "ru-central1-b",
            "name": "" if service in IDS else "name",
            "organization_id": "organization",
            "access_policy_template_id": "template",
        }
        if method == "Create":
            # So that nothing is made: the source is not there.
            values |= {"image_id": "fd8gone", "disk_id": "fhmgone", "snapshot_id": "fd8gone"}
        for field in request.DESCRIPTOR.fields:
            if field.name in values:
                setattr(request, field.name, values[field.name])
    subject = access_pb2.Subject(type="userAccount", id="bob")
    binding = access_pb2.AccessBinding(role_id="viewer", subject=subject)
    if isinstance(request, access_pb2.SetAccessBindingsRequest):
        request.access_bindings.append(binding)
    if isinstance(request, access_pb2.UpdateAccessBindingsRequest):
        request.access_binding_deltas.add(action="ADD", access_binding=binding)
    if "access_policy_binding" in request.DESCRIPTOR.fields_by_name:
        request.access_policy_binding.access_policy_template_id = "template"
    values = {
        "zone_id": "ru-central1-a",
        "disk_type_id": "network-hdd",
        "service_account_id": "nobody",
        "iam_token": "t1.a.b",
    }
    for field in request.DESCRIPTOR.fields:
        if field.name in values and not getattr(request, field.name):
            setattr(request, field.name, values[field.name])
    return bytes(request.SerializeToString())


def resources(folder_id: str = FOLDER, suffix: str = "") -> list[Resource]:
    """One of each kind."""
    common: Any = {"folder_id": folder_id, "created_at_us": 1, "status": Status.READY}
    return [
        Image(id=IDS["ImageService"] + suffix, family="family", **common),
        Disk(id=IDS["DiskService"] + suffix, zone_id="ru-central1-a", **common),
        Snapshot(id=IDS["SnapshotService"] + suffix, **common),
    ]


def operation(operation_id: str, resource: Resource, state: State) -> Operation:
    """One of somebody who is gone."""
    response = resource.to_record() if state is State.DONE else None
    kind = f"{resource.NOUN.lower()}.update"
    return Operation(
        operation_id, kind, resource.folder_id, resource.id, 1, "somebody", 1, state,
        response=response,
    )  # fmt: skip


@pytest.fixture
def accounts(tmp_path: Path, store: SqliteStore) -> Accounts:
    """An account for each role in each place, named `PLACE-ROLE`, and what there is to see."""
    made = Accounts(tmp_path / "access")
    document = made._document

    def change(tx: Transaction) -> None:
        for resource in resources():
            tx.insert_resource(resource)
            # Nothing may change while it is under way, so the walk changes nothing.
            tx.insert_operation(operation(f"pending-{resource.id}", resource, State.PENDING))
            for role in ROLES:
                binding = AccessBinding(role, "serviceAccount", f"resource-{role}")
                tx.add_binding(resource.id, binding)
        tx.insert_operation(operation("fd8done", resources()[0], State.DONE))

    store.write(change)
    for place in PLACES:
        for role in ("", *ROLES):
            document["service_accounts"].append({"id": f"{place}-{role}".rstrip("-")})
            if role and place != "resource":
                made.grant(role, place, f"serviceAccount:{place}-{role}")
    made.write()
    return made


@pytest.fixture
def server(start: Starter, accounts: Accounts) -> Server:
    return start(auth_mode="iam", folder=(f"{FOLDER}=one", "other=two"))


class Caller(Client):
    """A client with tokens of everybody."""

    def __init__(self, channel: Any, folder: Path) -> None:
        super().__init__(channel)
        self.disks = disk_service_pb2_grpc.DiskServiceStub(channel)
        self.snapshots = snapshot_service_pb2_grpc.SnapshotServiceStub(channel)
        self.folders = folder_service_pb2_grpc.FolderServiceStub(channel)
        self._issuer = issuer(Settings(data_dir=folder))

    def as_(self, account_id: str) -> dict[str, Any]:
        """Options of a call that the account makes."""
        token, _ = self._issuer.issue(account_id)
        return {"metadata": (("authorization", f"Bearer {token}"),)}


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Iterator[Caller]:
    with grpc.insecure_channel(server.address) as channel:
        yield Caller(channel, tmp_path)


def test_the_table_of_roles_is_that_of_this_test() -> None:
    assert MAY.keys() - {""} == ROLES.keys()


def test_every_method_is_open_to_exactly_the_roles_that_may(client: Caller) -> None:
    wrong = []
    for place in PLACES:
        for role in MAY:
            options = client.as_(f"{place}-{role}".rstrip("-"))
            for path, descriptor in methods().items():
                if path.startswith("/grpc."):
                    continue
                request = request_of(path, GetMessageClass(descriptor))
                outcome = "OK"
                try:
                    client.raw(path, request, **options)
                except grpc.RpcError as error:
                    outcome = error.code().name
                denied = outcome == "PERMISSION_DENIED"
                # Revoke is asked about a token that is none.
                bad = outcome == "INVALID_ARGUMENT" and "IamTokenService" not in path
                if denied is expected(path, role, place) or outcome == "UNAUTHENTICATED" or bad:
                    wrong.append((path, role, place, outcome))
    assert not wrong


def denied(answer: Refused) -> str:
    assert answer.code is grpc.StatusCode.PERMISSION_DENIED, answer
    assert answer.reason == "PERMISSION_DENIED"
    return answer.message


def get(client: Caller, image_id: str, account_id: str) -> Refused:
    return refused(lambda: client.get(image_id, **client.as_(account_id)))


def test_a_stranger_is_told_the_same_whether_it_exists_or_not(
    client: Caller, store: SqliteStore
) -> None:
    there, not_there = IDS["ImageService"], "fd8absnt"
    answers = [get(client, each, "cloud") for each in (there, not_there)]
    assert [denied(each) for each in answers] == [
        f"Permission denied to image {there}",
        f"Permission denied to image {not_there}",
    ]
    first, second = (str(each.status).replace(each.headers["x-request-id"], "") for each in answers)
    assert first == second.replace(not_there, there)
    for folder_id in (FOLDER, "no-such-folder"):
        request = image_service_pb2.ListImagesRequest(folder_id=folder_id)
        answer = refused(lambda: client.images.List(request, **client.as_("cloud")))  # noqa: B023
        assert denied(answer) == f"Permission denied to folder {folder_id}"
    for operation_id in ("fd8done", "fd8nothing"):
        asked = operation_service_pb2.GetOperationRequest(operation_id=operation_id)
        answer = refused(lambda: client.operations.Get(asked, **client.as_("cloud")))  # noqa: B023
        assert denied(answer) == f"Permission denied to operation {operation_id}"


def test_whoever_has_the_right_somewhere_learns_that_nothing_is_there(client: Caller) -> None:
    answer = get(client, "fd8nothing", "folder-viewer")
    assert answer.code is grpc.StatusCode.NOT_FOUND
    assert answer.message == 'Image "fd8nothing" not found'
    # A disk is nothing that this role has to do with.
    request = disk_service_pb2.GetDiskRequest(disk_id="fhmnothing")
    as_user = client.as_("folder-compute.images.user")
    denied(refused(lambda: client.disks.Get(request, **as_user)))


def test_rights_on_one_folder_do_not_reach_into_another(client: Caller, store: SqliteStore) -> None:
    def change(tx: Transaction) -> None:
        for resource in resources("other", "2"):
            tx.insert_resource(resource)

    store.write(change)
    admin = client.as_("folder-admin")
    assert (
        denied(get(client, "fd8image2", "folder-admin")) == "Permission denied to image fd8image2"
    )
    move = disk_service_pb2.MoveDiskRequest(disk_id="fhmdisk2", destination_folder_id=FOLDER)
    assert denied(refused(lambda: client.disks.Move(move, **admin))).endswith("disk fhmdisk2")
    away = disk_service_pb2.MoveDiskRequest(disk_id="fhmdisk", destination_folder_id="other")
    assert denied(refused(lambda: client.disks.Move(away, **admin))).endswith("folder other")
    assert client.get("fd8image2", **client.as_("cloud-viewer")).id == "fd8image2"
    folders = folder_service_pb2.ListFoldersRequest(cloud_id=Settings.cloud_id)
    for account_id, seen in (("folder-viewer", [FOLDER]), ("cloud-viewer", [FOLDER, "other"])):
        listed = client.folders.List(folders, **client.as_(account_id)).folders
        assert [each.id for each in listed] == seen


def test_what_something_is_made_of_needs_a_right_too(client: Caller, store: SqliteStore) -> None:
    def change(tx: Transaction) -> None:
        for resource in resources("other", "2"):
            tx.insert_resource(resource)

    store.write(change)
    editor = client.as_("folder-editor")
    for field, source_id in (
        ("image_id", "fd8image2"),
        ("disk_id", "fhmdisk2"),
        ("snapshot_id", "fd8snapshot2"),
    ):
        create = image_service_pb2.CreateImageRequest(folder_id=FOLDER, **{field: source_id})  # type: ignore[arg-type]
        answer = refused(lambda: client.images.Create(create, **editor))  # noqa: B023
        assert denied(answer) == f"Permission denied to {field.removesuffix('_id')} {source_id}"
        binding = AccessBinding("compute.viewer", "serviceAccount", "folder-editor")
        store.write(lambda tx: tx.add_binding(source_id, binding))  # noqa: B023
        assert client.images.Create(create, **editor).done
    disk = disk_service_pb2.CreateDiskRequest(
        folder_id=FOLDER, zone_id="ru-central1-a", size=4 << 20, image_id="fd8image2"
    )
    assert client.disks.Create(disk, **editor).done
    snapshot = snapshot_service_pb2.CreateSnapshotRequest(folder_id=FOLDER, disk_id="fhmdisk2")
    assert client.snapshots.Create(snapshot, **editor).done
    other = client.as_("folder-admin")
    denied(refused(lambda: client.snapshots.Create(snapshot, **other)))


def test_images_for_everyone_are_for_everyone_who_is_known(
    client: Caller, store: SqliteStore
) -> None:
    image = Image(
        id="fd8ubuntu", folder_id="standard-images", created_at_us=1, status=Status.READY,
        family="ubuntu",
    )  # fmt: skip
    store.write(lambda tx: tx.insert_resource(image))
    nobody = client.as_("cloud")
    request = image_service_pb2.GetImageLatestByFamilyRequest(
        folder_id="standard-images", family="ubuntu"
    )
    assert client.images.GetLatestByFamily(request, **nobody).id == "fd8ubuntu"
    listing = image_service_pb2.ListImagesRequest(folder_id="standard-images")
    assert len(client.images.List(listing, **nobody).images) == 1
    delete = image_service_pb2.DeleteImageRequest(image_id="fd8ubuntu")
    denied(refused(lambda: client.images.Delete(delete, **nobody)))
    for public_id, subject_id in (
        ("fd8public1", "allUsers"),
        ("fd8public2", "allAuthenticatedUsers"),
    ):
        catalogued = Image(id=public_id, folder_id="other", created_at_us=1, status=Status.READY)
        binding = AccessBinding("compute.images.user", "system", subject_id)
        store.write(lambda tx: tx.insert_resource(catalogued))  # noqa: B023
        store.write(lambda tx: tx.add_binding(public_id, binding))  # noqa: B023
        assert client.get(public_id, **nobody).id == public_id
        assert refused(lambda: client.get(public_id)).code is grpc.StatusCode.UNAUTHENTICATED  # noqa: B023


def test_who_began_an_operation_may_follow_it_whatever_becomes_of_its_resource(
    client: Caller, store: SqliteStore, accounts: Accounts
) -> None:
    editor, stranger = client.as_("folder-editor"), client.as_("cloud")
    create = image_service_pb2.CreateImageRequest(folder_id=FOLDER, image_id=IDS["ImageService"])
    made = client.images.Create(create, **editor)
    image_id = image_id_of(made)
    delete = image_service_pb2.DeleteImageRequest(image_id=image_id)
    deleted = client.images.Delete(delete, **editor)
    for begun in (made, deleted):
        assert begun.created_by == "folder-editor"
        asked = operation_service_pb2.GetOperationRequest(operation_id=begun.id)
        cancelled = operation_service_pb2.CancelOperationRequest(operation_id=begun.id)
        for may in (editor, client.as_("folder-viewer"), client.as_("cloud-admin")):
            assert client.operations.Get(asked, **may).id == begun.id
        denied(refused(lambda: client.operations.Get(asked, **stranger)))  # noqa: B023
        for may in (editor, client.as_("folder-compute.editor")):
            assert client.operations.Cancel(cancelled, **may).id == begun.id
        viewer = client.as_("folder-viewer")
        denied(refused(lambda: client.operations.Cancel(cancelled, **viewer)))  # noqa: B023


def image_id_of(made: Any) -> str:
    metadata = image_service_pb2.CreateImageMetadata()
    assert made.metadata.Unpack(metadata)
    return metadata.image_id


def test_a_repeated_deletion_finds_its_operation_though_nothing_is_there(
    client: Caller, store: SqliteStore
) -> None:
    store.write(lambda tx: tx.insert_resource(resources(FOLDER, "3")[0]))
    request = image_service_pb2.DeleteImageRequest(image_id="fd8image3")

    def delete(account_id: str, key: str) -> Any:
        options = client.as_(account_id)
        options["metadata"] = (*options["metadata"], ("idempotency-key", key))
        return client.images.Delete(request, **options)

    first = delete("folder-editor", "one")
    assert delete("folder-editor", "one").id == first.id
    for account_id in ("folder-editor", "cloud-editor"):
        missing = refused(lambda: delete(account_id, "two"))  # noqa: B023
        assert missing.code is grpc.StatusCode.NOT_FOUND
    denied(refused(lambda: delete("cloud", "one")))


def test_a_key_of_nothing_lets_nobody_act_on_what_appears_meanwhile(
    client: Caller, store: SqliteStore
) -> None:
    """What was missing when rights were looked at is missing for the whole call."""
    request = image_service_pb2.DeleteImageRequest(image_id="fd8image4")
    options = client.as_("folder-editor")
    options["metadata"] = (*options["metadata"], ("idempotency-key", "three"))
    real = SqliteStore.get

    def get_then_appear(self: Any, kind: Any, resource_id: str) -> Any:
        found = real(self, kind, resource_id)
        if resource_id == "fd8image4" and found is None:
            self.write(lambda tx: tx.insert_resource(resources("other", "4")[0]))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SqliteStore, "get", get_then_appear)
        missing = refused(lambda: client.images.Delete(request, **options))
    assert missing.code is grpc.StatusCode.NOT_FOUND
    assert store.get(Image, "fd8image4") is not None


def test_bindings_are_in_force_at_once_for_users_groups_and_organizations(
    client: Caller, store: SqliteStore, accounts: Accounts
) -> None:
    accounts._document["users"].append({"id": "alice"})
    accounts.group("builders", "userAccount:alice")
    image = resources(FOLDER, "5")[0]
    store.write(lambda tx: tx.insert_resource(image))
    admin, alice = client.as_("folder-compute.admin"), client.as_("alice")
    wait_until_known(client, "alice")
    organization = f"group:organization:{Settings.organization_id}:users"
    for subject in (
        access_pb2.Subject(type="userAccount", id="alice"),
        access_pb2.Subject(type="group", id="builders"),
        access_pb2.Subject(type="system", id=organization),
        access_pb2.Subject(type="system", id="allAuthenticatedUsers"),
    ):
        denied(refused(lambda: client.get(image.id, **alice)))
        binding = access_pb2.AccessBinding(role_id="viewer", subject=subject)
        granted = access_pb2.SetAccessBindingsRequest(
            resource_id=image.id, access_bindings=[binding]
        )
        assert client.images.SetAccessBindings(granted, **admin).done
        assert client.get(image.id, **alice).id == image.id
        nothing = access_pb2.SetAccessBindingsRequest(resource_id=image.id)
        assert client.images.SetAccessBindings(nothing, **admin).done


def wait_until_known(client: Caller, account_id: str) -> None:
    def known() -> bool:
        answer = get(client, "fd8nothing", account_id)
        return answer.code is grpc.StatusCode.PERMISSION_DENIED

    until(known, "the account is known")


@pytest.mark.parametrize(
    ("role", "subject_type", "subject_id", "problem"),
    [
        ("owner", "userAccount", "bob", "role owner is not known"),
        ("viewer", "user", "bob", "type user is not one of"),
        ("viewer", "system", "everyone", "a subject of type system is"),
    ],
)
def test_a_binding_that_could_never_mean_anything_is_refused(
    client: Caller, role: str, subject_type: str, subject_id: str, problem: str
) -> None:
    admin = client.as_("cloud-admin")
    binding = access_pb2.AccessBinding(
        role_id=role, subject=access_pb2.Subject(type=subject_type, id=subject_id)
    )
    request = access_pb2.SetAccessBindingsRequest(
        resource_id=IDS["ImageService"], access_bindings=[binding]
    )
    answer = refused(lambda: client.images.SetAccessBindings(request, **admin))
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert problem in answer.fields["access_bindings[0]"]
    deltas = access_pb2.UpdateAccessBindingsRequest(resource_id=IDS["ImageService"])
    deltas.access_binding_deltas.add(action="ADD", access_binding=binding)
    answer = refused(lambda: client.images.UpdateAccessBindings(deltas, **admin))
    assert problem in answer.fields["access_binding_deltas[0].access_binding"]
    # What is there already can go.
    deltas.access_binding_deltas[0].action = access_pb2.REMOVE
    answer = refused(lambda: client.images.UpdateAccessBindings(deltas, **admin))
    assert answer.reason == "CONFLICTING_OPERATION"
