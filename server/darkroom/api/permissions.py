"""Which permission each method needs: one table, complete or the server does not start."""

from collections.abc import Iterable

PUBLIC = ""
"""For methods that tell nothing about anybody's resources: no identity and no right is asked for,
and no limit on concurrent calls holds, so that they answer when nothing else does."""


def _of(noun: str, plural: str) -> dict[str, str]:
    """The methods that images, disks and snapshots have alike."""
    service, right = f"/yandex.cloud.compute.v1.{noun}Service", f"compute.{plural}"
    return {
        f"{service}/Get": f"{right}.get",
        f"{service}/List": f"{right}.list",
        f"{service}/Create": f"{right}.create",
        f"{service}/Update": f"{right}.update",
        f"{service}/Delete": f"{right}.delete",
        f"{service}/ListOperations": f"{right}.get",
        f"{service}/ListAccessBindings": f"{right}.listAccessBindings",
        f"{service}/SetAccessBindings": f"{right}.setAccessBindings",
        f"{service}/UpdateAccessBindings": f"{right}.updateAccessBindings",
    }


def _manager(noun: str, plural: str) -> dict[str, str]:
    """The methods of clouds and folders, most of which are not offered here."""
    service, right = f"/yandex.cloud.resourcemanager.v1.{noun}Service", f"resource-manager.{plural}"
    methods = {
        "Get": "get",
        "List": "list",
        "Create": "create",
        "Update": "update",
        "Delete": "delete",
        "ListOperations": "get",
        "ListAccessBindings": "listAccessBindings",
        "SetAccessBindings": "setAccessBindings",
        "UpdateAccessBindings": "updateAccessBindings",
        "ListAccessPolicyBindings": "listAccessPolicyBindings",
        "BindAccessPolicy": "bindAccessPolicy",
        "UnbindAccessPolicy": "unbindAccessPolicy",
        "UpdateAccessPolicyBindingParameters": "updateAccessPolicyBindingParameters",
    }
    return {f"{service}/{method}": f"{right}.{verb}" for method, verb in methods.items()}


PERMISSIONS: dict[str, str] = {
    **_of("Image", "images"),
    "/yandex.cloud.compute.v1.ImageService/GetLatestByFamily": "compute.images.get",
    **_of("Disk", "disks"),
    "/yandex.cloud.compute.v1.DiskService/Move": "compute.disks.move",
    "/yandex.cloud.compute.v1.DiskService/Relocate": "compute.disks.relocate",
    "/yandex.cloud.compute.v1.DiskService/ListSnapshotSchedules": "compute.disks.get",
    **_of("Snapshot", "snapshots"),
    "/yandex.cloud.compute.v1.ZoneService/Get": "compute.zones.get",
    "/yandex.cloud.compute.v1.ZoneService/List": "compute.zones.list",
    "/yandex.cloud.compute.v1.DiskTypeService/Get": "compute.diskTypes.get",
    "/yandex.cloud.compute.v1.DiskTypeService/List": "compute.diskTypes.list",
    "/yandex.cloud.operation.OperationService/Get": "compute.operations.get",
    "/yandex.cloud.operation.OperationService/Cancel": "compute.operations.cancel",
    "/yandex.cloud.endpoint.ApiEndpointService/Get": PUBLIC,
    "/yandex.cloud.endpoint.ApiEndpointService/List": PUBLIC,
    "/yandex.cloud.iam.v1.IamTokenService/Create": PUBLIC,
    "/yandex.cloud.iam.v1.IamTokenService/CreateForServiceAccount": "iam.serviceAccounts.useToken",
    "/yandex.cloud.iam.v1.IamTokenService/Revoke": "iam.tokens.revoke",
    **_manager("Cloud", "clouds"),
    **_manager("Folder", "folders"),
    "/grpc.health.v1.Health/Check": PUBLIC,
    "/grpc.health.v1.Health/Watch": PUBLIC,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": PUBLIC,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": PUBLIC,
}


class PermissionTableError(ValueError):
    """The table and the methods that are served do not match: nothing may be served."""


def check_table(served: Iterable[str], table: dict[str, str]) -> None:
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
