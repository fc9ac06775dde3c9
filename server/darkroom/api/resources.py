"""What the services of images, disks and snapshots have in common: most of it."""

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Any, ClassVar, Generic, TypeVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from darkroom.api.calls import Call
from darkroom.api.convert import (
    binding_from_message,
    binding_to_message,
    delta_from_message,
    listed_operation_to_message,
    operation_to_message,
)
from darkroom.api.masks import Updatable, changes
from darkroom.domain import errors, listing
from darkroom.domain.access import AccessBinding
from darkroom.domain.operation import Operation
from darkroom.domain.query import FILTER_FIELDS, Query, parse_filter, parse_order, values_of
from darkroom.domain.resource import Resource
from darkroom.operations.changing import Delete, SetBindings, Update, UpdateBindings
from darkroom.operations.desk import Command, Operations
from darkroom.storage.port import MetadataStore
from darkroom_pb.yandex.cloud.access import access_pb2
from darkroom_pb.yandex.cloud.operation import operation_pb2

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True)
class Wire(Generic[R]):
    """How the messages of one service name what all three services do."""

    kind: type[R]
    id_field: str
    to_message: Callable[[R], Message]
    list_response: type[Message]
    list_field: str
    operations_response: type[Message]
    updatable: Mapping[str, Updatable]
    filter_fields: tuple[str, ...] = FILTER_FIELDS


class ResourceServicer(Generic[R]):
    """A method per RPC, under its name; a service adds its own to those here."""

    SERVICE: ClassVar[ServiceDescriptor]
    WIRE: ClassVar[Wire[Any]]

    def __init__(self, store: MetadataStore, operations: Operations) -> None:
        self._store = store
        self._operations = operations

    def _begun(self, call: Call, command: Command) -> operation_pb2.Operation:
        operation = self._operations.begin(command, call.caller)
        call.operation_id, call.resource_id = operation.id, operation.resource_id
        return operation_to_message(operation)

    def _id(self, call: Call) -> str:
        call.resource_id = getattr(call.request, self.WIRE.id_field)
        return call.resource_id

    def _found(self, resource_id: str) -> R:
        resource: R | None = self._store.get(self.WIRE.kind, resource_id)
        if resource is None:
            raise errors.resource_not_found(self.WIRE.kind.NOUN, resource_id)
        return resource

    def Get(self, call: Call) -> Message:
        return self.WIRE.to_message(self._found(self._id(call)))

    def List(self, call: Call) -> Message:
        request, wire = call.request, self.WIRE
        conditions = parse_filter(request.filter, wire.filter_fields)
        order = parse_order(request.order_by)
        asked = (wire.kind.NOUN, request.folder_id, request.filter, request.order_by)
        size = listing.page_size(request.page_size)
        kinds = [int if key.field == "created_at" else str for key in order]
        after = listing.decode_page_token(asked, request.page_token, kinds)
        query = Query(request.folder_id, conditions, order, after)
        found: list[R] = self._store.find(wire.kind, query, size + 1)
        shown, token = listing.page(asked, found, size, lambda each: values_of(each, order))
        entries = {wire.list_field: [wire.to_message(each) for each in shown]}
        return wire.list_response(**entries, next_page_token=token)

    def Update(self, call: Call) -> operation_pb2.Operation:
        changed = changes(call.request, self.WIRE.updatable)
        return self._begun(call, Update(self.WIRE.kind, self._id(call), changed))

    def Delete(self, call: Call) -> operation_pb2.Operation:
        return self._begun(call, Delete(self.WIRE.kind, self._id(call)))

    def ListOperations(self, call: Call) -> Message:
        resource_id = self._id(call)
        self._found(resource_id)
        size = listing.page_size(call.request.page_size)
        asked = ("operations", resource_id)
        position = listing.decode_page_token(asked, call.request.page_token, (int, str))
        created_at_us, operation_id = position or (0, "")
        after = int(created_at_us), str(operation_id)
        found: list[Operation] = self._store.list_operations(resource_id, after, size + 1)
        shown, token = listing.page(asked, found, size, lambda each: (each.created_at_us, each.id))
        return self.WIRE.operations_response(
            operations=map(listed_operation_to_message, shown), next_page_token=token
        )

    def ListAccessBindings(self, call: Call) -> access_pb2.ListAccessBindingsResponse:
        resource_id = call.resource_id = call.request.resource_id
        self._found(resource_id)
        size = listing.page_size(call.request.page_size)
        asked = ("bindings", resource_id)
        position = listing.decode_page_token(asked, call.request.page_token, (str, str, str))
        after = AccessBinding(*map(str, position)) if position else None
        found = self._store.list_bindings(resource_id, after, size + 1)
        shown, token = listing.page(asked, found, size, astuple)
        return access_pb2.ListAccessBindingsResponse(
            access_bindings=map(binding_to_message, shown), next_page_token=token
        )

    def SetAccessBindings(self, call: Call) -> operation_pb2.Operation:
        bindings = tuple(map(binding_from_message, call.request.access_bindings))
        command = SetBindings(self.WIRE.kind, call.request.resource_id, bindings)
        return self._begun(call, command)

    def UpdateAccessBindings(self, call: Call) -> operation_pb2.Operation:
        deltas = tuple(map(delta_from_message, call.request.access_binding_deltas))
        command = UpdateBindings(self.WIRE.kind, call.request.resource_id, deltas)
        return self._begun(call, command)
