"""Which right each method needs, and on what: one table, complete or the server does not start."""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

STANDARD_IMAGES = "standard-images"
"""The folder of public images (cloud docs): whoever is known at all may use what is in it."""


class Place(enum.Enum):
    """Where a right must be held; a right on a folder or the cloud holds for what is in it."""

    CLOUD = "cloud"
    FOLDER = "folder"
    ANYWHERE = "anywhere"
    """On the cloud or on any folder."""
    FAMILY = "family"
    """On the folder, or on the image that is the latest of the family."""
    IMAGE = "image"
    DISK = "disk"
    SNAPSHOT = "snapshot"
    OPERATION = "operation"
    """On the resource that the operation is about; its creator needs no right."""


@dataclass(frozen=True)
class Need:
    """One right, on the place whose id stands in a field of the request."""

    permission: str
    place: Place
    field: str = ""
    source: bool = False
    """For what is only read to make something else: it may be left out, and miss."""


@dataclass(frozen=True)
class Rule:
    """What a caller needs for a method: every one of the needs."""

    needs: tuple[Need, ...] = ()
    public: bool = False


PUBLIC = Rule(public=True)
"""For methods that tell nothing about anybody's resources: no identity and no right is asked for,
and no limit on concurrent calls holds, so that they answer when nothing else does."""

AUTHENTICATED = Rule()
"""For methods that anybody may call who is known."""


def _on(place: Place, permission: str, field: str, *more: Need) -> Rule:
    return Rule((Need(permission, place, field), *more))


def _use(place: Place, plural: str) -> Need:
    return Need(f"compute.{plural}.use", place, f"{place.value}_id", source=True)


def _of(place: Place, plural: str, *sources: Need) -> dict[str, Rule]:
    """The methods that images, disks and snapshots have alike."""
    service = f"/yandex.cloud.compute.v1.{place.value.capitalize()}Service"
    right, own_id = f"compute.{plural}", f"{place.value}_id"
    folder = Place.FOLDER
    return {
        f"{service}/Get": _on(place, f"{right}.get", own_id),
        f"{service}/List": _on(folder, f"{right}.list", "folder_id"),
        f"{service}/Create": _on(folder, f"{right}.create", "folder_id", *sources),
        f"{service}/Update": _on(place, f"{right}.update", own_id),
        f"{service}/Delete": _on(place, f"{right}.delete", own_id),
        f"{service}/ListOperations": _on(place, f"{right}.get", own_id),
        **{
            f"{service}/{verb[0].upper()}{verb[1:]}": _on(place, f"{right}.{verb}", "resource_id")
            for verb in ("listAccessBindings", "setAccessBindings", "updateAccessBindings")
        },
    }


def _manager(place: Place, plural: str, parent: Rule) -> dict[str, Rule]:
    """The methods of clouds and folders, most of which are not offered here."""
    service = f"/yandex.cloud.resourcemanager.v1.{place.value.capitalize()}Service"
    right, own_id = f"resource-manager.{plural}", f"{place.value}_id"
    own = {"Get": "get", "Update": "update", "Delete": "delete", "ListOperations": "get"}
    bound = (
        *("ListAccessBindings", "SetAccessBindings", "UpdateAccessBindings"),
        *("ListAccessPolicyBindings", "BindAccessPolicy", "UnbindAccessPolicy"),
        "UpdateAccessPolicyBindingParameters",
    )
    return {
        f"{service}/List": Rule((Need(f"{right}.get", Place.ANYWHERE),)),
        f"{service}/Create": parent,
        **{f"{service}/{name}": _on(place, f"{right}.{own[name]}", own_id) for name in own},
        **{
            f"{service}/{name}": _on(place, f"{right}.{name[0].lower()}{name[1:]}", "resource_id")
            for name in bound
        },
    }


_CREATE_FOLDER = _on(Place.CLOUD, "resource-manager.folders.create", "cloud_id")
_CREATE_CLOUD = _on(Place.CLOUD, "resource-manager.clouds.create", "")

PERMISSIONS: dict[str, Rule] = {
    **_of(
        Place.IMAGE,
        "images",
        _use(Place.IMAGE, "images"),
        _use(Place.DISK, "disks"),
        _use(Place.SNAPSHOT, "snapshots"),
    ),
    "/yandex.cloud.compute.v1.ImageService/GetLatestByFamily": _on(
        Place.FAMILY, "compute.images.get", "folder_id"
    ),
    **_of(Place.DISK, "disks", _use(Place.IMAGE, "images"), _use(Place.SNAPSHOT, "snapshots")),
    "/yandex.cloud.compute.v1.DiskService/Move": _on(
        *(Place.DISK, "compute.disks.move", "disk_id"),
        Need("compute.disks.create", Place.FOLDER, "destination_folder_id"),
    ),
    "/yandex.cloud.compute.v1.DiskService/Relocate": _on(
        Place.DISK, "compute.disks.relocate", "disk_id"
    ),
    "/yandex.cloud.compute.v1.DiskService/ListSnapshotSchedules": _on(
        Place.DISK, "compute.disks.get", "disk_id"
    ),
    **_of(Place.SNAPSHOT, "snapshots", _use(Place.DISK, "disks")),
    "/yandex.cloud.compute.v1.ZoneService/Get": AUTHENTICATED,
    "/yandex.cloud.compute.v1.ZoneService/List": AUTHENTICATED,
    "/yandex.cloud.compute.v1.DiskTypeService/Get": AUTHENTICATED,
    "/yandex.cloud.compute.v1.DiskTypeService/List": AUTHENTICATED,
    # The verb of the right that is needed on what the operation is about.
    "/yandex.cloud.operation.OperationService/Get": _on(Place.OPERATION, "get", "operation_id"),
    "/yandex.cloud.operation.OperationService/Cancel": _on(
        Place.OPERATION, "update", "operation_id"
    ),
    "/yandex.cloud.endpoint.ApiEndpointService/Get": PUBLIC,
    "/yandex.cloud.endpoint.ApiEndpointService/List": PUBLIC,
    "/yandex.cloud.iam.v1.IamTokenService/Create": PUBLIC,
    "/yandex.cloud.iam.v1.IamTokenService/CreateForServiceAccount": _on(
        Place.CLOUD, "iam.serviceAccounts.createToken", ""
    ),
    # Whoever has a token could act as its subject anyway.
    "/yandex.cloud.iam.v1.IamTokenService/Revoke": AUTHENTICATED,
    **_manager(Place.CLOUD, "clouds", _CREATE_CLOUD),
    **_manager(Place.FOLDER, "folders", _CREATE_FOLDER),
    # Whoever has a right on a folder finds the way to it.
    "/yandex.cloud.resourcemanager.v1.CloudService/Get": Rule(
        (Need("resource-manager.clouds.get", Place.ANYWHERE),)
    ),
    "/grpc.health.v1.Health/Check": PUBLIC,
    "/grpc.health.v1.Health/Watch": PUBLIC,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": PUBLIC,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": PUBLIC,
}


class PermissionTableError(ValueError):
    """The table and the methods that are served do not match: nothing may be served."""


def check_table(served: Iterable[str], table: Mapping[str, object]) -> None:
    """Raise `PermissionTableError` unless the table has exactly the served methods."""
    methods = set(served)
    missing = sorted(methods - table.keys())
    superfluous = sorted(table.keys() - methods)
    problems = []
    if missing:
        problems.append(f"no permission is named for {', '.join(missing)}")
    if superfluous:
        problems.append(f"no such method is served: {', '.join(superfluous)}")
    if problems:
        raise PermissionTableError("; ".join(problems))
