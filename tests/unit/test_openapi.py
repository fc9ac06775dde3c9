"""The published OpenAPI document, and the schemas that it makes of rules."""

import importlib.resources
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import validate

import openapi
from darkroom.api.permissions import PERMISSIONS, PUBLIC
from darkroom.domain.bounds import RuleError
from generate import protoc
from json_schema import Schemas, decimals
from protos import Protos

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTOR_SET = importlib.resources.files("darkroom_pb").joinpath("descriptors.binpb")
DOCUMENT: dict[str, Any] = json.loads(
    importlib.resources.files("darkroom_pb").joinpath("openapi.json").read_bytes()
)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, verb and operation of everything that the document offers."""
    for path, verbs in DOCUMENT["paths"].items():
        for verb, operation in verbs.items():
            yield path, verb, operation


def operation(operation_id: str) -> dict[str, Any]:
    found = [each for _, _, each in operations() if each["operationId"] == operation_id]
    assert len(found) == 1, operation_id
    return found[0]


def test_a_public_validator_finds_nothing_wrong() -> None:
    validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1.")


def test_every_http_binding_is_there_and_nothing_else() -> None:
    source = (ROOT / "protos").rglob("*.proto")
    bindings = {
        (verb, re.sub(r"\{(\w+)\}", "{}", path))
        for file in source
        for verb, path in re.findall(
            r"\b(get|put|post|delete|patch): \"(/[^\"]*)\"", file.read_text(encoding="utf-8")
        )
    }
    offered = {(verb, re.sub(r"\{(\w+)\}", "{}", path)) for path, verb, _ in operations()}
    assert offered == bindings
    assert len(bindings) > 60


def test_what_a_reader_sees() -> None:
    ids = [each["operationId"] for _, _, each in operations()]
    assert len(ids) == len(set(ids))
    tags = {tag["name"]: tag["description"] for tag in DOCUMENT["tags"]}
    for path, _, each in operations():
        assert each["summary"] and each["description"], path
        assert all(tags[tag] for tag in each["tags"])
        for parameter in each.get("parameters", ()):
            assert "$ref" in parameter or parameter["description"], (path, parameter)
    for name, schema in DOCUMENT["components"]["schemas"].items():
        if not name.startswith(("any.", "google.")):
            assert schema["description"], name
            for field, inner in schema.get("properties", {}).items():
                assert inner["description"], (name, field)


def test_a_request_is_split_as_the_transcoder_splits_it() -> None:
    listing = operation("ImageService_List")
    assert [(each["name"], each["in"]) for each in listing["parameters"]] == [
        (name, "query") for name in ("folderId", "pageSize", "pageToken", "filter", "orderBy")
    ]
    assert "requestBody" not in listing
    update = operation("ImageService_Update")
    assert [each.get("name", each.get("$ref")) for each in update["parameters"]] == [
        "imageId",
        "#/components/parameters/idempotencyKey",
    ]
    body = DOCUMENT["components"]["schemas"]["yandex.cloud.compute.v1.UpdateImageRequest"]
    assert list(body["properties"]) == [
        "updateMask",
        "name",
        "description",
        "minDiskSize",
        "labels",
    ]
    cancel = operation("OperationService_Cancel_post")
    assert "requestBody" not in cancel


def test_only_public_methods_need_no_token() -> None:
    public = {
        each["operationId"].replace("_post", "")
        for _, _, each in operations()
        if each.get("security") == []
    }
    assert public == {
        "_".join(path.rpartition(".")[2].split("/"))
        for path, rule in PERMISSIONS.items()
        if rule == PUBLIC and path.startswith("/yandex.")
    }


def test_an_operation_tells_the_types_that_it_holds() -> None:
    answer = operation("ImageService_Delete")["responses"]["200"]["content"]
    held = answer["application/json"]["schema"]["properties"]
    prefix = "#/components/schemas/any."
    assert held == {
        "metadata": {"$ref": f"{prefix}yandex.cloud.compute.v1.DeleteImageMetadata"},
        "response": {"$ref": f"{prefix}google.protobuf.Empty"},
    }


def test_methods_that_are_not_offered_promise_no_answer() -> None:
    create, get = operation("FolderService_Create"), operation("FolderService_Get")
    assert "200" not in create["responses"] and "501" in create["responses"]
    assert "200" in get["responses"] and "501" not in get["responses"]


def test_codes_that_comments_name_are_answers_with_their_reasons() -> None:
    responses = operation("ImageService_Create")["responses"]
    assert (
        responses["409"]["description"] == "ALREADY_EXISTS: the folder has an image of that name."
    )
    assert "does not exist or is not ready" in responses["400"]["description"]
    assert "INVALID_ARGUMENT: " in responses["400"]["description"]
    assert "409" not in operation("ImageService_Delete")["responses"]


def test_the_same_protos_give_the_same_bytes() -> None:
    descriptor_set = DESCRIPTOR_SET.read_bytes()
    assert openapi.openapi(descriptor_set) == openapi.openapi(descriptor_set)


def test_it_can_be_made_where_nothing_has_been_generated(tmp_path: Path) -> None:
    """Otherwise a broken `generated/` could never be mended."""
    code = f"""
import sys
sys.modules["darkroom_pb"] = None
sys.path.insert(0, {str(ROOT / "tools")!r})
import openapi
openapi.openapi(open({str(DESCRIPTOR_SET)!r}, "rb").read())
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=60)


def test_it_is_in_the_wheel(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert json.loads(archive.read("darkroom_pb/openapi.json")) == DOCUMENT
        assert archive.read("darkroom_pb/descriptors.binpb") == DESCRIPTOR_SET.read_bytes()


# --- rules ----------------------------------------------------------------------------------------

RULES: dict[str, dict[str, Any]] = {
    "string {}": {"type": "string"},
    'string {} [(length) = "<=9"]': {"type": "string", "maxLength": 9},
    # Empty is as good as left out, so a lower bound does not forbid it.
    'string {} [(length) = "3-9"]': {"type": "string", "maxLength": 9},
    'string {} [(required) = true, (length) = "3-9"]': {
        "type": "string",
        "minLength": 3,
        "maxLength": 9,
    },
    'optional string {} [(length) = "3-9"]': {"type": "string", "minLength": 3, "maxLength": 9},
    "string {} [(required) = true]": {"type": "string", "minLength": 1},
    'string {} [(pattern) = "a|b"]': {"type": "string", "pattern": "^(?:a|b)?$"},
    'string {} [(pattern) = "|a"]': {"type": "string", "pattern": "^(?:|a)$"},
    'string {} [(required) = true, (pattern) = "a"]': {
        "type": "string",
        "minLength": 1,
        "pattern": "^(?:a)$",
    },
    'repeated string {} [(pattern) = "a", (size) = "1-4", (unique) = true]': {
        "type": "array",
        "items": {"type": "string", "pattern": "^(?:a)$"},
        "minItems": 1,
        "maxItems": 4,
        "uniqueItems": True,
    },
    'map<string, string> {} [(size) = "<=4", (length) = "2-3", (map_key) = {length: "1-2"}]': {
        "type": "object",
        "propertyNames": {"type": "string", "minLength": 1, "maxLength": 2},
        "additionalProperties": {"type": "string", "minLength": 2, "maxLength": 3},
        "maxProperties": 4,
    },
    "map<string, Kind> {}": {
        "type": "object",
        "additionalProperties": {"$ref": "#/components/schemas/yandex.rules.Kind"},
    },
    "Kind {} [(required) = true]": {
        "$ref": "#/components/schemas/yandex.rules.Kind",
        "not": {"const": "NONE"},
    },
    "int64 {}": {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"},
    "uint64 {}": {"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"},
    'int64 {} [(value) = "7-12"]': {
        "type": "string",
        "format": "int64",
        "pattern": "^(?:0|[7-9]|1[0-2])$",
    },
    'int64 {} [(required) = true, (value) = "7-12"]': {
        "type": "string",
        "format": "int64",
        "pattern": "^(?:[7-9]|1[0-2])$",
    },
    'int32 {} [(value) = "7-12"]': {
        "anyOf": [
            {"type": "integer", "format": "int32", "minimum": 7, "maximum": 12},
            {"const": 0},
        ]
    },
    'uint32 {} [(required) = true, (value) = "<=12"]': {
        "type": "integer",
        "format": "uint32",
        "maximum": 12,
        "not": {"const": 0},
    },
    "bool {} [deprecated = true]": {"type": "boolean", "deprecated": True},
    "double {}": {"type": "number", "format": "double"},
    "bytes {}": {"type": "string", "contentEncoding": "base64"},
    "google.protobuf.Timestamp {}": {"type": "string", "format": "date-time"},
    "google.protobuf.Struct {}": {"type": "object"},
    "google.protobuf.Value {}": {},
    "M {}": {"$ref": "#/components/schemas/yandex.rules.M"},
}


def schemas(folder: Path, declarations: Iterable[str], oneof: str = "") -> Schemas:
    """Those of a file whose message `yandex.rules.M` has the declarations, as f1, f2 and so on."""
    fields = []
    for number, declaration in enumerate(declarations, start=1):
        kind, bracket, options = declaration.partition(" [")
        options = re.sub(r"\((?=\w+\) = )", "(yandex.cloud.", options)
        fields.append(f"{kind.format(f'f{number}')} = {number}{bracket}{options};")
    (folder / "rules.proto").write_text(
        "\n".join(
            (
                'syntax = "proto3";',
                "package yandex.rules;",
                'import "google/protobuf/descriptor.proto";',
                'import "google/protobuf/struct.proto";',
                'import "google/protobuf/timestamp.proto";',
                'import "yandex/cloud/validation.proto";',
                "enum Kind { NONE = 0; SOME = 1; }",
                "message M {",
                *fields,
                oneof,
                "}",
            )
        )
    )
    out = folder / "rules.binpb"
    protoc(f"-I{folder}", "--include_imports", f"--descriptor_set_out={out}", "rules.proto")
    return Schemas(Protos.read(out.read_bytes()))


def test_rules_become_keywords(tmp_path: Path) -> None:
    message = schemas(tmp_path, RULES).message("yandex.rules.M")
    made = dict(zip(RULES, message["properties"].values(), strict=True))
    assert made == RULES
    must = [
        number for number, rule in enumerate(RULES, 1) if "d) = true" in rule or "repeated" in rule
    ]
    assert message["required"] == [f"f{number}" for number in must]


def test_of_a_number_in_a_query_more_can_be_said(tmp_path: Path) -> None:
    made = schemas(tmp_path, ['int64 {} [(value) = "<=9"]'])
    field = made.protos.messages["yandex.rules.M"].proto.field[0]
    assert made.field("yandex.rules.M", field, in_query=True) == {
        "type": "integer",
        "format": "int64",
        "maximum": 9,
    }


@pytest.mark.parametrize(
    ("names", "constraint"),
    [
        ("a", {}),
        ("ab", {"not": {"required": ["a", "b"]}}),
        (
            "abc",
            {
                "oneOf": [
                    {"required": ["a"]},
                    {"required": ["b"]},
                    {"required": ["c"]},
                    {"not": {"anyOf": [{"required": [name]} for name in "abc"]}},
                ]
            },
        ),
    ],
)
def test_of_a_oneof_one_may_be_there(
    tmp_path: Path, names: str, constraint: dict[str, Any]
) -> None:
    members = " ".join(f"string {name} = {number};" for number, name in enumerate(names, 2))
    made = schemas(tmp_path, ["string {}"], f"oneof choice {{ {members} }}")
    message = made.message("yandex.rules.M")
    assert {name: message.get(name) for name in constraint} == constraint
    assert message.keys() == {"type", "properties"} | constraint.keys()


@pytest.mark.parametrize(
    ("declaration", "complaint"),
    [
        ('string {} [(pattern) = "(?P<a>b)"]', "not a regular expression of ECMA-262"),
        ('string {} [(pattern) = "a\\\\Z"]', "not a regular expression of ECMA-262"),
        ('int64 {} [(value) = "<=5"]', "no pattern"),
        ('int64 {} [(value) = "many"]', "not a bound"),
        ("google.protobuf.MethodOptions {}", "not known here"),
        ("map<int32, string> {}", "only strings"),
    ],
)
def test_what_cannot_be_said_is_refused(tmp_path: Path, declaration: str, complaint: str) -> None:
    with pytest.raises(RuleError, match=complaint):
        schemas(tmp_path, [declaration]).message("yandex.rules.M")


whole_numbers = st.one_of(st.integers(0, 1200), st.integers(0, 10**15))


@given(st.tuples(whole_numbers, whole_numbers).map(sorted), whole_numbers)
def test_patterns_of_numbers_match_the_interval(ends: list[int], number: int) -> None:
    low, high = ends
    pattern = re.compile("|".join(decimals(low, high)))
    for tried in (number, low - 1, low, low + 1, high - 1, high, high + 1):
        if tried >= 0:
            assert bool(pattern.fullmatch(str(tried))) is (low <= tried <= high), tried
