"""Update, delete and access bindings: the same for images, disks and snapshots."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from darkroom.domain import errors
from darkroom.domain.access import MAX_BINDINGS, AccessBinding, BindingDelta
from darkroom.domain.disk import Disk
from darkroom.domain.image import Image, default_min_disk_size_bytes
from darkroom.domain.resource import SIZE_STEP_BYTES, Resource, Status, encoded
from darkroom.operations.desk import Begun, Opening
from darkroom.operations.effect import Effect
from darkroom.storage.port import Transaction


def existing(tx: Transaction, kind: type[Resource], resource_id: str) -> Any:
    """The resource, free to be changed.

    Raises `Failure` RESOURCE_NOT_FOUND, or CONFLICTING_OPERATION while another one runs on it.
    """
    resource = tx.resource(kind, resource_id)
    if resource is None:
        raise errors.resource_not_found(kind.NOUN, resource_id)
    conflicting = tx.unfinished_operation_on(resource_id)
    if conflicting is not None:
        raise errors.conflicting_operation(conflicting)
    return resource


def existing_ready(tx: Transaction, kind: type[Resource], resource_id: str) -> Any:
    """The same, for changes that make no sense of what failed to be made.

    Raises `Failure` like `existing`, and RESOURCE_NOT_READY.
    """
    resource = existing(tx, kind, resource_id)
    if resource.status is not Status.READY:
        raise errors.resource_not_ready(kind.NOUN, resource_id, resource.status.name)
    return resource


def _operation_kind(kind: type[Resource], verb: str) -> str:
    return f"{kind.NOUN.lower()}.{verb}"


@dataclass(frozen=True)
class Delete:
    """Delete one resource; its content goes when nothing else refers to it."""

    resource_kind: type[Resource]
    resource_id: str

    @property
    def kind(self) -> str:
        return _operation_kind(self.resource_kind, "delete")

    def identity(self) -> dict[str, Any]:
        return {"id": self.resource_id}

    def begin(self, tx: Transaction, opening: Opening) -> Begun:
        resource = existing(tx, self.resource_kind, self.resource_id)
        return Begun(
            opening.operation(self.kind, resource.folder_id, resource.id, response={}),
            effect=Effect(removed=resource),
        )


@dataclass(frozen=True)
class Update:
    """Overwrite some fields of one resource. `changes` has them by their domain names.

    A name with a dot is that of a field inside a field.
    """

    resource_kind: type[Resource]
    resource_id: str
    changes: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return _operation_kind(self.resource_kind, "update")

    def identity(self) -> dict[str, Any]:
        changes = {name: encoded(value) for name, value in self.changes.items()}
        return {"id": self.resource_id, "changes": changes}

    def begin(self, tx: Transaction, opening: Opening) -> Begun:
        resource = existing_ready(tx, self.resource_kind, self.resource_id)
        check = _CHECKS.get(self.resource_kind)
        changes = {name: value for name, value in self.changes.items() if "." not in name}
        if check is not None:
            check(resource, changes)
        updated = replace(resource, **changes)
        for name, value in self.changes.items():
            outer, dot, inner = name.partition(".")
            if dot:
                field = replace(getattr(updated, outer), **{inner: value})
                updated = replace(updated, **{outer: field})
        return Begun(
            opening.operation(
                self.kind, updated.folder_id, updated.id, response=updated.to_record()
            ),
            effect=Effect(overwritten=updated),
        )


def check_image_update(image: Image, changes: dict[str, Any]) -> None:
    """Minimal disk size: 0 is the smallest that fits, less than that is refused."""
    wanted = changes.get("min_disk_size_bytes")
    if wanted == 0:
        changes["min_disk_size_bytes"] = default_min_disk_size_bytes(image.size_bytes)
    elif wanted is not None and wanted < image.size_bytes:
        raise errors.min_disk_size_too_small(image.size_bytes)


def check_disk_update(disk: Disk, changes: dict[str, Any]) -> None:
    """Size: 0 leaves it as it is; it only grows, in whole steps."""
    wanted = changes.get("size_bytes")
    if wanted == 0:
        del changes["size_bytes"]
    elif wanted is not None:
        check_size_step(wanted)
        if wanted < disk.size_bytes:
            raise errors.request_invalid(
                [errors.FieldViolation("size", f"must be at least {disk.size_bytes}: disks grow")]
            )


def check_size_step(size_bytes: int) -> None:
    """Raises `Failure` unless the size is a multiple of 4 MiB (cloud docs)."""
    if size_bytes % SIZE_STEP_BYTES:
        raise errors.request_invalid(
            [errors.FieldViolation("size", f"must be a multiple of {SIZE_STEP_BYTES}")]
        )


_CHECKS: dict[type[Resource], Callable[[Any, dict[str, Any]], None]] = {
    Image: check_image_update,
    Disk: check_disk_update,
}


@dataclass(frozen=True)
class SetBindings:
    """Replace all access bindings of one resource."""

    resource_kind: type[Resource]
    resource_id: str
    bindings: tuple[AccessBinding, ...]

    @property
    def kind(self) -> str:
        return _operation_kind(self.resource_kind, "set_bindings")

    def identity(self) -> dict[str, Any]:
        # A set: neither their order nor repeated ones make another request.
        return {"id": self.resource_id, "bindings": [vars(each) for each in self._as_set()]}

    def _as_set(self) -> list[AccessBinding]:
        return sorted(set(self.bindings))

    def begin(self, tx: Transaction, opening: Opening) -> Begun:
        resource = existing(tx, self.resource_kind, self.resource_id)
        now = set(tx.bindings(resource.id))
        return _rebound(self.kind, resource, opening, now, set(self.bindings))


@dataclass(frozen=True)
class UpdateBindings:
    """Add and remove single access bindings of one resource, in the order given."""

    resource_kind: type[Resource]
    resource_id: str
    deltas: tuple[BindingDelta, ...]

    @property
    def kind(self) -> str:
        return _operation_kind(self.resource_kind, "update_bindings")

    def identity(self) -> dict[str, Any]:
        deltas = [[delta.add, vars(delta.binding)] for delta in self.deltas]
        return {"id": self.resource_id, "deltas": deltas}

    def begin(self, tx: Transaction, opening: Opening) -> Begun:
        resource = existing(tx, self.resource_kind, self.resource_id)
        now = set(tx.bindings(resource.id))
        wanted = set(now)
        for delta in self.deltas:
            (wanted.add if delta.add else wanted.discard)(delta.binding)
        return _rebound(self.kind, resource, opening, now, wanted)


def _rebound(
    kind: str,
    resource: Resource,
    opening: Opening,
    now: set[AccessBinding],
    wanted: set[AccessBinding],
) -> Begun:
    """The change and what really changed: the effective deltas of the answer."""
    if len(wanted) > MAX_BINDINGS:
        raise errors.too_many_bindings(MAX_BINDINGS)
    effect = Effect(
        bound=resource.id, add=tuple(sorted(wanted - now)), remove=tuple(sorted(now - wanted))
    )
    record = effect.to_record()
    response = {"add": record["add"], "remove": record["remove"]}
    return Begun(
        opening.operation(kind, resource.folder_id, resource.id, response=response), effect=effect
    )
