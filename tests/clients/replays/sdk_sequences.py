"""What programs on the Go SDKs, yc and packer call."""

import re

from clients.replays.callers import (
    FIRST_PAGE,
    GO_SDK_V1,
    GO_SDK_V1_PLAINTEXT,
    GO_SDK_V2,
    PACKER,
    SIGN_IN,
    SIGN_IN_WITH_KEY,
    WHOLE_LIST,
    YC,
)
from clients.replays.steps import Begin, Call, Idle, Part, Sequence

IMAGE = "compute.v1.Image"

_LIFE = (
    Begin(
        "compute.v1.ImageService/Create",
        {"folder_id": "$folder", "name": "first", "family": "base", "uri": "$url"},
        metadata="compute.v1.CreateImageMetadata",
        response=IMAGE,
        keeps={"image": "metadata.image_id"},
        sees={"response.id": re.compile("fd8[a-z0-9]{17}"), "response.status": "READY"},
        repeated=True,
    ),
    # The SDK's resolver of names: a listing that it filters once more by itself.
    Call(
        "compute.v1.ImageService/List",
        {"folder_id": "$folder", "page_size": 100, "filter": 'name = "first"'},
        sees={"images.0.id": "$image", "images.0.name": "first", "next_page_token": ""},
    ),
    Call(
        "compute.v1.ImageService/GetLatestByFamily",
        {"folder_id": "$folder", "family": "base"},
        sees={"id": "$image"},
    ),
    Begin(
        "compute.v1.ImageService/Update",
        {"image_id": "$image", "description": "changed", "update_mask": "description"},
        metadata="compute.v1.UpdateImageMetadata",
        response=IMAGE,
        sees={"metadata.image_id": "$image", "response.description": "changed"},
    ),
    Begin(
        "compute.v1.ImageService/Delete",
        {"image_id": "$image"},
        metadata="compute.v1.DeleteImageMetadata",
        sees={"metadata.image_id": "$image"},
    ),
    Call(
        "compute.v1.ImageService/Get",
        {"image_id": "$image"},
        fails="NOT_FOUND",
        says='^Image "fd8[a-z0-9]{17}" not found$',
    ),
)

GO_SDK_V1_LIFE = Sequence(
    "version 1 of the Go SDK goes through the life of an image",
    (Part(GO_SDK_V1, (FIRST_PAGE, SIGN_IN_WITH_KEY, *_LIFE)),),
)

GO_SDK_V1_WITHOUT_TLS = Sequence(
    "version 1 of the Go SDK does the same in plaintext",
    (Part(GO_SDK_V1_PLAINTEXT, (FIRST_PAGE, SIGN_IN, *_LIFE)),),
)

GO_SDK_V2_LIFE = Sequence(
    "version 2 of the Go SDK goes through the life of an image, pinging in between",
    (Part(GO_SDK_V2, (WHOLE_LIST, SIGN_IN_WITH_KEY, Idle(), *_LIFE, Idle())),),
)

GO_SDK_ERRORS = Sequence(
    "both versions of the Go SDK read why a call or an operation failed",
    tuple(
        Part(
            caller,
            (
                discovers,
                SIGN_IN,
                Begin(
                    "compute.v1.ImageService/Create",
                    {"folder_id": "$folder", "uri": "$missing_url"},
                    metadata="compute.v1.CreateImageMetadata",
                    response=IMAGE,
                    ends="FAILED_PRECONDITION",
                ),
                Call(
                    "compute.v1.ImageService/Create",
                    {"folder_id": "$folder", "name": "Bad Name", "uri": "$url"},
                    fails="INVALID_ARGUMENT",
                    says="^Request validation error: name: ",
                ),
                Call(
                    "compute.v1.ImageService/GetLatestByFamily",
                    {"folder_id": "$folder", "family": "nothing"},
                    fails="NOT_FOUND",
                    says='^Image "nothing" not found$',
                ),
                Call(
                    "operation.OperationService/Get",
                    {"operation_id": "fd8absent"},
                    fails="NOT_FOUND",
                ),
            ),
        )
        for caller, discovers in ((GO_SDK_V1, FIRST_PAGE), (GO_SDK_V2, WHOLE_LIST))
    ),
)

# --- yc -------------------------------------------------------------------------------------------

_BY_NAME = Call(
    "compute.v1.ImageService/List",
    {"folder_id": "$folder", "page_size": 100, "filter": 'name = "from-yc"'},
    sees={"images.0.id": "$image", "next_page_token": ""},
)

_SHOWN = Call(
    "compute.v1.ImageService/Get",
    {"image_id": "$image"},
    sees={"name": "from-yc", "os.type": "LINUX", "status": "READY"},
)


def _relabelled(labels: dict[str, str]) -> Begin:
    return Begin(
        "compute.v1.ImageService/Update",
        {"image_id": "$image", "labels": labels, "update_mask": "labels"},
        metadata="compute.v1.UpdateImageMetadata",
        response=IMAGE,
        sees={"response.labels": labels},
    )


_EVERYBODY = {
    "role_id": "compute.images.user",
    "subject": {"id": "allAuthenticatedUsers", "type": "system"},
}


def _bound(action: str) -> Begin:
    return Begin(
        "compute.v1.ImageService/UpdateAccessBindings",
        {
            "resource_id": "$image",
            "access_binding_deltas": [{"action": action, "access_binding": _EVERYBODY}],
        },
        metadata="access.UpdateAccessBindingsMetadata",
        response="access.AccessBindingsOperationResult",
        sees={"metadata.resource_id": "$image", "response.effective_deltas.0.action": action},
    )


YC_SETUP = Sequence(
    "yc init looks up clouds, folders and zones",
    (
        Part(
            YC,
            (
                FIRST_PAGE,
                SIGN_IN,
                Call("resourcemanager.v1.CloudService/List", keeps={"cloud": "clouds.0.id"}),
                Call(
                    "resourcemanager.v1.FolderService/List",
                    {"cloud_id": "$cloud"},
                    keeps={"default": "folders.0.id"},
                    sees={"folders.0.status": "ACTIVE"},
                ),
                Call(
                    "resourcemanager.v1.FolderService/Get",
                    {"folder_id": "$default"},
                    sees={"cloud_id": "$cloud"},
                ),
                Call("compute.v1.ZoneService/List", sees={"zones.0.status": "UP"}),
            ),
        ),
    ),
)

YC_IMAGES = Sequence(
    "yc compute image: create, list, get, labels, access bindings, operations, delete",
    (
        Part(
            YC,
            (
                FIRST_PAGE,
                SIGN_IN,
                Begin(
                    "compute.v1.ImageService/Create",
                    {
                        "folder_id": "$folder",
                        "name": "from-yc",
                        "family": "base",
                        "os": {"type": "LINUX"},
                        "uri": "$url",
                    },
                    metadata="compute.v1.CreateImageMetadata",
                    response=IMAGE,
                    keeps={"image": "response.id"},
                ),
                Call(
                    "compute.v1.ImageService/List",
                    {"folder_id": "$folder", "page_size": 1000},
                    sees={"images.0.id": "$image"},
                ),
                _BY_NAME,
                _SHOWN,
                Call(
                    "compute.v1.ImageService/GetLatestByFamily",
                    {"folder_id": "$folder", "family": "base"},
                    sees={"id": "$image"},
                ),
                # add-labels and remove-labels read, change and write all of them.
                _SHOWN,
                _relabelled({"team": "base", "stage": "test"}),
                _SHOWN,
                _relabelled({"team": "base"}),
                _bound("ADD"),
                Call(
                    "compute.v1.ImageService/ListAccessBindings",
                    {"resource_id": "$image", "page_size": 1000},
                    sees={"access_bindings.0.subject.id": "allAuthenticatedUsers"},
                ),
                _bound("REMOVE"),
                Call(
                    "compute.v1.ImageService/ListOperations",
                    {"image_id": "$image", "page_size": 1000},
                    keeps={"operation": "operations.0.id"},
                    sees={"operations.0.description": "Create image"},
                ),
                Call(
                    "operation.OperationService/Get",
                    {"operation_id": "$operation"},
                    sees={"done": True, "response.id": "$image"},
                ),
                _BY_NAME,
                Begin(
                    "compute.v1.ImageService/Delete",
                    {"image_id": "$image"},
                    metadata="compute.v1.DeleteImageMetadata",
                ),
                Call(
                    "compute.v1.ImageService/Get",
                    {"image_id": "$image"},
                    fails="NOT_FOUND",
                    says="^Image ",
                ),
            ),
        ),
    ),
)

# --- packer ---------------------------------------------------------------------------------------

PACKER_BUILDER = Sequence(
    "packer's builder finds its source and makes an image of a disk; machines are not here",
    (
        Part(
            PACKER,
            (
                FIRST_PAGE,
                WHOLE_LIST,
                SIGN_IN,
                Call(
                    "compute.v1.ImageService/GetLatestByFamily",
                    {"folder_id": "standard-images", "family": "ubuntu-2404-lts"},
                    keeps={"source": "id"},
                ),
                # It would make a network, a subnet and a machine: those who build elsewhere start
                # from a disk.
                Call("vpc.v1.NetworkService/Create", fails="UNIMPLEMENTED"),
                Call("compute.v1.InstanceService/Create", fails="UNIMPLEMENTED"),
                Begin(
                    "compute.v1.DiskService/Create",
                    {
                        "folder_id": "$folder",
                        "type_id": "network-hdd",
                        "zone_id": "ru-central1-a",
                        "size": 10 << 30,
                        "image_id": "$source",
                    },
                    metadata="compute.v1.CreateDiskMetadata",
                    response="compute.v1.Disk",
                    keeps={"disk": "response.id"},
                ),
                Begin(
                    "compute.v1.ImageService/Create",
                    {
                        "folder_id": "$folder",
                        "name": "packed",
                        "description": "Made by packer",
                        "labels": {"team": "base"},
                        "family": "packed",
                        "min_disk_size": 10 << 30,
                        "product_ids": ["f2e00000000000000001"],
                        "disk_id": "$disk",
                    },
                    metadata="compute.v1.CreateImageMetadata",
                    response=IMAGE,
                    sees={
                        "response.status": "READY",
                        "response.family": "packed",
                        "response.min_disk_size": 10 << 30,
                        "response.product_ids": ["f2e00000000000000001"],
                        "response.os.type": "LINUX",
                    },
                    repeated=True,
                ),
                Begin(
                    "compute.v1.DiskService/Delete",
                    {"disk_id": "$disk"},
                    metadata="compute.v1.DeleteDiskMetadata",
                ),
            ),
        ),
    ),
)

PACKER_IMPORT = Sequence(
    "packer's yandex-import imports a URL, once it has a key of the object storage",
    (
        Part(
            PACKER,
            (
                FIRST_PAGE,
                WHOLE_LIST,
                SIGN_IN,
                # The plugin stops here: keys of an object storage are not this server's to give.
                Call(
                    "iam.v1.awscompatibility.AccessKeyService/Create",
                    fails="UNIMPLEMENTED",
                ),
                Call(
                    "endpoint.ApiEndpointService/Get",
                    {"api_endpoint_id": "storage"},
                    sees={"address": re.compile(r"\S+:\d+")},
                ),
                Begin(
                    "compute.v1.ImageService/Create",
                    {
                        "folder_id": "$folder",
                        "name": "imported",
                        "description": "Imported by packer",
                        "labels": {"team": "base"},
                        "family": "imported",
                        "uri": "$url",
                    },
                    metadata="compute.v1.CreateImageMetadata",
                    response=IMAGE,
                    keeps={"image": "metadata.image_id"},
                ),
                Call(
                    "compute.v1.ImageService/Get",
                    {"image_id": "$image"},
                    sees={"status": "READY", "family": "imported"},
                ),
                # A fault of the plugin: it sends GiB for bytes where a size is configured.
                Call(
                    "compute.v1.ImageService/Create",
                    {"folder_id": "$folder", "min_disk_size": 10, "image_id": "$image"},
                    fails="INVALID_ARGUMENT",
                    says="^Request validation error: min_disk_size: ",
                ),
            ),
        ),
    ),
)
