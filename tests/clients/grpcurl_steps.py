"""One call of every method that is served, as a person would make them with grpcurl.

The calls stand in an order in which each finds what it needs: a step keeps values of its answer
under names, and `$name` in a later step stands for the value.
"""

from dataclasses import dataclass, field
from typing import Any

HOME = "home"
SMALLEST = str(4 << 20)
DOCUMENTED_ZONES = ("ru-central1-a", "ru-central1-b", "ru-central1-d")

TYPES = "type.googleapis.com"

ANY: Any = object()
"""In an expected answer: whatever is there, but something is."""


@dataclass(frozen=True)
class Step:
    """A call. `answer` holds the fields that the reply must have at least; lists are whole."""

    method: str
    request: dict[str, Any]
    answer: dict[str, Any]
    keep: dict[str, str] = field(default_factory=dict)
    """Names, and the dotted path in the answer of what they shall stand for."""
    refused: str = ""
    """The code of the status that is answered instead."""


def step(method: str, request: dict[str, Any], answer: dict[str, Any], **keep: str) -> Step:
    """A call that is answered."""
    return Step(method, request, answer, keep)


def not_offered(method: str, request: dict[str, Any]) -> Step:
    """A call that is answered with UNIMPLEMENTED, as the .proto file says."""
    return Step(method, request, {}, refused="Unimplemented")


def mask(*paths: str) -> dict[str, Any]:
    """An update mask. This grpcurl takes it as the message that it is, not as JSON's one text."""
    return {"updateMask": {"paths": list(paths)}}


def _ended(description: str, **response: Any) -> dict[str, Any]:
    """An operation that is done in the first reply, and its response's fields."""
    return {"id": ANY, "description": description, "done": True, "response": response}


def _bindings(service: str, resource: str) -> list[Step]:
    subject = {"id": "allAuthenticatedUsers", "type": "system"}
    binding = {"roleId": "viewer", "subject": subject}
    added = {"roleId": "editor", "subject": subject}
    delta = {"action": "ADD", "accessBinding": added}
    here = {"resourceId": resource}
    return [
        step(
            f"{service}/SetAccessBindings",
            {**here, "accessBindings": [binding]},
            {
                "done": True,
                "response": {
                    "@type": f"{TYPES}/yandex.cloud.access.AccessBindingsOperationResult",
                    "effectiveDeltas": [{"action": "ADD", "accessBinding": binding}],
                },
            },
        ),
        step(
            f"{service}/UpdateAccessBindings",
            {**here, "accessBindingDeltas": [delta]},
            {"done": True, "response": {"effectiveDeltas": [delta]}},
        ),
        step(f"{service}/ListAccessBindings", here, {"accessBindings": [added, binding]}),
    ]


def _places() -> list[Step]:
    compute = "yandex.cloud.compute.v1"
    zones = [{"id": each, "regionId": "ru-central1", "status": "UP"} for each in DOCUMENTED_ZONES]
    return [
        step(f"{compute}.ZoneService/List", {}, {"zones": zones}),
        step(f"{compute}.ZoneService/Get", {"zoneId": DOCUMENTED_ZONES[1]}, zones[1]),
        step(f"{compute}.DiskTypeService/List", {"pageSize": 1}, {"diskTypes": [{"id": ANY}]}),
        step(
            f"{compute}.DiskTypeService/Get",
            {"diskTypeId": "network-ssd"},
            {
                "id": "network-ssd",
                "description": "Network storage with SSD backend",
                "zoneIds": list(DOCUMENTED_ZONES),
            },
        ),
    ]


def _disks() -> list[Step]:
    service = "yandex.cloud.compute.v1.DiskService"
    disk = {"diskId": "$disk"}
    return [
        step(
            f"{service}/Create",
            {"folderId": HOME, "name": "disk", "zoneId": DOCUMENTED_ZONES[0], "size": SMALLEST},
            _ended("Create disk", name="disk", status="READY", size=SMALLEST),
            disk="metadata.diskId",
        ),
        step(
            f"{service}/Update",
            {**disk, **mask("size"), "size": str(8 << 20)},
            _ended("Update disk", id="$disk", name="disk", size=str(8 << 20)),
        ),
        step(
            f"{service}/Relocate",
            {**disk, "destinationZoneId": DOCUMENTED_ZONES[2]},
            _ended("Relocate disk", zoneId=DOCUMENTED_ZONES[2]),
        ),
        step(
            f"{service}/Move",
            {**disk, "destinationFolderId": "elsewhere"},
            _ended("Move disk", folderId="elsewhere"),
        ),
        step(
            f"{service}/Get",
            disk,
            {"id": "$disk", "folderId": "elsewhere", "zoneId": DOCUMENTED_ZONES[2]},
        ),
        step(f"{service}/List", {"folderId": "elsewhere"}, {"disks": [{"id": "$disk"}]}),
        step(f"{service}/ListSnapshotSchedules", disk, {}),
        *_bindings(service, "$disk"),
        step(
            f"{service}/ListOperations",
            disk,
            {
                "operations": [
                    {"description": "Create disk"},
                    {"description": "Update disk"},
                    {"description": "Relocate disk"},
                    {"description": "Move disk"},
                    {"description": ANY, "metadata": {"resourceId": "$disk"}},
                    {"description": ANY, "metadata": {"resourceId": "$disk"}},
                ]
            },
        ),
    ]


def _derived(noun: str, create: dict[str, Any]) -> list[Step]:
    """The life of an image or a snapshot of the disk."""
    service, name = f"yandex.cloud.compute.v1.{noun.capitalize()}Service", f"a-{noun}"
    one, kept = {f"{noun}Id": f"${noun}"}, f"${noun}"
    return [
        step(
            f"{service}/Create",
            {"folderId": HOME, "name": name, "diskId": "$disk", **create},
            _ended(f"Create {noun}", name=name, status="READY"),
            **{noun: f"metadata.{noun}Id"},
        ),
        step(
            f"{service}/Update",
            {**one, **mask("description", "labels"), "labels": {"by": "grpcurl"}},
            _ended(f"Update {noun}", id=kept, name=name, labels={"by": "grpcurl"}),
        ),
        step(f"{service}/Get", one, {"id": kept, "name": name, "labels": {"by": "grpcurl"}}),
        step(
            f"{service}/List",
            {"folderId": HOME, "filter": f'name = "{name}"'},
            {f"{noun}s": [{"id": kept}]},
        ),
        *_bindings(service, kept),
        step(
            f"{service}/ListOperations",
            {**one, "pageSize": 1},
            {"operations": [{"description": f"Create {noun}"}], "nextPageToken": ANY},
        ),
    ]


def _deleted(noun: str) -> Step:
    return step(
        f"yandex.cloud.compute.v1.{noun.capitalize()}Service/Delete",
        {f"{noun}Id": f"${noun}"},
        {
            "description": f"Delete {noun}",
            "done": True,
            "metadata": {f"{noun}Id": f"${noun}"},
            "response": {"@type": f"{TYPES}/google.protobuf.Empty"},
        },
        ended="id",
    )


def _operations() -> list[Step]:
    service, source = "yandex.cloud.operation.OperationService", "http://127.0.0.1:9/disk.qcow2"
    return [
        step(
            f"{service}/Get",
            {"operationId": "$ended"},
            {"id": "$ended", "done": True, "description": "Delete disk"},
        ),
        step(
            "yandex.cloud.compute.v1.ImageService/Create",
            {"folderId": HOME, "uri": source},
            {"description": "Create image", "metadata": {"imageId": ANY}},
            waiting="id",
        ),
        step(
            f"{service}/Cancel",
            {"operationId": "$waiting"},
            {"id": "$waiting", "done": True, "error": {"code": 1}},
        ),
    ]


def _identities() -> list[Step]:
    service = "yandex.cloud.iam.v1.IamTokenService"
    token = {"iamToken": ANY, "expiresAt": ANY}
    return [
        step(f"{service}/Create", {"yandexPassportOauthToken": "y0_any"}, token, token="iamToken"),
        step(f"{service}/CreateForServiceAccount", {"serviceAccountId": "ajeaccount"}, token),
        not_offered(f"{service}/Revoke", {"iamToken": "$token"}),
    ]


def _found() -> list[Step]:
    """Endpoints, and the clouds and folders that clients look up."""
    endpoints = "yandex.cloud.endpoint.ApiEndpointService"
    manager = "yandex.cloud.resourcemanager.v1"
    return [
        step(f"{endpoints}/List", {}, {"endpoints": ANY}),
        step(
            f"{endpoints}/Get",
            {"apiEndpointId": "compute"},
            {"id": "compute", "address": "$address"},
        ),
        step(
            f"{manager}.CloudService/List",
            {},
            {"clouds": [{"id": ANY, "name": "darkroom"}]},
            cloud="clouds.0.id",
        ),
        step(f"{manager}.CloudService/Get", {"cloudId": "$cloud"}, {"name": "darkroom"}),
        step(
            f"{manager}.FolderService/List",
            {"cloudId": "$cloud"},
            {"folders": [{"id": ANY, "name": "default", "status": "ACTIVE"}]},
            folder="folders.0.id",
        ),
        step(
            f"{manager}.FolderService/Get",
            {"folderId": "$folder"},
            {"id": "$folder", "cloudId": "$cloud", "name": "default"},
        ),
        *_managed(f"{manager}.CloudService", "cloud", {"organizationId": "o", "name": "new"}),
        *_managed(f"{manager}.FolderService", "folder", {"cloudId": "$cloud", "name": "new"}),
    ]


def _managed(service: str, noun: str, create: dict[str, Any]) -> list[Step]:
    """What is not offered of clouds and folders."""
    one, kept = {f"{noun}Id": f"${noun}"}, f"${noun}"
    binding = {"roleId": "viewer", "subject": {"id": "someone", "type": "userAccount"}}
    policy = {"accessPolicyBinding": {"accessPolicyTemplateId": "template"}}
    here = {"resourceId": kept}
    requests = {
        "Create": create,
        "Update": {**one, **mask("description")},
        "Delete": one,
        "ListOperations": one,
        "ListAccessBindings": here,
        "SetAccessBindings": {**here, "accessBindings": [binding]},
        "UpdateAccessBindings": {
            **here,
            "accessBindingDeltas": [{"action": "ADD", "accessBinding": binding}],
        },
        "ListAccessPolicyBindings": here,
        "BindAccessPolicy": {**here, **policy},
        "UnbindAccessPolicy": {**here, "accessPolicyTemplateId": "template"},
        "UpdateAccessPolicyBindingParameters": {**here, **policy},
    }
    return [not_offered(f"{service}/{method}", sent) for method, sent in requests.items()]


def _infrastructure() -> list[Step]:
    asked = {"fileContainingSymbol": "yandex.cloud.compute.v1.ImageService"}
    described = {"file_descriptor_response": {"file_descriptor_proto": ANY}}
    return [
        step("grpc.health.v1.Health/Check", {}, {"status": "SERVING"}),
        step("grpc.health.v1.Health/Watch", {}, {"status": "SERVING"}),
        *(
            step(
                f"grpc.reflection.{version}.ServerReflection/ServerReflectionInfo", asked, described
            )
            for version in ("v1", "v1alpha")
        ),
    ]


STEPS: list[Step] = [
    *_infrastructure(),
    *_places(),
    *_found(),
    *_identities(),
    *_disks(),
    *_derived("image", {"family": "grpcurl"}),
    step(
        "yandex.cloud.compute.v1.ImageService/GetLatestByFamily",
        {"folderId": HOME, "family": "grpcurl"},
        {"id": "$image", "family": "grpcurl"},
    ),
    *_derived("snapshot", {}),
    *map(_deleted, ("snapshot", "image", "disk")),
    *_operations(),
]
