"""Rules that no .proto file of ours uses today, and rules that make no sense."""

import itertools
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass

from darkroom.api.validation import MAX_VIOLATIONS, Report, Validator
from darkroom.domain.bounds import Bounds, RuleError
from darkroom_pb.yandex.cloud import validation_pb2
from darkroom_pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2

Field = descriptor_pb2.FieldDescriptorProto
_numbers = itertools.count()


def message_with(kind: Any, *, repeated: bool = False, optional: bool = False, **rules: Any) -> Any:
    """A message class with one field `f` of a type, under the rules given."""
    number = next(_numbers)
    file = descriptor_pb2.FileDescriptorProto(
        name=f"tests/rules{number}.proto", package=f"tests.rules{number}", syntax="proto3"
    )
    file.dependency.append(validation_pb2.DESCRIPTOR.name)
    message = file.message_type.add(name="M")
    label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
    field = message.field.add(name="f", number=1, type=kind, label=label)
    if kind == Field.TYPE_MESSAGE:
        field.type_name = f".{file.package}.M"
    if optional:
        message.oneof_decl.add(name="_f")
        field.proto3_optional = True
        field.oneof_index = 0
    for rule, value in rules.items():
        extension = getattr(validation_pb2, rule)
        if rule == "map_key":
            field.options.Extensions[extension].CopyFrom(value)
        else:
            field.options.Extensions[extension] = value
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.M"))


def paths(message: Any) -> list[str]:
    report: Report = []
    Validator().compile(message.DESCRIPTOR)(message, "", report)
    return [violation.field for violation in report]


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("<=64", [-1, 64], [65]),
        ("<64", [63], [64]),
        (">=1", [1, 2], [0]),
        (">1", [2], [1]),
        ("1-64", [1, 64], [0, 65]),
        ("7", [7], [6, 8]),
        ("-5--1", [-5, -1], [-6, 0]),
        ("-5-1", [-5, 1], [-6, 2]),
    ],
)
def test_bounds(text: str, inside: list[int], outside: list[int]) -> None:
    bounds = Bounds.parse(text)
    assert all(number in bounds for number in inside)
    assert not any(number in bounds for number in outside)


@pytest.mark.parametrize("text", ["", "abc", "5-1", "<=", "1-", "1..5", " 5", "5 ", "1s-5s", "=5"])
def test_a_bound_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(RuleError):
        Bounds.parse(text)


@pytest.mark.parametrize(
    ("kind", "rules"),
    [
        (Field.TYPE_STRING, {"length": "many"}),
        (Field.TYPE_STRING, {"pattern": "("}),
        (Field.TYPE_STRING, {"value": "<=5"}),
        (Field.TYPE_STRING, {"size": "<=5"}),
        (Field.TYPE_STRING, {"unique": True}),
        (Field.TYPE_STRING, {"map_key": validation_pb2.MapKeySpec(length="<=5")}),
        (Field.TYPE_INT64, {"length": "<=5"}),
        (Field.TYPE_INT64, {"pattern": "a"}),
        (Field.TYPE_INT64, {"bytes": "<=5"}),
        (Field.TYPE_BOOL, {"value": "<=5"}),
    ],
)
def test_a_rule_that_makes_no_sense_stops_the_start_and_names_its_field(
    kind: Any, rules: dict[str, Any]
) -> None:
    with pytest.raises(RuleError, match=r"tests\.rules\d+\.M\.f: "):
        Validator().compile(message_with(kind, **rules).DESCRIPTOR)


def test_unique_names_the_element_that_repeats() -> None:
    message = message_with(Field.TYPE_STRING, repeated=True, unique=True)
    assert paths(message(f=["a", "b", "A"])) == []
    assert paths(message(f=["a", "b", "a", "a"])) == ["f[2]", "f[3]"]


def test_bytes_counts_bytes() -> None:
    text = message_with(Field.TYPE_STRING, bytes="<=4")
    assert paths(text(f="\u00e9\u00e9")) == []
    assert paths(text(f="\u00e9\u00e9a")) == ["f"]
    raw = message_with(Field.TYPE_BYTES, bytes="2-4")
    assert (paths(raw(f=b"12")), paths(raw(f=b"1234")), paths(raw())) == ([], [], [])
    assert (paths(raw(f=b"1")), paths(raw(f=b"12345"))) == (["f"], ["f"])


def test_value_judges_each_element_zero_included() -> None:
    message = message_with(Field.TYPE_INT64, repeated=True, value="1-5")
    assert paths(message(f=[1, 5])) == []
    assert paths(message(f=[0, 1, 6])) == ["f[0]", "f[2]"]


def test_a_field_with_presence_is_judged_when_it_is_set_even_to_zero() -> None:
    message = message_with(Field.TYPE_INT64, optional=True, value=">=1")
    assert paths(message()) == []
    assert paths(message(f=0)) == ["f"]
    required = message_with(Field.TYPE_INT64, optional=True, required=True)
    assert (paths(required()), paths(required(f=0))) == (["f"], [])


def test_a_message_may_contain_itself() -> None:
    message = message_with(Field.TYPE_MESSAGE, repeated=True, size="<=1")
    assert paths(message(f=[message(f=[message()])])) == []
    assert paths(message(f=[message(f=[message(), message()])])) == ["f[0].f"]


def test_a_number_that_the_enum_does_not_name_is_refused() -> None:
    request = image_service_pb2.CreateImageRequest(folder_id="f", uri="u")
    request.os.type = image_pb2.Os.WINDOWS
    assert paths(request) == []
    request.os.type = 3  # type: ignore[assignment]
    assert paths(request) == ["os.type"]
    assert paths(image_pb2.Os(type=-1)) == ["type"]  # type: ignore[arg-type]


def test_a_report_stops_growing() -> None:
    request = image_service_pb2.CreateImageRequest(
        folder_id="f", uri="u", product_ids=["p" * 51] * (2 * MAX_VIOLATIONS)
    )
    assert len(paths(request)) == MAX_VIOLATIONS


def test_of_a_map_that_is_too_large_the_entries_are_not_judged() -> None:
    labels = {f"K{number}": "V" for number in range(65)}
    request = image_service_pb2.CreateImageRequest(folder_id="f", uri="u", labels=labels)
    assert paths(request) == ["labels"]


def test_the_key_in_a_path_is_short_and_printable() -> None:
    request = image_service_pb2.CreateImageRequest(
        folder_id="f", uri="u", labels={'"\n\u2603' + "k" * 500: ""}
    )
    for path in paths(request):
        assert path.isascii() and path.isprintable() and len(path) < 100
        assert path.startswith(r'labels["\"\n\u2603kkk')
