"""A descriptor set, taken apart: what it declares by full name, with comments and rules."""

import re
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from darkroom.domain.bounds import Bounds


@dataclass(frozen=True)
class Declared:
    """A message, an enum or a service: its descriptor, the comment above it, its package."""

    proto: Any
    comment: str
    package: str


@dataclass(frozen=True)
class Rules:
    """The `(yandex.cloud.*)` options of a field, or the `map_key` among them."""

    required: bool = False
    unique: bool = False
    pattern: str = ""
    length: Bounds | None = None
    value: Bounds | None = None
    size: Bounds | None = None
    map_key: "Rules | None" = None


@dataclass
class Protos:
    """Everything that a descriptor set declares, by full name."""

    pool: descriptor_pool.DescriptorPool
    messages: dict[str, Declared] = field(default_factory=dict)
    enums: dict[str, Declared] = field(default_factory=dict)
    services: dict[str, Declared] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    """Of fields, oneofs, enum values and methods; theirs is the name of what they are part of,
    with a dot and their own name behind it."""

    @classmethod
    def read(cls, descriptor_set: bytes) -> "Protos":
        """Take apart a descriptor set that has source info and all that its files import."""
        pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(descriptor_set).file:
            pool.AddSerializedFile(file.SerializeToString())
        # Only in the classes of this pool do options have the extensions that the set declares.
        own = pool.FindMessageTypeByName("google.protobuf.FileDescriptorSet")
        files: Any = message_factory.GetMessageClass(own).FromString(descriptor_set)
        protos = cls(pool)
        for file in files.file:
            _Reader(protos, file).read()
        return protos

    def option(self, options: Any, name: str) -> Any:
        """The value of an extension of options, its default if it is not set."""
        return options.Extensions[self.pool.FindExtensionByName(name)]

    def rules(self, options: Any) -> Rules:
        """The rules of a field. Raises `RuleError`."""

        def option(name: str) -> Any:
            return self.option(options, f"yandex.cloud.{name}")

        value = option("value")
        key = option("map_key")
        return Rules(
            required=option("required"),
            unique=option("unique"),
            pattern=option("pattern"),
            length=_bounds(option("length")),
            # Of a time, it is no interval of numbers.
            value=None if "T" in value else _bounds(value),
            size=_bounds(option("size")),
            map_key=Rules(
                pattern=key.pattern, length=_bounds(key.length), value=_bounds(key.value)
            ),
        )


class _Reader:
    """Walks over one file."""

    def __init__(self, protos: Protos, file: Any) -> None:
        self._protos, self._file = protos, file
        # What others say about their protos is theirs to publish.
        ours = file.package.startswith("yandex.")
        self._comments = {
            tuple(each.path): _paragraphs(each.leading_comments)
            for each in file.source_code_info.location
            if ours
        }

    def read(self) -> None:
        """Enter everything that the file declares. The numbers are those of descriptor.proto."""
        package = self._file.package
        for index, message in enumerate(self._file.message_type):
            self._message(message, package, (4, index))
        for index, enum in enumerate(self._file.enum_type):
            self._enum(enum, package, (5, index))
        for index, service in enumerate(self._file.service):
            name = f"{package}.{service.name}"
            self._protos.services[name] = self._declared(service, (6, index))
            self._parts(name, service.method, (6, index, 2))

    def _message(self, message: Any, scope: str, path: tuple[int, ...]) -> None:
        name = f"{scope}.{message.name}"
        self._protos.messages[name] = self._declared(message, path)
        self._parts(name, message.field, (*path, 2))
        self._parts(name, message.oneof_decl, (*path, 8))
        for index, inner in enumerate(message.nested_type):
            self._message(inner, name, (*path, 3, index))
        for index, inner in enumerate(message.enum_type):
            self._enum(inner, name, (*path, 4, index))

    def _enum(self, enum: Any, scope: str, path: tuple[int, ...]) -> None:
        name = f"{scope}.{enum.name}"
        self._protos.enums[name] = self._declared(enum, path)
        self._parts(name, enum.value, (*path, 2))

    def _declared(self, proto: Any, path: tuple[int, ...]) -> Declared:
        return Declared(proto, self._comments.get(path, ""), self._file.package)

    def _parts(self, name: str, parts: Any, path: tuple[int, ...]) -> None:
        for index, part in enumerate(parts):
            comment = self._comments.get((*path, index), "")
            self._protos.comments[f"{name}.{part.name}"] = comment


def _paragraphs(comment: str) -> str:
    """A comment with one line for each of its paragraphs, and for each `CODE: why` in them."""
    text = "\n".join(line.strip() for line in comment.strip().splitlines())
    return re.sub(r"(?<!\n)\n(?!\n|[A-Z_]+: )", " ", text)


def _bounds(text: str) -> Bounds | None:
    return Bounds.parse(text) if text else None
