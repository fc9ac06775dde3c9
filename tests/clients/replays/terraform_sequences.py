"""What Terraform's provider calls for its resources and data sources."""

import re
from collections.abc import Mapping
from typing import Any

from clients.replays.callers import (
    FIRST_PAGE,
    SIGN_IN,
    TERRAFORM_FRAMEWORK,
    TERRAFORM_SDKV2,
    WHOLE_LIST,
)
from clients.replays.steps import Await, Begin, Call, Idle, Part, Sequence, Step

GIB = 1 << 30
_ZONE = "ru-central1-a"


def _run(*steps: Step) -> tuple[Part, ...]:
    """A run of the older half. Both halves are configured on every run, whichever has the resource.

    The newer one asks for endpoints at once and for a token; the older one when it first calls.
    """
    return (
        Part(TERRAFORM_FRAMEWORK, (WHOLE_LIST, SIGN_IN)),
        Part(TERRAFORM_SDKV2, (FIRST_PAGE, SIGN_IN, *steps)),
    )


def _read(kind: str, **sees: Any) -> Call:
    """The read that ends every create and update, and begins every plan."""
    expected = {name.replace("__", "."): value for name, value in sees.items()}
    return Call(f"compute.v1.{kind}Service/Get", {f"{kind.lower()}_id": "$id"}, sees=expected)


def _updates(kind: str, changes: Mapping[str, Any]) -> tuple[Step, ...]:
    """One call for each changed field, each with a mask of that field and waited for."""
    steps: list[Step] = []
    for path, value in changes.items():
        outer, _, inner = path.partition(".")
        steps.append(
            Begin(
                f"compute.v1.{kind}Service/Update",
                {
                    f"{kind.lower()}_id": "$id",
                    outer: {inner: value} if inner else value,
                    # As JSON has it, which is what requests are written in here.
                    "update_mask": _camel(path),
                },
                metadata=f"compute.v1.Update{kind}Metadata",
                response=f"compute.v1.{kind}",
                sees={f"response.{path}": value},
            )
        )
    return tuple(steps)


def _camel(path: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), path)


def _destroyed(kind: str) -> tuple[Step, ...]:
    return (
        Begin(
            f"compute.v1.{kind}Service/Delete",
            {f"{kind.lower()}_id": "$id"},
            metadata=f"compute.v1.Delete{kind}Metadata",
        ),
        # The next plan reads what is in the state: this code alone takes it out.
        _gone(kind),
    )


def _gone(kind: str) -> Call:
    return Call(
        f"compute.v1.{kind}Service/Get",
        {f"{kind.lower()}_id": "$id"},
        fails="NOT_FOUND",
        says=f'^{kind} ".*" not found$',
    )


# --- images ---------------------------------------------------------------------------------------

_IMAGE_FIELDS = {
    "folder_id": "$folder",
    "name": "web",
    "description": "Made by Terraform",
    "labels": {"team": "base"},
    "family": "web",
    # Always sent, with no type in it unless the configuration has one.
    "os": {},
}

IMAGE = Sequence(
    "yandex_compute_image from a URL: create, read, update, delete",
    _run(
        Begin(
            "compute.v1.ImageService/Create",
            {**_IMAGE_FIELDS, "min_disk_size": GIB, "uri": "$url"},
            metadata="compute.v1.CreateImageMetadata",
            response="compute.v1.Image",
            keeps={"id": "metadata.image_id"},
        ),
        _read(
            "Image",
            folder_id="$folder",
            name="web",
            description="Made by Terraform",
            labels={"team": "base"},
            family="web",
            status="READY",
            min_disk_size=GIB,
            pooled=False,
            os__type="LINUX",
            product_ids=[],
            hardware_generation__legacy_features__pci_topology="PCI_TOPOLOGY_V1",
            storage_size=re.compile("[1-9][0-9]*"),
        ),
        *_updates(
            "Image",
            {
                "labels": {"team": "base", "stage": "prod"},
                "name": "web-2",
                "description": "Changed",
                "min_disk_size": 2 * GIB,
            },
        ),
        _read("Image", name="web-2", description="Changed", min_disk_size=2 * GIB, family="web"),
        *_destroyed("Image"),
    ),
)

IMAGE_OF_FAMILY = Sequence(
    "yandex_compute_image from a family of the standard images",
    _run(
        Call(
            "compute.v1.ImageService/GetLatestByFamily",
            {"folder_id": "standard-images", "family": "ubuntu-2204-lts"},
            keeps={"source": "id"},
            sees={"os.type": "LINUX"},
        ),
        Begin(
            "compute.v1.ImageService/Create",
            {**_IMAGE_FIELDS, "pooled": True, "image_id": "$source"},
            metadata="compute.v1.CreateImageMetadata",
            response="compute.v1.Image",
            keeps={"id": "metadata.image_id"},
        ),
        _read("Image", status="READY", pooled=True, os__type="LINUX", family="web"),
        *_destroyed("Image"),
    ),
)

IMAGE_OF_ENCRYPTED_DISK = Sequence(
    "yandex_compute_image of an encrypted disk, whose key it shows",
    _run(
        Begin(
            "compute.v1.DiskService/Create",
            {
                "folder_id": "$folder",
                "type_id": "network-hdd",
                "zone_id": _ZONE,
                "size": 8 * GIB,
                "block_size": 4096,
                "kms_key_id": "abjkey00000000000000",
            },
            metadata="compute.v1.CreateDiskMetadata",
            response="compute.v1.Disk",
            keeps={"disk": "metadata.disk_id"},
        ),
        Begin(
            "compute.v1.ImageService/Create",
            {**_IMAGE_FIELDS, "disk_id": "$disk"},
            metadata="compute.v1.CreateImageMetadata",
            response="compute.v1.Image",
            keeps={"id": "metadata.image_id"},
        ),
        _read("Image", status="READY", kms_key__key_id="abjkey00000000000000"),
        *_destroyed("Image"),
    ),
)

IMAGE_DATA = Sequence(
    "data.yandex_compute_image by family, by name and by id",
    _run(
        Call(
            "compute.v1.ImageService/GetLatestByFamily",
            {"folder_id": "standard-images", "family": "debian-12"},
            keeps={"id": "id", "name": "name"},
            sees={"folder_id": "standard-images"},
        ),
        Call(
            "compute.v1.ImageService/List",
            {"folder_id": "standard-images", "filter": 'name = "$name"', "page_size": 100},
            sees={"images.0.id": "$id"},
        ),
        _read("Image", name="$name", os__type="LINUX"),
        Call(
            "compute.v1.ImageService/GetLatestByFamily",
            {"folder_id": "standard-images", "family": "no-such-family"},
            fails="NOT_FOUND",
            says='^Image "no-such-family" not found$',
        ),
    ),
)

BUSY_IMAGE = Sequence(
    "destroying an image that is still being made",
    _run(
        Begin(
            "compute.v1.ImageService/Create",
            {**_IMAGE_FIELDS, "uri": "$url"},
            metadata="compute.v1.CreateImageMetadata",
            response="compute.v1.Image",
            keeps={"id": "metadata.image_id", "begun": "id"},
            waits=False,
        ),
        Call(
            "compute.v1.ImageService/Delete",
            {"image_id": "$id"},
            fails="FAILED_PRECONDITION",
            # The provider's own pattern: what it finds there it waits for.
            says='conflicting operation "(?P<in_the_way>.+)" detected',
        ),
    ),
)

IMAGE_NO_LONGER_BUSY = Sequence(
    "and destroying it once more, after waiting for the operation that was in the way",
    _run(Await("$in_the_way"), *_destroyed("Image")),
)

# --- disks and snapshots --------------------------------------------------------------------------

DISK = Sequence(
    "yandex_compute_disk: create, read, update, move to another folder, delete",
    _run(
        Begin(
            "compute.v1.DiskService/Create",
            {
                "folder_id": "$folder",
                "name": "data",
                "description": "Made by Terraform",
                "labels": {"team": "base"},
                "type_id": "network-hdd",
                "zone_id": _ZONE,
                "size": 150 * GIB,
                "block_size": 4096,
            },
            metadata="compute.v1.CreateDiskMetadata",
            response="compute.v1.Disk",
            keeps={"id": "metadata.disk_id"},
        ),
        _read(
            "Disk",
            name="data",
            status="READY",
            zone_id=_ZONE,
            type_id="network-hdd",
            size=150 * GIB,
            block_size=4096,
            disk_placement_policy__placement_group_id="",
            product_ids=[],
            instance_ids=[],
        ),
        *_updates(
            "Disk",
            {
                "labels": {"team": "other"},
                "name": "data-2",
                "description": "Changed",
                "disk_placement_policy.placement_group_id": "group",
                "size": 151 * GIB,
            },
        ),
        Begin(
            "compute.v1.DiskService/Move",
            {"disk_id": "$id", "destination_folder_id": "$other_folder"},
            metadata="compute.v1.MoveDiskMetadata",
            response="compute.v1.Disk",
            sees={"metadata.destination_folder_id": "$other_folder"},
        ),
        _read("Disk", folder_id="$other_folder", name="data-2", size=151 * GIB),
        # What is attached would be detached first; nothing ever is, here.
        _read("Disk", instance_ids=[]),
        *_destroyed("Disk"),
    ),
)

DISK_OF_IMAGE = Sequence(
    "yandex_compute_disk of an image, and the same disk as a data source",
    _run(
        Call(
            "compute.v1.ImageService/GetLatestByFamily",
            {"folder_id": "standard-images", "family": "ubuntu-2204-lts"},
            keeps={"source": "id"},
        ),
        Begin(
            "compute.v1.DiskService/Create",
            {
                "folder_id": "$folder",
                "name": "boot",
                "type_id": "network-ssd",
                "zone_id": _ZONE,
                "size": 10 * GIB,
                "block_size": 4096,
                "disk_placement_policy": {"placement_group_id": "group"},
                "image_id": "$source",
            },
            metadata="compute.v1.CreateDiskMetadata",
            response="compute.v1.Disk",
            keeps={"id": "metadata.disk_id"},
        ),
        _read("Disk", source_image_id="$source", type_id="network-ssd"),
        Call(
            "compute.v1.DiskService/List",
            {"folder_id": "$folder", "filter": 'name = "boot"', "page_size": 100},
            sees={"disks.0.id": "$id"},
        ),
        _read("Disk", disk_placement_policy__placement_group_id="group"),
        *_destroyed("Disk"),
    ),
)

SNAPSHOT = Sequence(
    "yandex_compute_snapshot: create, read, update, data source, delete",
    _run(
        Begin(
            "compute.v1.DiskService/Create",
            {"folder_id": "$folder", "type_id": "network-hdd", "zone_id": _ZONE, "size": 8 * GIB},
            metadata="compute.v1.CreateDiskMetadata",
            response="compute.v1.Disk",
            keeps={"disk": "metadata.disk_id"},
        ),
        Begin(
            "compute.v1.SnapshotService/Create",
            {
                "folder_id": "$folder",
                "disk_id": "$disk",
                "name": "nightly",
                "labels": {"team": "base"},
            },
            metadata="compute.v1.CreateSnapshotMetadata",
            response="compute.v1.Snapshot",
            keeps={"id": "metadata.snapshot_id"},
            sees={"metadata.disk_id": "$disk"},
        ),
        _read(
            "Snapshot",
            name="nightly",
            status="READY",
            source_disk_id="$disk",
            disk_size=8 * GIB,
            product_ids=[],
        ),
        *_updates("Snapshot", {"labels": {}, "name": "nightly-2", "description": "Changed"}),
        Call(
            "compute.v1.SnapshotService/List",
            {"folder_id": "$folder", "filter": 'name = "nightly-2"', "page_size": 100},
            sees={"snapshots.0.id": "$id"},
        ),
        _read("Snapshot", name="nightly-2"),
        *_destroyed("Snapshot"),
    ),
)

# --- access bindings ------------------------------------------------------------------------------

_USERS = {"id": "group:organization:bpf0000000000000000a:users", "type": "system"}
_ROLE = "compute.images.user"


def _bindings(*subjects: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"role_id": _ROLE, "subject": dict(subject)} for subject in subjects]


def _listed(**sees: Any) -> Call:
    return Call(
        "compute.v1.ImageService/ListAccessBindings",
        {"resource_id": "$id", "page_size": 1000},
        sees={
            "next_page_token": "",
            **{name.replace("__", "."): value for name, value in sees.items()},
        },
    )


def _set(bindings: list[dict[str, Any]], **sees: Any) -> Begin:
    return Begin(
        "compute.v1.ImageService/SetAccessBindings",
        {"resource_id": "$id", "access_bindings": bindings},
        metadata="access.SetAccessBindingsMetadata",
        response="access.AccessBindingsOperationResult",
        sees={
            "metadata.resource_id": "$id",
            **{name.replace("__", "."): value for name, value in sees.items()},
        },
    )


BINDINGS = Sequence(
    "yandex_compute_image_iam_binding: plan, create, change, delete, through the newer half",
    (
        Part(
            TERRAFORM_SDKV2,
            (
                FIRST_PAGE,
                SIGN_IN,
                Call(
                    "compute.v1.ImageService/GetLatestByFamily",
                    {"folder_id": "standard-images", "family": "ubuntu-2204-lts"},
                    keeps={"source": "id"},
                ),
                Begin(
                    "compute.v1.ImageService/Create",
                    {**_IMAGE_FIELDS, "image_id": "$source"},
                    metadata="compute.v1.CreateImageMetadata",
                    response="compute.v1.Image",
                    keeps={"id": "metadata.image_id"},
                ),
            ),
        ),
        Part(
            TERRAFORM_FRAMEWORK,
            (
                WHOLE_LIST,
                SIGN_IN,
                _listed(access_bindings=[]),
                Idle(),
                _listed(access_bindings=[]),
                _set(
                    _bindings(_USERS, {"id": "ajeaccount0000000000", "type": "serviceAccount"}),
                    response__effective_deltas__1__action="ADD",
                ),
                _listed(access_bindings__1__subject__id=_USERS["id"]),
                # What _iam_member resources of other services do.
                Begin(
                    "compute.v1.ImageService/UpdateAccessBindings",
                    {
                        "resource_id": "$id",
                        "access_binding_deltas": [
                            {"action": "REMOVE", "access_binding": each}
                            for each in _bindings(_USERS)
                        ],
                    },
                    metadata="access.UpdateAccessBindingsMetadata",
                    response="access.AccessBindingsOperationResult",
                    sees={
                        "metadata.resource_id": "$id",
                        "response.effective_deltas.0.access_binding.subject.id": _USERS["id"],
                    },
                ),
                _listed(access_bindings__0__subject__type="serviceAccount"),
                _set([], response__effective_deltas__0__action="REMOVE"),
                _listed(access_bindings=[]),
                Call(
                    "compute.v1.ImageService/SetAccessBindings",
                    {"resource_id": "fd8absent", "access_bindings": _bindings(_USERS)},
                    fails="NOT_FOUND",
                    says='^Image "fd8absent" not found$',
                ),
            ),
        ),
    ),
)
