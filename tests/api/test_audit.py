"""Who did what, whether it was allowed or not, and how `darkroom audit` shows it."""

import json
from pathlib import Path
from typing import Any

import pytest

from api.client import refused
from api.test_roles import FOLDER, IDS, Caller, accounts, client, server
from darkroom.api.access.denials import AT_ONCE, Denials, action_of
from darkroom.api.calls import Method
from darkroom.cli.main import main
from darkroom.domain import errors
from darkroom.domain.access import Subject
from darkroom.domain.audit import AuditEntry
from darkroom.operations.desk import Caller as Asking
from darkroom.operations.desk import Operations
from darkroom.operations.image_create import CreateImage, ImageCreateEnding, UriSource
from darkroom.storage.sqlite import SqliteStore
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2
from darkroom_pb.yandex.cloud.iam.v1 import iam_token_service_pb2, iam_token_service_pb2_grpc

__all__ = ["accounts", "client", "server"]


def log(store: SqliteStore, **wanted: str) -> list[AuditEntry]:
    return store.list_audit((0, ""), 100, **wanted)


def test_changes_and_refused_attempts_are_recorded(client: Caller, store: SqliteStore) -> None:
    create = image_service_pb2.CreateImageRequest(folder_id=FOLDER, image_id=IDS["ImageService"])
    options = client.as_("folder-editor")
    options["metadata"] = (*options["metadata"], ("x-request-id", "wanted"))
    made = client.images.Create(create, **options)
    delete = image_service_pb2.DeleteImageRequest(image_id=IDS["ImageService"])
    refused(lambda: client.images.Delete(delete, **client.as_("folder-viewer")))
    refused(lambda: client.images.Create(create, **client.as_("cloud")))
    # Looking is not recorded, whatever comes of it, nor is a change that was not made.
    refused(lambda: client.get(IDS["ImageService"], **client.as_("cloud")))
    refused(lambda: client.images.Delete(delete, **client.as_("folder-editor")))
    first, second, third = log(store)
    assert (first.subject_type, first.subject_id) == ("serviceAccount", "folder-editor")
    assert (first.action, first.result, first.request_id) == ("image.create", "OK", "wanted")
    assert (first.operation_id, first.folder_id) == (made.id, FOLDER)
    assert log(store, resource_id=first.resource_id) == [first]
    assert (second.subject_id, second.action) == ("folder-viewer", "image.delete")
    assert (second.result, second.reason) == ("PERMISSION_DENIED", "PERMISSION_DENIED")
    assert second.resource_id == IDS["ImageService"] and second.request_id
    assert (third.subject_id, third.action, third.folder_id) == ("cloud", "image.create", FOLDER)
    assert third.resource_id == ""


def test_tokens_for_others_and_revoked_ones_are_recorded(
    client: Caller, store: SqliteStore
) -> None:
    tokens = iam_token_service_pb2_grpc.IamTokenServiceStub(client.channel)
    request = iam_token_service_pb2.CreateIamTokenForServiceAccountRequest(
        service_account_id="cloud-admin"
    )
    refused(lambda: tokens.CreateForServiceAccount(request, **client.as_("cloud-editor")))
    admin = client.as_("cloud-admin")
    other = tokens.CreateForServiceAccount(request, **admin).iam_token
    token = admin["metadata"][0][1].removeprefix("Bearer ")
    tokens.Revoke(iam_token_service_pb2.RevokeIamTokenRequest(iam_token=token), **admin)
    found = [(each.subject_id, each.action, each.result) for each in log(store)]
    assert found == [
        ("cloud-editor", "iamtoken.create_for_service_account", "PERMISSION_DENIED"),
        ("cloud-admin", "iamtoken.create_for_service_account", "OK"),
        ("cloud-admin", "token.revoke", "OK"),
    ]
    assert token not in str(log(store)) and other not in str(log(store))


def test_a_cancel_is_recorded_by_who_asked_for_it(store: SqliteStore) -> None:
    desk = Operations(store, {"image.create": ImageCreateEnding()}, lambda _id, secret: secret)
    alice = Asking("alice", subject_type="userAccount", origin={"request_id": "one"})
    image = CreateImage("folder", UriSource("https://host/bucket/key?secret"))
    operation = desk.begin(image, alice)
    bob = Asking("bob", subject_type="userAccount", origin={"request_id": "two"})
    desk.cancel(operation.id, bob)
    desk.cancel(operation.id, bob)
    begun, cancelled = log(store)
    assert (begun.subject_id, begun.result, begun.request_id) == ("alice", "STARTED", "one")
    assert (cancelled.subject_id, cancelled.action) == ("bob", "operation.cancel")
    assert (cancelled.operation_id, cancelled.resource_id) == (operation.id, begun.resource_id)
    assert cancelled.request_id == "two"
    assert "secret" not in str(log(store))


def test_refused_attempts_do_not_fill_the_database(store: SqliteStore) -> None:
    now = 0.0
    denials = Denials(store, lambda: 1, lambda: now)
    call: Any = type("Call", (), {"identity": Subject("userAccount", "eve"), "request_id": "r"})
    method = Method("/yandex.cloud.compute.v1.DiskService/Delete")
    for _ in range(int(AT_ONCE) + 50):
        denials.record(call, method, errors.permission_denied("disk", "d"))
    assert len(store.list_audit((0, ""), 1000)) == AT_ONCE
    now = 0.5
    for _ in range(50):
        denials.record(call, method, errors.permission_denied("disk", "d"))
    assert len(store.list_audit((0, ""), 1000)) == AT_ONCE + 5


@pytest.mark.parametrize(
    ("method", "action"),
    [
        ("compute.v1.ImageService/Create", "image.create"),
        ("compute.v1.DiskService/SetAccessBindings", "disk.set_bindings"),
        ("compute.v1.SnapshotService/UpdateAccessBindings", "snapshot.update_bindings"),
        ("operation.OperationService/Cancel", "operation.cancel"),
    ],
)
def test_an_attempt_has_the_name_of_what_it_would_have_begun(method: str, action: str) -> None:
    assert action_of(Method(f"/yandex.cloud.{method}")) == action


def test_the_command_lists_what_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = SqliteStore(tmp_path / "metadata.sqlite")
    store.migrate()
    for at_us, subject_id in ((1_000_000, "alice"), (2_000_000, "bob")):
        entry = AuditEntry(
            at_us,
            "userAccount",
            subject_id,
            "image.delete",
            "OK",
            resource_id="fd8",
            request_id="r",
        )
        store.write(lambda tx, entry=entry: tx.record(entry))  # type: ignore[misc]
    store.close()

    def shown(*arguments: str) -> list[str]:
        assert main(["audit", "--data-dir", str(tmp_path), *arguments]) == 0
        return capsys.readouterr().out.splitlines()

    first, second = shown()
    assert first == "1970-01-01T00:00:01.000000Z  userAccount:alice  image.delete  fd8  OK  r"
    assert shown("--subject", "bob") == [second]
    assert shown("--resource", "other") == []
    assert shown("--since", "1970-01-01T00:00:02Z") == [second]
    assert shown("--since", "24h") == []
    (line,) = shown("--subject", "alice", "--json")
    assert json.loads(line)["request_id"] == "r"
    assert json.loads(line)["time"] == "1970-01-01T00:00:01.000000Z"
    for wrong in ("yesterday", "2026-01-01"):
        with pytest.raises(SystemExit):
            main(["audit", "--since", wrong])
