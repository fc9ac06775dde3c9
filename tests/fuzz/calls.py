"""Random calls of every method that a server offers, from one seed.

Most are well-formed and some make sense, because ids that come back are used again; the rest has
values at and beyond the limits, or is no message at all.
"""

import random
from collections import Counter
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

import darkroom.api.server  # noqa: F401  registers every service's descriptors
from darkroom.api.permissions import PERMISSIONS
from darkroom_pb.yandex.cloud.operation import operation_pb2

DEFECTS = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
    # One call at a time is no load: whatever is out of reach then was lost.
    grpc.StatusCode.UNAVAILABLE,
}
"""What no request may ever be answered with."""

_CALL_SECONDS = 20.0
_STRANGE = (
    "",
    " ",
    "\0",
    "a\0b",
    "\u202e",
    "\U0001f4a9" * 20,
    "A" * 51,
    "a" * 5000,
    "../../etc/passwd",
    "' OR 1=1 --",
    '"; DROP TABLE resource; --',
    "%s%n{0}${x}",
    "ÿ",
    "-1",
)
_PLAUSIBLE = {
    "folder_id": ("folder", "other", "standard-images"),
    "destination_folder_id": ("folder", "other"),
    "zone_id": ("ru-central1-a", "ru-central1-b"),
    "destination_zone_id": ("ru-central1-b",),
    "type_id": ("network-hdd", "network-ssd"),
    "name": ("", "a", "b", "image-1"),
    "family": ("f", "g"),
    "order_by": ("", "id", "createdAt desc", "name,id"),
    "filter": ("", 'name = "a"', 'labels.a = "b"', 'status IN ("READY")', 'name = "a'),
    "uri": ("https://storage.yandexcloud.net/bucket/x?X-Amz-Signature=1", "http://127.0.0.1/x"),
    "role_id": ("viewer", "editor", "compute.images.user"),
    "type": ("userAccount", "system", "nobody"),
    "paths": ("name", "labels", "description", "min_disk_size", "id", "labels.a", "*"),
}
_HEADERS = (
    *("authorization", "x-request-id", "x-client-request-id", "idempotency-key", "traceparent"),
    *(
        "x-darkroom-subject",
        "x-forwarded-client-cert",
        "user-agent",
        "x-odd-bin",
        "x-forwarded-for",
    ),
)
_HEADER_VALUES = (
    *(
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Bearer t1.a.b",
        "Bearer eyJhbGciOiJub25lIn0.e30.",
        "Basic YQ==",
    ),
    *("a" * 2000, "userAccount:root", "URI=spiffe://a/b", "one", "%0a%00", "{}", "-1"),
    *("00-" + "0" * 32 + "-" + "0" * 16 + "-01", "00-" + "f" * 32 + "-" + "f" * 16 + "-ff"),
)
_NUMBERS = (0, 1, -1, 2, 7, 1000, 1001, 4096, 4194304, 1 << 30, (1 << 31) - 1, (1 << 63) - 1)


def methods() -> dict[str, Any]:
    """Path and request type of every method in the permission table."""
    found: dict[str, Any] = {}
    for path in PERMISSIONS:
        found[path] = _method(path).input_type
    return found


def _method(path: str) -> Any:
    service, _, method = path.strip("/").partition("/")
    # Version 1 of reflection has the messages of its predecessor.
    service = service.replace("grpc.reflection.v1.", "grpc.reflection.v1alpha.")
    return descriptor_pool.Default().FindServiceByName(service).methods_by_name[method]


class Storm:
    """Calls one server, remembers ids and tokens that it answers with."""

    def __init__(self, channel: grpc.Channel, seed: int, token: str = "") -> None:
        """Most calls have the token, if there is one."""
        self._channel: Any = channel
        self._token = token
        self._random = random.Random(seed)
        self._texts: dict[str, list[str]] = {}
        self._methods = methods()
        self.codes: Counter[str] = Counter()
        self.defects: list[str] = []

    def blow(self, calls: int) -> None:
        """Make so many calls; `codes` counts the answers, `defects` names the bad ones."""
        paths = sorted(self._methods)
        for number in range(calls):
            path = self._random.choice(paths)
            request = GetMessageClass(self._methods[path])()
            self._fill(request, depth=0)
            body = request.SerializeToString()
            if self._random.random() < 0.1:
                body = self._damaged(body)
            code = self._call(path, body)
            self.codes[code.name] += 1
            if code in DEFECTS:
                self.defects.append(f"call {number}: {path} {body!r} answered {code.name}")

    def _call(self, path: str, body: bytes) -> grpc.StatusCode:
        # One request and the first answer do for methods of any kind.
        call = self._channel.stream_stream(path)(
            iter([body]), timeout=_CALL_SECONDS, metadata=self._metadata()
        )
        try:
            answer = next(call, None)
            if answer is not None:
                self._learn(path, answer)
            call.cancel()
        except grpc.RpcError as error:
            failed: Any = error
            code: grpc.StatusCode = failed.code()
            return code
        return grpc.StatusCode.OK

    def _learn(self, path: str, answer: bytes) -> None:
        message: Any = GetMessageClass(_method(path).output_type)()
        message.ParseFromString(answer)
        if isinstance(message, operation_pb2.Operation):
            self._keep("operation_id", message.id)
            for field, value in _unpacked(message.metadata).ListFields():
                if isinstance(value, str):
                    self._keep(field.name, value)
                    self._keep("resource_id", value)
        for field, value in message.ListFields():
            if field.name == "next_page_token":
                self._keep("page_token", value)

    def _keep(self, name: str, text: str) -> None:
        known = self._texts.setdefault(name, [])
        known.append(text)
        del known[:-20]

    def _metadata(self) -> list[tuple[str, str | bytes]]:
        sent: list[tuple[str, str | bytes]] = []
        if self._token and self._random.random() < 0.95:
            sent.append(("authorization", f"Bearer {self._token}"))
        if self._random.random() < 0.1:
            key = self._random.choice(_HEADERS)
            value = self._random.choice(_HEADER_VALUES)
            sent.append((key, value.encode() if key.endswith("-bin") else value))
        return sent

    # --- messages ---------------------------------------------------------------------------------

    def _fill(self, message: Any, depth: int) -> None:
        chosen = {
            oneof.name: self._random.choice(oneof.fields).name
            for oneof in message.DESCRIPTOR.oneofs
        }
        for field in message.DESCRIPTOR.fields:
            oneof = field.containing_oneof
            if oneof is not None and chosen[oneof.name] != field.name:
                continue
            if self._random.random() < (0.85 if depth == 0 else 0.5):
                self._set(message, field, depth)

    def _set(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        held: Any = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            self._fill_map(held, field.message_type)
        elif field.is_repeated:
            for _ in range(self._random.choice((0, 1, 1, 2, 5, 1100))):
                if field.message_type is None:
                    held.append(self._scalar(field))
                else:
                    self._fill(held.add(), depth + 1)
        elif field.message_type is not None:
            held.SetInParent()
            if depth < 4:
                self._fill(held, depth + 1)
        else:
            setattr(message, field.name, self._scalar(field))

    def _fill_map(self, held: Any, entry: Any) -> None:
        for _ in range(self._random.choice((0, 1, 1, 3, 70))):
            key = self._scalar(entry.fields_by_name["key"])
            value = entry.fields_by_name["value"]
            if value.message_type is None:
                held[key] = self._scalar(value)
            else:
                held[key].SetInParent()

    def _scalar(self, field: FieldDescriptor) -> Any:
        kind = field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return self._random.randbytes(self._random.choice((0, 1, 300)))
            return self._text(field.name)
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            enum: Any = field.enum_type
            return self._random.choice([*enum.values_by_number, 99])
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return self._random.random() < 0.5
        if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return self._random.choice((0.0, -1.5, float("inf"), float("nan")))
        number = self._random.choice(_NUMBERS)
        if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32):
            number = max(-1, min(number, (1 << 31) - 1))
        unsigned = (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)
        return abs(number) if kind in unsigned else number

    def _text(self, name: str) -> str:
        lot = self._random.random()
        if lot < 0.55 and self._texts.get(name):
            return self._random.choice(self._texts[name])
        if lot < 0.85 and name in _PLAUSIBLE:
            return self._random.choice(_PLAUSIBLE[name])
        if lot < 0.92:
            return self._random.choice(_STRANGE)
        return "".join(self._random.choice("ab0-_ .é") for _ in range(self._random.randrange(12)))

    def _damaged(self, body: bytes) -> bytes:
        data = bytearray(body or b"\x0a")
        for _ in range(self._random.choice((1, 3, 20))):
            data[self._random.randrange(len(data))] = self._random.randrange(256)
        return bytes(data[: self._random.randrange(len(data) + 1)])


def _unpacked(packed: Any) -> Message:
    descriptor = descriptor_pool.Default().FindMessageTypeByName(packed.TypeName())
    message = GetMessageClass(descriptor)()
    packed.Unpack(message)
    return message
