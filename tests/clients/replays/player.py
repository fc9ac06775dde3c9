"""Plays a sequence against a real installation and judges each reply as the client would."""

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from string import Template
from typing import Any

from google.protobuf import descriptor_pool, json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2

import darkroom.api.server  # noqa: F401 - with it every message is known by name
from clients.replays.steps import Await, Begin, Call, Caller, Idle, Sequence
from darkroom_pb.yandex.cloud.operation import operation_pb2
from raw_grpc import Connection, Reply

PACKAGE = "yandex.cloud."
ENDPOINT_IDS = {
    "compute.v1": "compute",
    "iam.v1": "iam",
    "iam.v1.awscompatibility": "iam",
    "operation": "operation",
    "resourcemanager.v1": "resource-manager",
    "vpc.v1": "vpc",
}
"""Where the SDKs look up the address of a package's services; discovery is where it is."""
WITHOUT_TOKEN = ("endpoint.ApiEndpointService/List", "iam.v1.IamTokenService/Create")
TRACE_ID = r"[0-9a-f]+:[0-9a-f]+:[0-9a-f]+:1"
KNOWN_DETAILS = ("google.rpc.", "yandex.cloud.quota.")
"""Packages whose messages the SDKs can read in the details of a status."""
NOT_FOUND_POLLS = 3
"""So many times clients believe that an operation is not on every replica yet."""
POLL_SECONDS = 0.05
"""Clients pause for a second; nothing depends on it, and tests shall be quick."""
OPERATION_SECONDS = 30.0


def play(
    sequence: Sequence, address: str, ca: bytes | None, variables: Mapping[str, str]
) -> dict[str, str]:
    """Play a sequence against the endpoint at an address; returns what was kept.

    Fails the test at the first reply that the client would stumble over.
    """
    kept = dict(variables)
    for part in sequence.parts:
        with _Session(part.caller, address, None if part.caller.plaintext else ca, kept) as session:
            for step in part.steps:
                match step:
                    case Idle():
                        session.idle()
                    case Await():
                        session.wait(session.filled(step.operation))
                    case Begin():
                        session.begin(step)
                    case Call():
                        session.call(step)
    return kept


class _Session:
    def __init__(
        self, caller: Caller, address: str, ca: bytes | None, variables: dict[str, str]
    ) -> None:
        self._caller = caller
        self._discovery = address
        self._ca = ca
        self._variables = variables
        self._variables.pop("token", None)
        self._addresses: dict[str, str] = {}
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> "_Session":
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections.values():
            connection.close()

    # --- steps ------------------------------------------------------------------------------------

    def idle(self) -> None:
        for connection in self._connections.values():
            answered = connection.pongs
            connection.ping()
            connection.read_pongs(answered + 1)

    def call(self, step: Call) -> Message | None:
        """The reply, judged; None if the call fails as it should."""
        identifiers = self._identifiers()
        return self._judge(step, self._send(step, identifiers), identifiers)

    def begin(self, step: Begin) -> None:
        identifiers = self._identifiers()
        # What the step says of the operation holds at its end; at first only what is promised.
        first = replace(step, keeps={}, sees={})
        began = self._judge(first, self._send(step, identifiers), identifiers)
        if began is None:
            return
        assert isinstance(began, operation_pb2.Operation), step.method
        if step.repeated:
            again = self._send(step, {**identifiers, "x-retry-attempt": "1"})
            repeated = self._judge(first, again, identifiers)
            assert isinstance(repeated, operation_pb2.Operation)
            assert repeated.id == began.id, f"{step.method}: repeated, it began another operation"
        operation = self._judge_operation(step, began)
        if step.waits:
            if not operation.done or self._caller.asks_when_done:
                operation = self.wait(operation.id)
                self._judge_operation(step, operation)
            if step.ends:
                assert _code(operation.error.code) == step.ends, operation.error
                _judge_details(step.method, operation.error.details)
            else:
                assert not operation.HasField("error"), f"{step.method}: {operation.error}"
        self._look(step, operation)

    def wait(self, operation_id: str) -> operation_pb2.Operation:
        """Ask for an operation until it is done."""
        deadline = time.monotonic() + OPERATION_SECONDS
        # Of the same kind as the call that began it, so that it has its time limit.
        poll = Begin("operation.OperationService/Get", {"operation_id": operation_id})
        not_found = 0
        while True:
            assert time.monotonic() < deadline, f"operation {operation_id} has not ended"
            reply = self._send(poll, self._identifiers())
            if reply.code.name == "NOT_FOUND" and not_found < NOT_FOUND_POLLS:
                not_found += 1
                continue
            assert reply.code.name == "OK", reply.text
            operation = operation_pb2.Operation.FromString(reply.message)
            assert operation.metadata.TypeName(), "an operation without metadata"
            if operation.done:
                return operation
            time.sleep(int(reply.headers.get("x-operation-poll-interval", 0)) or POLL_SECONDS)

    # --- one call ---------------------------------------------------------------------------------

    def _send(self, step: Call, identifiers: Mapping[str, str]) -> Reply:
        connection = self._connection(step.method)
        # The order in which gRPC for Go writes them.
        headers = [
            (":method", "POST"),
            (":scheme", "https" if self._ca is not None else "http"),
            (":path", f"/{PACKAGE}{step.method}"),
            (":authority", connection.address),
            ("content-type", "application/grpc"),
            ("user-agent", self._caller.user_agent),
            ("te", "trailers"),
        ]
        if isinstance(step, Begin) and self._caller.change_timeout:
            headers.append(("grpc-timeout", self._caller.change_timeout))
        if step.method not in WITHOUT_TOKEN:
            headers.append(("authorization", f"Bearer {self._variables['token']}"))
        headers += identifiers.items()
        method = _method(step.method)
        if method is None:  # a service that is not offered here, so nothing knows its messages
            return connection.call(headers, b"")
        request = json_format.ParseDict(
            self.filled(step.request), GetMessageClass(method.input_type)()
        )
        return connection.call(headers, request.SerializeToString())

    def _identifiers(self) -> dict[str, str]:
        return {name: str(uuid.uuid4()) for name in self._caller.identifies}

    def _connection(self, method: str) -> Connection:
        """To the address that discovery named for the method's service, as it is written there."""
        package = method.rpartition(".")[0]
        address = self._discovery
        if package != "endpoint":
            assert package in ENDPOINT_IDS, package
            assert ENDPOINT_IDS[package] in self._addresses, f"no endpoint for {package}"
            address = self._addresses[ENDPOINT_IDS[package]]
        if address not in self._connections:
            self._connections[address] = Connection(address, self._ca)
        return self._connections[address]

    def _judge(self, step: Call, reply: Reply, identifiers: Mapping[str, str]) -> Message | None:
        assert not reply.reset, f"{step.method}: the stream was reset ({reply.reset})"
        code = reply.code.name
        wanted = step.fails or "OK"
        assert code == wanted, f"{step.method}: {code} {reply.text}"
        # SDKs tell both to whoever asks for support; some read initial metadata only.
        asked_id = identifiers.get("x-request-id") or identifiers.get("x-client-request-id")
        request_id = reply.headers["x-request-id"]
        assert request_id and request_id == (asked_id or request_id)
        assert re.fullmatch(TRACE_ID, reply.headers["x-server-trace-id"])
        assert reply.headers["x-server-request-id"]
        if step.fails:
            said = re.search(step.says, reply.text)
            assert said, reply.text
            self._variables |= said.groupdict()
            assert reply.status.message == reply.text
            infos = _judge_details(step.method, reply.status.details)
            assert [info.request_id for info in infos] == [request_id], f"{step.method}: no ids"
            return None
        method = _method(step.method)
        assert method is not None
        message = GetMessageClass(method.output_type)()
        message.ParseFromString(reply.message)
        for name in self._caller.insists.get(message.DESCRIPTOR.full_name, ()):
            assert message.HasField(name), f"{step.method}: no {name}, which the client reads"
        if step.method == "endpoint.ApiEndpointService/List":
            self._discover(message)
        if not isinstance(message, operation_pb2.Operation):
            self._look(step, message)
        return message

    def _discover(self, reply: Any) -> None:
        assert not reply.next_page_token, "clients read one page of endpoints"
        self._addresses = {each.id: each.address for each in reply.endpoints}
        for endpoint_id, address in self._addresses.items():
            assert re.fullmatch(r"\S+:\d+", address), f"{endpoint_id} is at {address!r}"

    # --- operations -------------------------------------------------------------------------------

    def _judge_operation(
        self, step: Begin, operation: operation_pb2.Operation
    ) -> operation_pb2.Operation:
        """As the SDKs' wrappers do with every reply that holds one."""
        assert operation.id and operation.created_by, operation
        assert operation.HasField("created_at") and operation.HasField("modified_at")
        held = operation.metadata.TypeName()
        assert held == PACKAGE + step.metadata, f"{step.method}: metadata is {held!r}"
        if operation.done and not step.ends:
            held = operation.response.TypeName()
            wanted = step.response if "google." in step.response else PACKAGE + step.response
            assert held == wanted, f"{step.method}: the response is {held!r}"
        return operation

    # --- what a reply holds -----------------------------------------------------------------------

    def _look(self, step: Call, message: Message) -> None:
        for path, wanted in step.sees.items():
            seen, expected = _value(message, path), self.filled(wanted)
            if isinstance(expected, re.Pattern):
                assert expected.fullmatch(str(seen)), f"{step.method}: {path} is {seen!r}"
            else:
                assert seen == expected, f"{step.method}: {path} is {seen!r}, not {expected!r}"
        for name, path in step.keeps.items():
            value = _value(message, path)
            assert value, f"{step.method}: {path} is empty"
            self._variables[name] = str(value)

    def filled(self, given: Any) -> Any:
        """The same with each variable's value in place of its name."""
        if isinstance(given, str):
            return Template(given).substitute(self._variables)
        if isinstance(given, Mapping):
            return {key: self.filled(value) for key, value in given.items()}
        if isinstance(given, list):
            return [self.filled(each) for each in given]
        return given


def _method(name: str) -> MethodDescriptor | None:
    service, _, method = name.partition("/")
    try:
        found = descriptor_pool.Default().FindServiceByName(PACKAGE + service)
    except KeyError:
        return None
    return found.methods_by_name[method]


def _code(number: int) -> str:
    reply = Reply(trailers={"grpc-status": str(number)})
    return reply.code.name


def _judge_details(method: str, details: Any) -> list[error_details_pb2.RequestInfo]:
    """Everything in the details of a status can be read; returns what they say of the request."""
    infos = []
    for detail in details:
        assert detail.TypeName().startswith(KNOWN_DETAILS), f"{method}: {detail.TypeName()}"
        unpacked = _unpacked(detail)
        if isinstance(unpacked, error_details_pb2.RequestInfo):
            infos.append(unpacked)
    return infos


def _unpacked(packed: AnyMessage) -> Message:
    message = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(packed.TypeName()))()
    assert packed.Unpack(message)
    return message


def _value(message: Any, path: str) -> Any:
    """What the path leads to: enums by name, lists as lists, maps as dicts."""
    value = message
    for name in path.split("."):
        if isinstance(value, AnyMessage):
            value = _unpacked(value)
        if isinstance(value, list):
            assert int(name) < len(value), f"{path}: there are only {len(value)}"
            value = value[int(name)]
        elif isinstance(value, dict):
            value = value[name]
        else:
            value = _field(value, name, path)
    return value


def _field(message: Message, name: str, path: str) -> Any:
    descriptor = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
        return dict(value)
    if descriptor.is_repeated:
        return list(value)
    if descriptor.message_type is not None:
        assert message.HasField(name), f"{path}: {name} is absent"
    if descriptor.enum_type is not None:
        return descriptor.enum_type.values_by_number[value].name
    return value
