"""What a method is and what one call of it carries through the interceptors to its handler."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from darkroom.api.permissions import PUBLIC, Rule
from darkroom.domain.access import Subject
from darkroom.domain.errors import Failure
from darkroom.operations.desk import Caller
from darkroom_pb.yandex.cloud.api import operation_pb2


@dataclass(frozen=True)
class Method:
    """One RPC. `rule` comes from the table of permissions, the rest from the .proto file."""

    path: str
    request: type[Message] | None = None
    response: type[Message] = Empty
    rule: Rule = PUBLIC
    begins_operation: bool = False
    writes: bool = False
    """Whether it waits for the database's writers."""
    client_streaming: bool = False
    server_streaming: bool = False

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def method_path(descriptor: MethodDescriptor) -> str:
    """The path as it stands in an HTTP/2 request."""
    return f"/{descriptor.containing_service.full_name}/{descriptor.name}"


_CANCEL = "/yandex.cloud.operation.OperationService/Cancel"
"""The one method that writes without beginning an operation."""


def _begins_operation(descriptor: MethodDescriptor) -> bool:
    return bool(descriptor.GetOptions().HasExtension(operation_pb2.operation))


def methods_of(service: ServiceDescriptor, permissions: Mapping[str, Rule]) -> list[Method]:
    """The methods of a service. The permission table must have been checked."""
    return [
        Method(
            path=method_path(descriptor),
            request=GetMessageClass(descriptor.input_type),
            response=GetMessageClass(descriptor.output_type),
            rule=permissions[method_path(descriptor)],
            begins_operation=_begins_operation(descriptor),
            writes=_begins_operation(descriptor) or method_path(descriptor) == _CANCEL,
            client_streaming=descriptor.client_streaming,
            server_streaming=descriptor.server_streaming,
        )
        for descriptor in service.methods
    ]


NOBODY = Subject("", "")


def _everything(_permission: str, _folder_id: str) -> bool:
    return True


class Call:
    """One RPC under way. The interceptors fill it in; the handler reads it."""

    __slots__ = (
        "context",
        "denial",
        "headers",
        "idempotency_key",
        "identity",
        "may",
        "metadata",
        "missing",
        "operation_id",
        "request",
        "request_id",
        "resource_id",
        "subject",
        "trace_id",
        "traceparent",
    )

    def __init__(self, request: Any, context: grpc.ServicerContext) -> None:
        self.request = request
        """Bytes, or what stands for a missing request; from validation on, the message."""
        self.context = context
        self.metadata: dict[str, str | bytes] = {}
        self.request_id = ""
        self.trace_id = ""
        self.traceparent = ""
        """The W3C context in which an operation that the call begins goes on; empty for none."""
        self.identity = NOBODY
        self.subject = ""
        """The id of `identity`, or of who a token was given to."""
        self.denial = ""
        """For the log: what was wrong with how the caller proves who it is."""
        self.may: Callable[[str, str], bool] = _everything
        """Whether the caller has a right on a folder, for what a listing leaves out."""
        self.missing: Failure | None = None
        """What to answer unless the call repeats an earlier one: its resource is not there."""
        self.idempotency_key = ""
        self.resource_id = ""
        """For the log, as is `operation_id`: set by the handler as soon as it knows them."""
        self.operation_id = ""
        self.headers: tuple[tuple[str, str], ...] = ()
        """Initial metadata that the handler adds to that of every reply."""

    @property
    def caller(self) -> Caller:
        origin = {"request_id": self.request_id, "trace_id": self.trace_id}
        if self.traceparent:
            origin["traceparent"] = self.traceparent
        return Caller(self.subject, self.idempotency_key, self.missing, origin, self.identity.type)


Handler = Callable[[Call], Any]
"""What an interceptor wraps: it returns the reply message and raises `Failure`."""
