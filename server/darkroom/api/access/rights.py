"""What a subject may do: roles on the cloud and on folders, and access bindings on resources."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from darkroom.api.access.denials import Denials
from darkroom.api.access.directory import Directory, problem_with_binding
from darkroom.api.authentication import Check
from darkroom.api.calls import Call, Method
from darkroom.api.convert import binding_from_message, delta_from_message
from darkroom.api.permissions import STANDARD_IMAGES, Need, Place
from darkroom.api.roles import PUBLIC_IMAGE_RIGHTS, ROLES
from darkroom.domain import errors
from darkroom.domain.access import (
    ALL_AUTHENTICATED_USERS,
    ALL_USERS,
    FEDERATED_USER,
    GROUP,
    MAX_BINDINGS,
    SYSTEM,
    USER_ACCOUNT,
    Subject,
    organization_users,
)
from darkroom.domain.disk import Disk
from darkroom.domain.errors import Code, Failure
from darkroom.domain.image import Image
from darkroom.domain.operation import Operation
from darkroom.domain.resource import Resource
from darkroom.domain.snapshot import Snapshot
from darkroom.storage.port import MetadataStore

_KINDS: dict[Place, type[Resource]] = {
    Place.IMAGE: Image,
    Place.DISK: Disk,
    Place.SNAPSHOT: Snapshot,
}
_PLACES = {kind.NOUN.lower(): place for place, kind in _KINDS.items()}
"""Kinds of operations begin with the noun of what they are about."""
_MAX_REMEMBERED = 10_000
"""Subjects whose rights are kept in memory."""

_ALSO_RECORDED = ("/yandex.cloud.iam.v1.IamTokenService/CreateForServiceAccount",)
"""Refusals of methods that change nothing, but matter as much."""

Judge = Callable[["Rights", Call], None]


@dataclass(frozen=True)
class Rights:
    """Everything that one subject has by roles on the cloud and on folders."""

    principals: frozenset[tuple[str, str]]
    """Type and id of all that the subject is: itself, its groups, the system's subjects."""
    cloud: frozenset[str] = frozenset()
    folders: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def on_folder(self, permission: str, folder_id: str) -> bool:
        if permission in self.cloud or permission in self.folders.get(folder_id, ()):
            return True
        return folder_id == STANDARD_IMAGES and permission in PUBLIC_IMAGE_RIGHTS

    def anywhere(self, permission: str) -> bool:
        """On the cloud or any folder; what everybody has does not count."""
        return permission in self.cloud or any(
            permission in rights for rights in self.folders.values()
        )


class Rules(Protocol):
    """The directory in force."""

    def current(self) -> Directory: ...


class RoleAuthorizer:
    """Decides by roles. What one may not do reads the same whether the thing exists or not.

    With one exception, for the sake of clients that must learn that something was deleted: whoever
    has the right somewhere, on the cloud or on any folder, is told NOT_FOUND of an id that nothing
    has. To everybody else such an id looks like that of something they have no right on.
    """

    def __init__(
        self, store: MetadataStore, rules: Rules, *, cloud_id: str, organization_id: str
    ) -> None:
        self._store = store
        self._rules = rules
        self._denials = Denials(store)
        self._cloud_id = cloud_id
        self._organization_id = organization_id
        self._remembered: tuple[Directory | None, dict[Subject, Rights]] = (None, {})

    def check_of(self, method: Method) -> Check | None:
        """See the protocol. Sets `call.may` too, for listings of folders."""
        judges = [self._judge_of(need, method) for need in method.rule.needs]
        if "access_bindings" in (fields := _fields(method)) or "access_binding_deltas" in fields:
            judges.append(_judge_granted)

        changes = method.writes or method.path in _ALSO_RECORDED

        def check(call: Call) -> None:
            rights = self.rights(call.identity)
            call.may = rights.on_folder
            try:
                for judge in judges:
                    judge(rights, call)
            except Failure as failure:
                if changes and failure.code is Code.PERMISSION_DENIED:
                    self._denials.record(call, method, failure)
                raise

        return check

    def rights(self, subject: Subject) -> Rights:
        """The subject's rights under the directory in force."""
        directory = self._rules.current()
        remembered_of, remembered = self._remembered
        if remembered_of is not directory or len(remembered) > _MAX_REMEMBERED:
            remembered = {}
            self._remembered = (directory, remembered)
        rights = remembered.get(subject)
        if rights is None:
            rights = remembered[subject] = _rights(directory, self._principals(subject, directory))
        return rights

    def _principals(self, subject: Subject, directory: Directory) -> frozenset[tuple[str, str]]:
        own = (subject.type, subject.id)
        groups = {*subject.groups, *directory.groups_of.get(own, ())}
        system = [ALL_USERS, ALL_AUTHENTICATED_USERS]
        if subject.type in (USER_ACCOUNT, FEDERATED_USER):
            system.append(organization_users(self._organization_id))
        return frozenset(
            {own, *((GROUP, each) for each in groups), *((SYSTEM, each) for each in system)}
        )

    # --- places -----------------------------------------------------------------------------------

    def _judge_of(self, need: Need, method: Method) -> Judge:
        match need.place:
            case Place.CLOUD:
                return _judge_cloud(need, self._cloud_id)
            case Place.ANYWHERE:
                return _judge_anywhere(need, self._cloud_id)
            case Place.FOLDER:
                return _judge_folder(need)
            case Place.FAMILY:
                return self._judge_family(need)
            case Place.OPERATION:
                return self._judge_operation(need)
            case _:
                return self._judge_resource(need, method)

    def _bound(self, rights: Rights, permission: str, resource_id: str) -> bool:
        """Whether an access binding of the resource grants the right."""
        return any(
            (binding.subject_type, binding.subject_id) in rights.principals
            and permission in ROLES.get(binding.role_id, ())
            for binding in self._store.list_bindings(resource_id, None, MAX_BINDINGS + 1)
        )

    def _judge_resource(self, need: Need, method: Method) -> Judge:
        kind, permission = _KINDS[need.place], need.permission

        def judge(rights: Rights, call: Call) -> None:
            resource_id = getattr(call.request, need.field)
            if need.source and not resource_id:
                return
            resource = self._store.get(kind, resource_id)
            if resource is None:
                if not rights.anywhere(permission):
                    raise errors.permission_denied(need.place.value, resource_id)
                if need.source:
                    return  # the handler says so, in the words for sources
                call.missing = errors.resource_not_found(kind.NOUN, resource_id)
                if not call.idempotency_key:
                    raise call.missing
            elif not rights.on_folder(permission, resource.folder_id) and not self._bound(
                rights, permission, resource_id
            ):
                call.resource_id = resource_id
                raise errors.permission_denied(need.place.value, resource_id)

        return judge

    def _judge_family(self, need: Need) -> Judge:
        def judge(rights: Rights, call: Call) -> None:
            request, permission = call.request, need.permission
            if rights.on_folder(permission, request.folder_id):
                return
            image = self._store.latest_by_family(request.folder_id, request.family)
            if image is None or not self._bound(rights, permission, image.id):
                raise errors.permission_denied("folder", request.folder_id)

        return judge

    def _judge_operation(self, need: Need) -> Judge:
        def judge(rights: Rights, call: Call) -> None:
            operation_id = call.operation_id = getattr(call.request, need.field)
            operation = self._store.get_operation(operation_id)
            if operation is None:
                if rights.cloud or rights.folders:
                    raise errors.resource_not_found("Operation", operation_id)
                raise errors.permission_denied("operation", operation_id)
            if operation.created_by == call.identity.id:
                return
            if not self._may_see(rights, operation, need.permission):
                raise errors.permission_denied("operation", operation_id)

        return judge

    def _may_see(self, rights: Rights, operation: Operation, verb: str) -> bool:
        """By a right on what the operation is about, or was, if that is gone."""
        place = _PLACES.get(operation.kind.partition(".")[0])
        if place is None:
            return False  # of a newer version; its creator may see it
        permission = f"compute.{place.value}s.{verb}"
        resource = self._store.get(_KINDS[place], operation.resource_id)
        if resource is None:
            return rights.on_folder(permission, operation.folder_id)
        return rights.on_folder(permission, resource.folder_id) or self._bound(
            rights, permission, resource.id
        )


def _rights(directory: Directory, principals: frozenset[tuple[str, str]]) -> Rights:
    cloud: set[str] = set()
    folders: dict[str, set[str]] = {}
    for grant in directory.grants:
        if principals.isdisjoint(grant.subjects):
            continue
        if grant.cloud:
            cloud |= ROLES[grant.role]
        for folder_id in grant.folder_ids:
            folders.setdefault(folder_id, set()).update(ROLES[grant.role])
    return Rights(
        principals,
        frozenset(cloud),
        {folder_id: frozenset(rights) for folder_id, rights in folders.items()},
    )


def _fields(method: Method) -> set[str]:
    descriptor: Any = method.request.DESCRIPTOR if method.request is not None else None
    return {field.name for field in descriptor.fields} if descriptor is not None else set()


def _judge_cloud(need: Need, own_id: str) -> Judge:
    def judge(rights: Rights, call: Call) -> None:
        cloud_id = getattr(call.request, need.field) if need.field else own_id
        if need.permission not in rights.cloud:
            raise errors.permission_denied("cloud", cloud_id)

    return judge


def _judge_anywhere(need: Need, own_id: str) -> Judge:
    def judge(rights: Rights, call: Call) -> None:
        if not rights.anywhere(need.permission):
            raise errors.permission_denied("cloud", own_id)

    return judge


def _judge_folder(need: Need) -> Judge:
    permission, name = need.permission, need.field

    def judge(rights: Rights, call: Call) -> None:
        folder_id = getattr(call.request, name)
        if not rights.on_folder(permission, folder_id):
            raise errors.permission_denied("folder", folder_id)

    return judge


def _judge_granted(rights: Rights, call: Call) -> None:
    """Refuse bindings that could never mean anything: whoever grants one believes that it does."""
    request, violations = call.request, []
    if hasattr(request, "access_bindings"):
        given = [
            (f"access_bindings[{number}]", binding_from_message(each))
            for number, each in enumerate(request.access_bindings)
        ]
    else:
        deltas = map(delta_from_message, request.access_binding_deltas)
        given = [
            (f"access_binding_deltas[{number}].access_binding", delta.binding)
            for number, delta in enumerate(deltas)
            if delta.add
        ]
    for place, binding in given:
        if problem := problem_with_binding(binding):
            violations.append(errors.FieldViolation(place, problem))
    if violations:
        raise errors.request_invalid(violations)
