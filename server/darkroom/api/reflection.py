"""grpc.reflection.v1 and v1alpha, answered from the descriptor set with its comments.

`grpcio-reflection`'s own servicer answers from the descriptor pool, which has forgotten them, and
knows only v1alpha. The two versions differ in the name of their package and in nothing else, so
the messages of the one read and write the other.
"""

from collections.abc import Iterable, Iterator
from importlib import resources

import grpc
from google.protobuf import descriptor_pb2, text_format
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

_ALPHA = descriptor_pb2.FileDescriptorProto()
reflection_pb2.DESCRIPTOR.CopyToProto(_ALPHA)


_STABLE = text_format.Parse(
    text_format.MessageToString(_ALPHA).replace("v1alpha", "v1"),
    descriptor_pb2.FileDescriptorProto(),
)
# A pool of its own: the default one is for whoever brings the original file.
_POOL = DescriptorPool()
_POOL.Add(_STABLE)

SERVICES: tuple[ServiceDescriptor, ...] = (
    _POOL.FindServiceByName("grpc.reflection.v1.ServerReflection"),
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
)

_NOT_FOUND = reflection_pb2.ErrorResponse(
    error_code=grpc.StatusCode.NOT_FOUND.value[0],
    error_message="no such file, symbol or extension",
)
_INVALID = reflection_pb2.ErrorResponse(
    error_code=grpc.StatusCode.INVALID_ARGUMENT.value[0], error_message="empty request"
)


class DescriptorIndex:
    """Finds .proto files by name, by what they declare and by the extensions they hold."""

    def __init__(self, files: Iterable[descriptor_pb2.FileDescriptorProto]) -> None:
        self._files: dict[str, bytes] = {}
        self._imports: dict[str, list[str]] = {}
        self._symbols: dict[str, str] = {}
        self._extensions: dict[tuple[str, int], str] = {}
        for file in files:
            self._add(file)

    def _add(self, file: descriptor_pb2.FileDescriptorProto) -> None:
        self._files[file.name] = file.SerializeToString()
        self._imports[file.name] = list(file.dependency)
        prefix = file.package + "." if file.package else ""
        self._add_extensions(file.extension, prefix, file.name)
        for message in file.message_type:
            self._add_message(message, prefix, file.name)
        for enum in file.enum_type:
            self._add_enum(enum, prefix, file.name)
        for service in file.service:
            self._symbols[prefix + service.name] = file.name
            for method in service.method:
                self._symbols[f"{prefix}{service.name}.{method.name}"] = file.name

    def _add_message(self, message: descriptor_pb2.DescriptorProto, prefix: str, file: str) -> None:
        inner = f"{prefix}{message.name}."
        self._symbols[prefix + message.name] = file
        for field in message.field:
            self._symbols[inner + field.name] = file
        for oneof in message.oneof_decl:
            self._symbols[inner + oneof.name] = file
        self._add_extensions(message.extension, inner, file)
        for nested in message.nested_type:
            self._add_message(nested, inner, file)
        for enum in message.enum_type:
            self._add_enum(enum, inner, file)

    def _add_enum(self, enum: descriptor_pb2.EnumDescriptorProto, prefix: str, file: str) -> None:
        self._symbols[prefix + enum.name] = file
        for value in enum.value:  # a sibling of its enum, as in C++
            self._symbols[prefix + value.name] = file

    def _add_extensions(
        self, extensions: Iterable[descriptor_pb2.FieldDescriptorProto], prefix: str, file: str
    ) -> None:
        for extension in extensions:
            self._symbols[prefix + extension.name] = file
            self._extensions[extension.extendee.lstrip("."), extension.number] = file

    def file(self, name: str) -> list[bytes]:
        """The file and all it imports, each once; empty if there is no such file."""
        found: dict[str, bytes] = {}
        wanted = [name]
        while wanted:
            one = wanted.pop()
            if one in self._files and one not in found:
                found[one] = self._files[one]
                wanted += self._imports[one]
        return list(found.values())

    def file_of_symbol(self, symbol: str) -> list[bytes]:
        return self.file(self._symbols.get(symbol, ""))

    def file_of_extension(self, message: str, number: int) -> list[bytes]:
        return self.file(self._extensions.get((message, number), ""))

    def extension_numbers(self, message: str) -> list[int] | None:
        """Numbers of the extensions of a message; None if there is no such message."""
        if message not in self._symbols:
            return None
        return sorted(number for extendee, number in self._extensions if extendee == message)


def served_index() -> DescriptorIndex:
    """All we serve: our own .proto files with comments, health and reflection without."""
    packed = resources.files("darkroom_pb").joinpath("descriptors.binpb").read_bytes()
    files = list(descriptor_pb2.FileDescriptorSet.FromString(packed).file)
    health = descriptor_pb2.FileDescriptorProto()
    health_pb2.DESCRIPTOR.CopyToProto(health)
    return DescriptorIndex([*files, health, _STABLE, _ALPHA])


class Reflection:
    """Answers one stream of questions."""

    def __init__(self, index: DescriptorIndex, services: Iterable[str]) -> None:
        self._index = index
        self._services = sorted(services)

    def answer_all(self, requests: Iterator[bytes], context: object) -> Iterator[bytes]:
        for data in requests:
            try:
                request = reflection_pb2.ServerReflectionRequest.FromString(data)
            except DecodeError:
                request = reflection_pb2.ServerReflectionRequest()
            yield self.answer(request).SerializeToString()

    def answer(
        self, request: reflection_pb2.ServerReflectionRequest
    ) -> reflection_pb2.ServerReflectionResponse:
        response = reflection_pb2.ServerReflectionResponse(
            valid_host=request.host, original_request=request
        )
        match request.WhichOneof("message_request"):
            case "file_by_filename":
                _put_files(response, self._index.file(request.file_by_filename))
            case "file_containing_symbol":
                symbol = request.file_containing_symbol
                _put_files(response, self._index.file_of_symbol(symbol))
            case "file_containing_extension":
                wanted = request.file_containing_extension
                message, number = wanted.containing_type, wanted.extension_number
                _put_files(response, self._index.file_of_extension(message, number))
            case "all_extension_numbers_of_type":
                message = request.all_extension_numbers_of_type
                numbers = self._index.extension_numbers(message)
                if numbers is None:
                    response.error_response.CopyFrom(_NOT_FOUND)
                else:
                    response.all_extension_numbers_response.base_type_name = message
                    response.all_extension_numbers_response.extension_number.extend(numbers)
            case "list_services":
                for name in self._services:
                    response.list_services_response.service.add(name=name)
            case _:
                response.error_response.CopyFrom(_INVALID)
        return response


def _put_files(response: reflection_pb2.ServerReflectionResponse, files: list[bytes]) -> None:
    if files:
        response.file_descriptor_response.file_descriptor_proto.extend(files)
    else:
        response.error_response.CopyFrom(_NOT_FOUND)
