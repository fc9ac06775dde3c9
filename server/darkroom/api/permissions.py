"""Which permission each method needs: one table, complete or the server does not start."""

from collections.abc import Iterable

PUBLIC = ""
"""For methods that tell nothing about anybody's resources: no identity and no right is asked for,
and no limit on concurrent calls holds, so that they answer when nothing else does."""

PERMISSIONS: dict[str, str] = {
    "/yandex.cloud.compute.v1.ImageService/Get": "compute.images.get",
    "/yandex.cloud.compute.v1.ImageService/GetLatestByFamily": "compute.images.get",
    "/yandex.cloud.compute.v1.ImageService/List": "compute.images.list",
    "/yandex.cloud.compute.v1.ImageService/Create": "compute.images.create",
    "/yandex.cloud.compute.v1.ImageService/Update": "compute.images.update",
    "/yandex.cloud.compute.v1.ImageService/Delete": "compute.images.delete",
    "/yandex.cloud.compute.v1.ImageService/ListOperations": "compute.images.get",
    "/yandex.cloud.compute.v1.ImageService/ListAccessBindings": "compute.images.listAccessBindings",
    "/yandex.cloud.compute.v1.ImageService/SetAccessBindings": "compute.images.setAccessBindings",
    "/yandex.cloud.compute.v1.ImageService/UpdateAccessBindings": (
        "compute.images.updateAccessBindings"
    ),
    "/yandex.cloud.operation.OperationService/Get": "compute.operations.get",
    "/yandex.cloud.operation.OperationService/Cancel": "compute.operations.cancel",
    "/grpc.health.v1.Health/Check": PUBLIC,
    "/grpc.health.v1.Health/Watch": PUBLIC,
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
