"""The table in docs/compatibility.md has every method and field, and shows each by a test.

A name in the table may have alternatives in braces: `{Image,Disk}.id` is `Image.id` and `Disk.id`.
"""

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, ServiceDescriptor

from darkroom_pb.yandex.cloud.api import operation_pb2 as operation_option
from darkroom_pb.yandex.cloud.compute.v1 import (
    disk_service_pb2,
    disk_type_service_pb2,
    image_service_pb2,
    snapshot_service_pb2,
    zone_service_pb2,
)
from darkroom_pb.yandex.cloud.endpoint import api_endpoint_service_pb2
from darkroom_pb.yandex.cloud.iam.v1 import iam_token_service_pb2
from darkroom_pb.yandex.cloud.operation import operation_service_pb2
from darkroom_pb.yandex.cloud.resourcemanager.v1 import cloud_service_pb2, folder_service_pb2

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
VERDICTS = ("as the cloud", "differs", "unknown")
SERVICES: list[ServiceDescriptor] = [
    service
    for module in (
        image_service_pb2,
        disk_service_pb2,
        snapshot_service_pb2,
        zone_service_pb2,
        disk_type_service_pb2,
        operation_service_pb2,
        api_endpoint_service_pb2,
        iam_token_service_pb2,
        cloud_service_pb2,
        folder_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
]
SCOPES = ("yandex.cloud.compute.v1.", "yandex.cloud.resourcemanager.v1.", "yandex.cloud.")
"""Where the short names of metadata and response types may belong."""
NEVER_SENT = {"SnapshotSchedule"}
"""A message that a reply could hold, but never does: its own fields need no rows."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    names: tuple[str, ...]
    verdict: str
    explanation: str
    tests: tuple[str, ...]


def expanded(pattern: str) -> Iterator[str]:
    """Every name that a pattern with braces stands for."""
    parts = [
        part[1:-1].split(",") if part.startswith("{") else [part]
        for part in re.split(r"(\{[^}]*\})", pattern)
    ]
    yield from map("".join, itertools.product(*parts))


@cache
def rows() -> list[Row]:
    """The lines below the heading about methods and fields, read."""
    found = []
    section = PAGE.read_text(encoding="utf-8").partition("## Methods and fields")[2]
    for line in section.splitlines():
        if not line.startswith("| `"):
            continue
        names, verdict, explanation, tests = (cell.strip() for cell in line.strip("|").split("|"))
        found.append(
            Row(
                tuple(each for text in re.findall(r"`([^`]+)`", names) for each in expanded(text)),
                verdict,
                explanation,
                tuple(re.findall(r"`([^`]+)`", tests)),
            )
        )
    return found


def message_types(services: list[ServiceDescriptor]) -> dict[str, Descriptor]:
    """Every message of ours that a call of the services may carry, by its short name."""
    pool = descriptor_pool.Default()
    waiting: list[Descriptor] = []
    for method in (method for service in services for method in service.methods):
        waiting += [method.input_type, method.output_type]
        promised = method.GetOptions().Extensions[operation_option.operation]
        for name in filter(None, (promised.metadata, promised.response)):
            for scope in SCOPES:
                try:
                    waiting.append(pool.FindMessageTypeByName(scope + name))
                except KeyError:
                    continue
                break
    found: dict[str, Descriptor] = {}
    while waiting:
        message = waiting.pop()
        ours = message.full_name.startswith("yandex.") and message.name not in NEVER_SENT
        if not ours or found.get(message.name) is message or message.GetOptions().map_entry:
            continue
        assert message.name not in found, f"two messages are called {message.name}"
        found[message.name] = message
        waiting += [field.message_type for field in message.fields if field.message_type]
    return found


def everything() -> set[str]:
    """`Service.Method` and `Message.field`, all of them."""
    methods = {f"{service.name}.{each.name}" for service in SERVICES for each in service.methods}
    return methods | {
        f"{message.name}.{field.name}"
        for message in message_types(SERVICES).values()
        for field in message.fields
    }


@cache
def functions_of(file: str) -> frozenset[str]:
    """Names of the test functions in a file below tests/."""
    path = ROOT / "tests" / file
    if not path.is_file():
        return frozenset()
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def test_every_method_and_field_has_exactly_one_row() -> None:
    named = [name for row in rows() for name in row.names]
    assert sorted(everything() - set(named)) == [], "no row"
    assert sorted(set(named) - everything()) == [], "no such method or field"
    assert sorted(name for name in set(named) if named.count(name) > 1) == [], "several rows"


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.names[0])
def test_a_row_says_how_it_is_and_names_tests_that_exist(row: Row) -> None:
    assert row.verdict in VERDICTS
    # What is not as the cloud has it needs saying how and why.
    assert row.explanation or row.verdict == "as the cloud"
    assert row.tests
    for test in row.tests:
        file, _, function = test.partition("::")
        assert function in functions_of(file), f"tests/{file} has no {function}"


def test_braces_stand_for_alternatives() -> None:
    assert list(expanded("a")) == ["a"]
    assert list(expanded("{A,B}x.{c,d}")) == ["Ax.c", "Ax.d", "Bx.c", "Bx.d"]
