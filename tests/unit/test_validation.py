"""Every rule of every message: the boundary is accepted, one past it is refused.

The cases are made from the text of the rules by readers of their own, so that a mistake in the
validator's reading is not repeated here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from darkroom.api import reflection  # noqa: F401  registers health and reflection
from darkroom.api.validation import REQUIRED, Report, Validator, has_presence, is_map
from darkroom_pb.yandex.cloud import validation_pb2


def our_messages() -> list[Any]:
    """Every message type of our own .proto files, nested ones included, map entries left out."""
    packed = resources.files("darkroom_pb").joinpath("descriptors.binpb").read_bytes()
    pool = descriptor_pool.Default()
    found: list[Any] = []
    for file in descriptor_pb2.FileDescriptorSet.FromString(packed).file:
        if file.name.startswith("yandex/"):
            found += pool.FindFileByName(file.name).message_types_by_name.values()
    for descriptor in found:  # grows as it goes
        found += [each for each in descriptor.nested_types if not each.GetOptions().map_entry]
    return found


def import_all() -> None:
    """Load every generated module, so that the pool knows all of them."""
    import importlib

    root = resources.files("darkroom_pb")

    def walk(folder: Any, package: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir() and entry.name != "__pycache__":
                walk(entry, f"{package}.{entry.name}")
            elif entry.name.endswith("_pb2.py"):
                importlib.import_module(f"{package}.{entry.name.removesuffix('.py')}")

    walk(root, "darkroom_pb")


import_all()


def option(field: FieldDescriptor, name: str) -> Any:
    return field.GetOptions().Extensions[getattr(validation_pb2, name)]


# --- what a rule says, read a second time ---------------------------------------------------------


def limits(text: str) -> tuple[int | None, int | None]:
    """Lower and upper bound, both included."""
    if text.startswith("<="):
        return None, int(text[2:])
    if text.startswith(">="):
        return int(text[2:]), None
    if text.startswith("<"):
        return None, int(text[1:]) - 1
    if text.startswith(">"):
        return int(text[1:]) + 1, None
    if text.isdigit():
        return int(text), int(text)
    low, high = text.split("-")
    return int(low), int(high)


PATTERNS = {
    "|[a-z]([-_a-z0-9]{0,61}[a-z0-9])?": (
        ["a", "a0", "a-b", "a_b", "a" * 63],
        ["a" * 64, "-a", "a-", "0a", "A", "a.b", "a\n", "\u00e4", " "],
    ),
    "|[a-z]([-a-z0-9]{0,61}[a-z0-9])?": (
        ["a", "a0", "a-b", "a" * 63],
        ["a" * 64, "-a", "a-", "0a", "A", "a_b", "a\n"],
    ),
    "[a-z]([-a-z0-9]{0,61}[a-z0-9])?": (
        ["a", "a0", "a-b", "a" * 63],
        ["", "a" * 64, "-a", "a-", "0a", "A", "a_b", "a\n"],
    ),
    "[-_0-9a-z]*": (["", "-_09az"], ["A", "a b", "a\n", ".", "\u00e4"]),
    "|[a-z][-a-z0-9]{1,61}[a-z0-9]": (
        ["abc", "a-0", "a" * 63],
        ["ab", "a", "a" * 64, "ab-", "-ab", "0ab", "a_b", "abc\n"],
    ),
    r"[-_./\\@0-9a-z]*": (["", "-_./\\@09az"], ["A", "a b", "a\n", ":", "\u00e4"]),
    r"[a-z][-_./\\@0-9a-z]*": (["a", "a-_./\\@09z"], ["0", "-a", "A", "a b", "a\n"]),
    "[a-z][-_0-9a-z]*": (["a", "a-_09"], ["0", "-a", "A", "a.b", "a\n"]),
}
"""Texts on either side of each pattern; a pattern that is new in a .proto file fails the test."""


# --- messages that break no rule ------------------------------------------------------------------


def good_value(field: FieldDescriptor) -> Any:
    """A value that no rule of the field minds."""
    if field.message_type is not None:
        return good_message(field.message_type)
    if field.enum_type is not None:
        return max(field.enum_type.values_by_number)
    if field.type == FieldDescriptor.TYPE_STRING:
        low, _ = limits(option(field, "length")) if option(field, "length") else (None, None)
        return "a" * max(low or 0, 3)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return b"a"
    if field.type == FieldDescriptor.TYPE_BOOL:
        return True
    low, high = limits(option(field, "value")) if option(field, "value") else (None, None)
    return low if low is not None else high if high is not None else 1


def good_message(descriptor: Any) -> Message:
    """A message with what is required, and one field of each oneof that needs one."""
    message = GetMessageClass(descriptor)()
    wanted = [field for field in descriptor.fields if option(field, "required")]
    for field in descriptor.fields:
        if field.is_repeated and option(field, "size"):
            low, _ = limits(option(field, "size"))
            if low:
                wanted.append(field)
    wanted += [
        oneof.fields[0]
        for oneof in descriptor.oneofs
        if oneof.GetOptions().Extensions[validation_pb2.exactly_one]
    ]
    for field in wanted:
        put(message, field, good_value(field), 1)
    return message


def put(message: Message, field: FieldDescriptor, value: Any, count: int = 1) -> None:
    """Set a field; a repeated one to `count` elements, a map to `count` entries with the value."""
    if is_map(field):
        entries = getattr(message, field.name)
        assert field.message_type is not None
        inner = field.message_type.fields_by_name["value"]
        for number in range(count):
            if inner.message_type is not None:
                entries[f"k{number}"].CopyFrom(good_message(inner.message_type))
            else:
                entries[f"k{number}"] = value if not isinstance(value, Message) else "v"
    elif field.is_repeated:
        elements = getattr(message, field.name)
        elements.extend([value] * count)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


# --- the walk -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One message and the path that must be refused in it; None if it must be accepted."""

    name: str
    message: Message
    refused: str | None


def with_value(field: FieldDescriptor, value: Any, count: int = 1) -> Message:
    message = good_message(field.containing_type)
    message.ClearField(field.name)
    put(message, field, value, count)
    return message


def element_path(field: FieldDescriptor) -> str:
    if is_map(field):
        return f'{field.name}["k0"]'
    return f"{field.name}[0]" if field.is_repeated else field.name


def value_field(field: FieldDescriptor) -> FieldDescriptor:
    """The field that says what type the values have."""
    if is_map(field):
        assert field.message_type is not None
        return field.message_type.fields_by_name["value"]
    return field


def cases_of(field: FieldDescriptor) -> Iterator[Case]:
    """Accepting and refusing cases of every rule of a field."""
    for rule, make in (
        ("required", required_cases),
        ("length", length_cases),
        ("pattern", pattern_cases),
        ("value", value_cases),
        ("size", size_cases),
        ("map_key", map_key_cases),
    ):
        if field.GetOptions().HasExtension(getattr(validation_pb2, rule)):
            yield from make(field)
    for rule in ("unique", "bytes"):
        assert not field.GetOptions().HasExtension(getattr(validation_pb2, rule)), (
            f"{field.full_name}: ({rule}) is used now and needs cases here"
        )


def required_cases(field: FieldDescriptor) -> Iterator[Case]:
    yield Case("there", good_message(field.containing_type), None)
    missing = good_message(field.containing_type)
    missing.ClearField(field.name)
    yield Case("missing", missing, field.name)
    if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
        yield Case("empty", with_value(field, ""), field.name)
    if field.enum_type is not None:
        yield Case("unspecified", with_value(field, 0), field.name)


def length_cases(field: FieldDescriptor) -> Iterator[Case]:
    low, high = limits(option(field, "length"))
    # Two bytes a character: what is counted is characters. Latin where a pattern asks for it.
    letter = "a" if option(field, "pattern") else "\u00e9"
    path = element_path(field)
    if high is not None:
        yield Case(f"{high} characters", with_value(field, letter * high), None)
        yield Case(f"{high + 1} characters", with_value(field, letter * (high + 1)), path)
    if low:
        yield Case(f"{low} characters", with_value(field, letter * low), None)
        if low > 1:
            yield Case(f"{low - 1} characters", with_value(field, letter * (low - 1)), path)


def pattern_cases(field: FieldDescriptor) -> Iterator[Case]:
    accepted, refused = PATTERNS[option(field, "pattern")]
    for text in accepted:
        yield Case(f"text {text[:8]!r}", with_value(field, text), None)
    for text in refused:
        yield Case(f"text {text[:8]!r}", with_value(field, text), element_path(field))
    if not field.is_repeated:
        yield Case(
            "no text", with_value(field, ""), field.name if option(field, "required") else None
        )


def time_cases(field: FieldDescriptor) -> Iterator[Case]:
    """The only interval of times there is: from the epoch to the end of 2105."""
    assert option(field, "value") == "19700101T000000.000000000-21051231T235959.999999999"
    end_seconds = 4_291_747_199
    for seconds, nanos, fits in (
        (0, 0, True),
        (end_seconds, 999_999_999, True),
        (-1, 999_999_999, False),
        (end_seconds + 1, 0, False),
    ):
        moment = Timestamp(seconds=seconds, nanos=nanos)
        message = with_value(field, moment)
        yield Case(f"{seconds} s {nanos} ns", message, None if fits else field.name)


def value_cases(field: FieldDescriptor) -> Iterator[Case]:
    if field.message_type is not None:
        yield from time_cases(field)
        return
    low, high = limits(option(field, "value"))
    path = element_path(field)
    if high is not None:
        yield Case(f"{high}", with_value(field, high), None)
        yield Case(f"{high + 1}", with_value(field, high + 1), path)
    if low is not None:
        yield Case(f"{low}", with_value(field, low), None)
        below = low - 1
        single = not field.is_repeated and not has_presence(field)
        yield Case(f"{below}", with_value(field, below), None if below == 0 and single else path)
    if not field.is_repeated and not option(field, "required"):
        yield Case("zero counts as left out", with_value(field, 0), None)


def size_cases(field: FieldDescriptor) -> Iterator[Case]:
    low, high = limits(option(field, "size"))
    inner = value_field(field)
    value = "v" if inner.type == FieldDescriptor.TYPE_STRING else good_value(inner)
    if high is not None:
        yield Case(f"{high} entries", with_value(field, value, high), None)
        yield Case(f"{high + 1} entries", with_value(field, value, high + 1), field.name)
    if low:
        yield Case(f"{low} entries", with_value(field, value, low), None)
        yield Case(f"{low - 1} entries", with_value(field, value, low - 1), field.name)


def map_key_cases(field: FieldDescriptor) -> Iterator[Case]:
    rules = option(field, "map_key")
    assert not rules.value, f"{field.full_name}: (map_key).value is used now and needs cases here"

    def keyed(key: str) -> Message:
        message = good_message(field.containing_type)
        getattr(message, field.name)[key] = "v"
        return message

    accepted, refused = PATTERNS[rules.pattern]
    for key in accepted:
        yield Case(f"key {key!r}", keyed(key), None)
    for key in refused:
        yield Case(f"key {key!r}", keyed(key), field.name)
    low, high = limits(rules.length)
    assert low is not None and high is not None
    yield Case(f"key of {low}", keyed("a" * low), None)
    yield Case(f"key of {low - 1}", keyed("a" * (low - 1)), field.name)
    yield Case(f"key of {high}", keyed("a" * high), None)
    yield Case(f"key of {high + 1}", keyed("a" * (high + 1)), field.name)


def oneof_cases(descriptor: Any, oneof: Any) -> Iterator[Case]:
    nothing = good_message(descriptor)
    nothing.ClearField(oneof.name)
    yield Case("none of them", nothing, oneof.name)
    for field in oneof.fields:
        message = good_message(descriptor)
        message.ClearField(oneof.name)
        put(message, field, good_value(field))
        yield Case(f"only {field.name}", message, None)
        if field.type == FieldDescriptor.TYPE_STRING:
            empty = good_message(descriptor)
            empty.ClearField(oneof.name)
            put(empty, field, "")
            yield Case(f"{field.name} empty", empty, field.name)


def all_cases() -> Iterator[Any]:
    for descriptor in our_messages():
        for field in descriptor.fields:
            for case in cases_of(field):
                yield pytest.param(
                    case, id=f"{field.full_name.partition('cloud.')[2]}: {case.name}"
                )
        for oneof in descriptor.oneofs:
            if oneof.GetOptions().Extensions[validation_pb2.exactly_one]:
                for case in oneof_cases(descriptor, oneof):
                    yield pytest.param(case, id=f"{descriptor.name}.{oneof.name}: {case.name}")


CASES = list(all_cases())
VALIDATOR = Validator()


def report_of(message: Message) -> Report:
    report: Report = []
    VALIDATOR.compile(message.DESCRIPTOR)(message, "", report)  # type: ignore[arg-type]
    return report


@pytest.mark.parametrize("case", CASES)
def test_every_rule_accepts_its_boundary_and_refuses_one_past_it(case: Case) -> None:
    fields = {violation.field for violation in report_of(case.message)}
    if case.refused is None:
        assert fields == set()
    else:
        assert len(fields) == 1
        # The path of a map key ends with the key.
        assert fields.pop().partition("[")[0] == case.refused.partition("[")[0]


def test_every_message_with_a_rule_is_walked() -> None:
    ruled = {
        field.full_name
        for descriptor in our_messages()
        for field in descriptor.fields
        if field.GetOptions().ListFields()
        and any(
            each.full_name.startswith("yandex.cloud.")
            for each, _ in field.GetOptions().ListFields()
        )
    }
    assert len(ruled) >= 40
    assert len(CASES) > 2 * len(ruled)


def containers() -> Iterator[Any]:
    """Every field through which a message with rules lies inside another one."""
    for descriptor in our_messages():
        for field in descriptor.fields:
            inner = value_field(field).message_type
            if inner is None or inner.file.name.startswith("google/"):
                continue
            for broken in inner.fields:
                if option(broken, "required"):
                    yield pytest.param(field, broken, id=f"{field.full_name}.{broken.name}")


@pytest.mark.parametrize(("field", "broken"), list(containers()))
def test_rules_hold_inside_other_messages(field: FieldDescriptor, broken: FieldDescriptor) -> None:
    inner = value_field(field).message_type
    assert inner is not None
    value = good_message(inner)
    value.ClearField(broken.name)
    message = good_message(field.containing_type)
    message.ClearField(field.name)
    path = field.name
    if field.is_repeated:
        getattr(message, field.name).extend([good_message(inner), value])
        path += "[1]"
    else:
        getattr(message, field.name).CopyFrom(value)
        getattr(message, field.name).SetInParent()
    (violation,) = report_of(message)
    assert (violation.field, violation.description) == (f"{path}.{broken.name}", REQUIRED)
