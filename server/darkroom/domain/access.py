"""Who asks, and who has which role on one resource."""

from dataclasses import dataclass

MAX_BINDINGS = 1000
"""Most bindings on one resource: what SetAccessBindings can set in one call (cloud docs)."""

USER_ACCOUNT = "userAccount"
SERVICE_ACCOUNT = "serviceAccount"
FEDERATED_USER = "federatedUser"
GROUP = "group"
SYSTEM = "system"
SUBJECT_TYPES = (USER_ACCOUNT, SERVICE_ACCOUNT, FEDERATED_USER, GROUP, SYSTEM)
"""The types of subjects in access bindings (cloud docs)."""

ALL_USERS = "allUsers"
ALL_AUTHENTICATED_USERS = "allAuthenticatedUsers"


@dataclass(frozen=True)
class Subject:
    """Who makes a call: a user, a federated user or a service account."""

    type: str
    id: str
    groups: tuple[str, ...] = ()
    """Ids of groups that whoever vouches for the subject names; an access file may add others."""


def organization_users(organization_id: str) -> str:
    """The id of the system subject that is every user of an organization (cloud docs)."""
    return f"group:organization:{organization_id}:users"


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


@dataclass(frozen=True)
class Revocation:
    """What was issued under `mark` until `before_us` is worthless since `at_us`."""

    mark: str
    before_us: int
    at_us: int
