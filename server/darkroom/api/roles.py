"""Which rights each role has: one table, beside that of the rights which methods need."""

_KINDS = ("images", "disks", "snapshots")


def _rights(service: str, nouns: tuple[str, ...], *verbs: str) -> frozenset[str]:
    return frozenset(f"{service}.{noun}.{verb}" for noun in nouns for verb in verbs)


_LOOK = _rights("compute", _KINDS, "get", "list", "listAccessBindings")
_VIEW = _LOOK | _rights("compute", _KINDS, "use")
_EDIT = (
    _VIEW
    | _rights("compute", _KINDS, "create", "update", "delete")
    | _rights("compute", ("disks",), "move", "relocate")
)
_BIND = _rights("compute", _KINDS, "setAccessBindings", "updateAccessBindings")

_MANAGERS = ("clouds", "folders")
_VIEW_PLACES = _rights(
    "resource-manager", _MANAGERS, "get", "listAccessBindings", "listAccessPolicyBindings"
)
_MANAGE_PLACES = _VIEW_PLACES | _rights(
    *("resource-manager", _MANAGERS),
    *("create", "update", "delete", "setAccessBindings", "updateAccessBindings"),
    *("bindAccessPolicy", "unbindAccessPolicy", "updateAccessPolicyBindingParameters"),
)

ROLES: dict[str, frozenset[str]] = {
    "compute.images.user": _rights("compute", ("images",), "get", "list", "use"),
    "compute.auditor": _LOOK | _VIEW_PLACES,
    "compute.viewer": _VIEW | _VIEW_PLACES,
    # There are no machines here that it could start and stop.
    "compute.operator": _VIEW | _VIEW_PLACES,
    "compute.editor": _EDIT | _VIEW_PLACES,
    "compute.admin": _EDIT | _BIND | _VIEW_PLACES,
    "viewer": _VIEW | _VIEW_PLACES,
    "editor": _EDIT | _VIEW_PLACES,
    "admin": _EDIT | _BIND | _MANAGE_PLACES | frozenset({"iam.serviceAccounts.createToken"}),
}
"""The cloud's roles for images, disks and snapshots and its primitive ones, as far as they reach
here. A role holds on the cloud, on a folder, or on one image, disk or snapshot."""

PUBLIC_IMAGE_RIGHTS = ROLES["compute.images.user"]
"""What everybody who is known has on the folder of public images."""
