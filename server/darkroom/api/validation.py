"""The rules that the .proto files state as `(yandex.cloud.*)` options, compiled once, all enforced.

What the rules mean, as `protos/yandex/cloud/validation.proto` tells users:

- A single field without presence that is zero or empty counts as left out: it breaks `required`
  and nothing else. So `value = "4194304-..."` lets 0 through, and a name may be empty.
- `size` and `required` judge a repeated field or a map as a whole, empty ones included; the other
  rules judge each element, or each value of a map, empty ones included; `map_key` judges each key.
- Of a oneof, only the field that is set is judged. Where the oneof is `exactly_one`, an empty
  string there is as good as nothing and is refused as a missing required field.
- A pattern must match the whole string. `length` counts characters, `bytes` bytes of UTF-8.
- No text contains NUL: not every database can keep it.
- An enum field must hold a number that the enum names: proto3 itself would let any through.

Rules of messages inside a request are enforced wherever the message occurs, in elements of repeated
fields and in values of maps too.
"""

import datetime
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    OneofDescriptor,
)
from google.protobuf.message import Message

from darkroom.domain.bounds import Bounds, RuleError
from darkroom.domain.errors import FieldViolation
from darkroom_pb.yandex.cloud import validation_pb2

MAX_VIOLATIONS = 1000
"""A report stops growing here: a request of 1 MiB has room for several hundred thousand."""

_MAX_KEY_CHARACTERS = 64
Report = list[FieldViolation]
Judge = Callable[[Any, str, Report], None]
"""Judges one value at a path."""

_NUMBERS = frozenset(
    getattr(FieldDescriptor, f"TYPE_{name}")
    for name in (
        *("INT32", "INT64", "UINT32", "UINT64", "SINT32", "SINT64"),
        *("FIXED32", "FIXED64", "SFIXED32", "SFIXED64", "FLOAT", "DOUBLE"),
    )
)
_TEXTS = frozenset((FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES))


@dataclass(frozen=True)
class Rules:
    """The options of one field, or the `map_key` of a map."""

    required: bool = False
    pattern: str = ""
    value: str = ""
    size: str = ""
    length: str = ""
    unique: bool = False
    bytes: str = ""
    map_key: "Rules | None" = None

    @classmethod
    def of_field(cls, field: FieldDescriptor) -> "Rules":
        extensions = field.GetOptions().Extensions
        map_key = None
        if field.GetOptions().HasExtension(validation_pb2.map_key):
            spec = extensions[validation_pb2.map_key]
            map_key = cls(pattern=spec.pattern, value=spec.value, length=spec.length)
        return cls(
            required=extensions[validation_pb2.required],
            pattern=extensions[validation_pb2.pattern],
            value=extensions[validation_pb2.value],
            size=extensions[validation_pb2.size],
            length=extensions[validation_pb2.length],
            unique=extensions[validation_pb2.unique],
            bytes=extensions[validation_pb2.bytes],
            map_key=map_key,
        )


def is_map(field: FieldDescriptor) -> bool:
    message = field.message_type
    return message is not None and message.GetOptions().map_entry


def has_presence(field: FieldDescriptor) -> bool:
    """Whether a single field knows the difference between unset and zero or empty."""
    return bool(field.has_presence)


# --- values ---------------------------------------------------------------------------------------


def _judge_pattern(pattern: str) -> Judge:
    try:
        matches = re.compile(pattern).fullmatch
    except re.error as error:
        raise RuleError(f'"{pattern}" is not a regular expression: {error}') from error
    description = f'must match the pattern "{pattern}"'

    def judge(value: str, path: str, report: Report) -> None:
        if matches(value) is None:
            report.append(FieldViolation(path, description))

    return judge


def _judge_number(text: str) -> Judge:
    bounds = Bounds.parse(text)

    def judge(value: float, path: str, report: Report) -> None:
        if value not in bounds:
            report.append(FieldViolation(path, f"must be {bounds}, is {value}"))

    return judge


def _judge_time(text: str) -> Judge:
    """For a Timestamp: an interval such as 19700101T000000.000000000-21051231T235959.999999999."""
    found = re.fullmatch(r"(\d{8}T\d{6})\.(\d{9})-(\d{8}T\d{6})\.(\d{9})", text)
    if found is None:
        raise RuleError(f'"{text}" is not an interval of times')

    def moment(whole: str, nanos: str) -> tuple[int, int]:
        parsed = datetime.datetime.strptime(f"{whole}Z", "%Y%m%dT%H%M%S%z")
        return int(parsed.timestamp()), int(nanos)

    low, high = moment(found[1], found[2]), moment(found[3], found[4])

    def judge(value: Any, path: str, report: Report) -> None:
        if not low <= (value.seconds, value.nanos) <= high:
            report.append(FieldViolation(path, f"must be within {text}"))

    return judge


def _judge_length(text: str, unit: str, measure: Callable[[Any], int]) -> Judge:
    bounds = Bounds.parse(text)
    low, high = bounds.low or 0, bounds.high

    def judge(value: Any, path: str, report: Report) -> None:
        size = measure(value)
        if size < low or (high is not None and size > high):
            report.append(FieldViolation(path, f"must have {bounds} {unit}, has {size}"))

    return judge


def _judge_text(value: str, path: str, report: Report) -> None:
    if "\0" in value:
        report.append(FieldViolation(path, "must not contain NUL"))


def _judge_enum(enum: EnumDescriptor) -> Judge:
    numbers = frozenset(enum.values_by_number)

    def judge(value: int, path: str, report: Report) -> None:
        if value not in numbers:
            report.append(FieldViolation(path, f"{value} is not a value of {enum.name}"))

    return judge


def _utf8_length(value: str | bytes) -> int:
    return len(value if isinstance(value, bytes) else value.encode())


def _is_time(field: FieldDescriptor) -> bool:
    message = field.message_type
    return message is not None and message.full_name == "google.protobuf.Timestamp"


def _value_judges(field: FieldDescriptor, rules: Rules) -> list[Judge]:
    """What judges one value of the field's type by the rules that are about values."""
    judges: list[Judge] = []
    for rule, types in (
        ("pattern", {FieldDescriptor.TYPE_STRING}),
        ("length", {FieldDescriptor.TYPE_STRING}),
        ("bytes", _TEXTS),
        ("value", _NUMBERS),
    ):
        if rule == "value" and _is_time(field):
            continue
        if getattr(rules, rule) and field.type not in types:
            raise RuleError(f"({rule}) means nothing for this type of field")
    if field.type == FieldDescriptor.TYPE_STRING:
        judges.append(_judge_text)
    if rules.length:
        judges.append(_judge_length(rules.length, "characters", len))
    if rules.bytes:
        judges.append(_judge_length(rules.bytes, "bytes", _utf8_length))
    if rules.pattern:
        judges.append(_judge_pattern(rules.pattern))
    if rules.value:
        judges.append((_judge_time if _is_time(field) else _judge_number)(rules.value))
    if field.enum_type is not None:
        judges.append(_judge_enum(field.enum_type))
    return judges


def _shown_key(key: object) -> str:
    """A map key as it stands in a path, kept short and in printable ASCII."""
    text = str(key)
    if len(text) > _MAX_KEY_CHARACTERS:
        text = text[:_MAX_KEY_CHARACTERS] + "..."
    return json.dumps(text)


# --- fields and messages --------------------------------------------------------------------------


class MessageJudge:
    """Judges every field of one message type, and the messages inside."""

    def __init__(self) -> None:
        self.fields: list[Judge] = []
        self.complete = False

    def __call__(self, message: Message, prefix: str, report: Report) -> None:
        for judge in self.fields:
            judge(message, prefix, report)


REQUIRED = "Field is required"


class Validator:
    """Compiles message types on demand, each once. Raises `RuleError` for a senseless rule."""

    def __init__(self) -> None:
        self._compiled: dict[str, MessageJudge] = {}

    def compile(self, descriptor: Descriptor) -> MessageJudge:
        """What judges messages of this type: call it with the message, "" and an empty list."""
        known = self._compiled.get(descriptor.full_name)
        if known is not None:
            return known
        # Registered before its fields are looked at: types may contain themselves.
        judge = self._compiled[descriptor.full_name] = MessageJudge()
        for oneof in descriptor.oneofs:
            if oneof.GetOptions().Extensions[validation_pb2.exactly_one]:
                judge.fields.append(_exactly_one(oneof))
        for field in descriptor.fields:
            try:
                judge.fields += self._field(field)
            except RuleError as error:
                raise RuleError(f"{field.full_name}: {error}") from error
        judge.complete = True
        return judge

    def _field(self, field: FieldDescriptor) -> list[Judge]:
        rules = Rules.of_field(field)
        if field.is_repeated:
            return self._map(field, rules) if is_map(field) else self._repeated(field, rules)
        if rules.size or rules.unique or rules.map_key:
            raise RuleError("(size), (unique) and (map_key) need a repeated field")
        judges = self._judges(field, rules)
        if has_presence(field):
            return _with_presence(field, rules, judges)
        return _without_presence(field, rules, judges)

    def _judges(self, field: FieldDescriptor, rules: Rules) -> list[Judge]:
        judges = _value_judges(field, rules)
        if field.message_type is not None:
            inner = self.compile(field.message_type)
            if inner.fields or not inner.complete:
                judges.append(lambda value, path, report: inner(value, path + ".", report))
        return judges

    def _repeated(self, field: FieldDescriptor, rules: Rules) -> list[Judge]:
        if rules.map_key:
            raise RuleError("(map_key) needs a map")
        judges = self._judges(field, rules)
        name = field.name

        def judge(message: Message, prefix: str, report: Report) -> None:
            values = getattr(message, name)
            if not values:
                return
            for number, value in enumerate(values):
                path = f"{prefix}{name}[{number}]"
                for one in judges:
                    one(value, path, report)
                if len(report) >= MAX_VIOLATIONS:
                    return

        return _sized(field, rules, [judge] if judges else [], _unique(field, rules))

    def _map(self, field: FieldDescriptor, rules: Rules) -> list[Judge]:
        if rules.unique:
            raise RuleError("(unique) means nothing for a map")
        entry = field.message_type
        assert entry is not None, "is_map() was true"
        key_field, value_field = entry.fields_by_name["key"], entry.fields_by_name["value"]
        keys = _value_judges(key_field, rules.map_key or Rules())
        values = self._judges(value_field, rules)
        name = field.name

        def judge(message: Message, prefix: str, report: Report) -> None:
            for key, value in getattr(message, name).items():
                path = f"{prefix}{name}[{_shown_key(key)}]"
                for one in keys:
                    one(key, path, report)
                for one in values:
                    one(value, path, report)
                if len(report) >= MAX_VIOLATIONS:
                    return

        return _sized(field, rules, [judge] if keys or values else [], None)


def _exactly_one(oneof: OneofDescriptor) -> Judge:
    name = oneof.name
    texts = {field.name for field in oneof.fields if field.type in _TEXTS}
    names = ", ".join(field.name for field in oneof.fields)
    description = f"exactly one of {names} must be set"

    def judge(message: Message, prefix: str, report: Report) -> None:
        chosen = message.WhichOneof(name)
        if chosen is None:
            report.append(FieldViolation(prefix + name, description))
        elif chosen in texts and not getattr(message, chosen):
            report.append(FieldViolation(prefix + chosen, REQUIRED))

    return judge


def _with_presence(field: FieldDescriptor, rules: Rules, judges: list[Judge]) -> list[Judge]:
    name, required = field.name, rules.required
    if not (required or judges):
        return []

    def judge(message: Message, prefix: str, report: Report) -> None:
        if message.HasField(name):
            value = getattr(message, name)
            for one in judges:
                one(value, prefix + name, report)
        elif required:
            report.append(FieldViolation(prefix + name, REQUIRED))

    return [judge]


def _without_presence(field: FieldDescriptor, rules: Rules, judges: list[Judge]) -> list[Judge]:
    name, required = field.name, rules.required
    if not (required or judges):
        return []

    def judge(message: Message, prefix: str, report: Report) -> None:
        value = getattr(message, name)
        if value:
            for one in judges:
                one(value, prefix + name, report)
        elif required:
            report.append(FieldViolation(prefix + name, REQUIRED))

    return [judge]


def _unique(field: FieldDescriptor, rules: Rules) -> Judge | None:
    if not rules.unique:
        return None
    name, is_message = field.name, field.message_type is not None

    def judge(message: Message, prefix: str, report: Report) -> None:
        first: dict[Any, int] = {}
        for number, value in enumerate(getattr(message, name)):
            same = value.SerializeToString(deterministic=True) if is_message else value
            if first.setdefault(same, number) != number:
                path = f"{prefix}{name}[{number}]"
                report.append(FieldViolation(path, f"repeats {name}[{first[same]}]"))
            if len(report) >= MAX_VIOLATIONS:
                return

    return judge


def _sized(
    field: FieldDescriptor, rules: Rules, elements: list[Judge], unique: Judge | None
) -> list[Judge]:
    """Judge the whole first: of a collection that is too large, the elements are not looked at."""
    judges = [*elements, *([unique] if unique else [])]
    if not (rules.size or rules.required):
        return judges
    name, required = field.name, rules.required
    bounds = Bounds.parse(rules.size) if rules.size else Bounds(None, None)

    def judge(message: Message, prefix: str, report: Report) -> None:
        size = len(getattr(message, name))
        if size == 0 and required:
            report.append(FieldViolation(prefix + name, REQUIRED))
        elif size not in bounds:
            report.append(FieldViolation(prefix + name, f"must have {bounds} entries, has {size}"))
        else:
            for one in judges:
                one(message, prefix, report)

    return [judge]


def compile_all(descriptors: Iterable[Descriptor]) -> dict[str, MessageJudge]:
    """Compile several types at once; by full name."""
    validator = Validator()
    return {descriptor.full_name: validator.compile(descriptor) for descriptor in descriptors}
