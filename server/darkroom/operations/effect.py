"""What an operation that moves no bytes does to the rows: data, so that it can also wait."""

from dataclasses import dataclass, field, replace
from typing import Any

from darkroom.domain.access import AccessBinding
from darkroom.domain.disk import Disk
from darkroom.domain.image import Image
from darkroom.domain.resource import Resource, Status
from darkroom.domain.snapshot import Snapshot
from darkroom.storage.port import Transaction

KINDS: dict[str, type[Resource]] = {kind.NOUN: kind for kind in (Image, Disk, Snapshot)}
"""The kinds of resources by their noun."""


@dataclass(frozen=True)
class Effect:
    """One change: a resource made, overwritten or removed, or bindings added and removed."""

    made: Resource | None = None
    overwritten: Resource | None = None
    removed: Resource | None = None
    bound: str = ""
    """Id of the resource whose bindings change."""
    add: tuple[AccessBinding, ...] = field(default=())
    remove: tuple[AccessBinding, ...] = field(default=())

    def apply(self, tx: Transaction) -> None:
        """Do it at once. Raises `Failure` for a name that is taken."""
        if self.made is not None:
            tx.insert_resource(self.made)
        if self.overwritten is not None:
            tx.update_resource(self.overwritten)
        if self.removed is not None:
            tx.delete_resource(self.removed.id)
        for binding in self.remove:
            tx.remove_binding(self.bound, binding)
        for binding in self.add:
            tx.add_binding(self.bound, binding)

    def announce(self, tx: Transaction) -> None:
        """Show that it is coming: first half of an effect that waits.

        Raises `Failure` for a name that is taken already, as if it did not wait.
        """
        if self.made is not None:
            tx.insert_resource(replace(self.made, status=Status.CREATING))
        if self.overwritten is not None:
            present = tx.resource(type(self.overwritten), self.overwritten.id)
            assert present is not None, "what is overwritten is locked by this transaction"
            tx.update_resource(self.overwritten)
            tx.update_resource(present)
        # In ERROR its name is free: in DELETING it would have it again, and another may own it.
        if self.removed is not None and self.removed.status is not Status.ERROR:
            tx.update_resource(replace(self.removed, status=Status.DELETING))

    def complete(self, tx: Transaction) -> None:
        """Second half of an effect that was announced."""
        replace(self, made=None, overwritten=self.made or self.overwritten).apply(tx)

    def withdraw(self, tx: Transaction) -> None:
        """Undo the announcement."""
        if self.made is not None:
            tx.delete_resource(self.made.id)
        if self.removed is not None:
            tx.update_resource(self.removed)

    def to_record(self) -> dict[str, Any]:
        """JSON-able form, for the payload of an operation that waits."""
        resource = self.made or self.overwritten or self.removed
        return {
            "part": next(
                (name for name in ("made", "overwritten", "removed") if getattr(self, name)), ""
            ),
            "noun": resource.NOUN if resource else "",
            "resource": resource.to_record() if resource else None,
            "bound": self.bound,
            "add": [list(binding.__dict__.values()) for binding in self.add],
            "remove": [list(binding.__dict__.values()) for binding in self.remove],
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Effect":
        """Inverse of `to_record`."""
        part: dict[str, Any] = {}
        if record["part"]:
            kind = KINDS[record["noun"]]
            part = {record["part"]: kind.from_record(record["resource"])}
        return cls(
            **part,
            bound=record["bound"],
            add=tuple(AccessBinding(*values) for values in record["add"]),
            remove=tuple(AccessBinding(*values) for values in record["remove"]),
        )
