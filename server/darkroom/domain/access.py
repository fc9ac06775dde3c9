"""Access bindings: who has which role on one resource."""

from dataclasses import dataclass

MAX_BINDINGS = 1000
"""Most bindings on one resource: what SetAccessBindings can set in one call (cloud docs)."""


@dataclass(frozen=True, order=True)
class AccessBinding:
    """`role_id` on the resource for a subject of `subject_type`, such as userAccount."""

    role_id: str
    subject_type: str
    subject_id: str


@dataclass(frozen=True)
class BindingDelta:
    """One change of the bindings of a resource."""

    add: bool
    binding: AccessBinding
