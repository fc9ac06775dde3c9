"""The .proto files, and the tools that stand between a change of them and the clients."""

import contextlib
import importlib.resources
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from darkroom_pb.yandex.cloud import validation_pb2
from darkroom_pb.yandex.cloud.api import operation_pb2
from darkroom_pb.yandex.cloud.compute.v1 import (
    disk_service_pb2,
    image_service_pb2,
    snapshot_service_pb2,
)

ROOT = Path(__file__).resolve().parents[2]
IMAGE_SERVICE = "protos/yandex/cloud/compute/v1/image_service.proto"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of everything that the tools read and write."""
    # Other processes are writing byte code meanwhile.
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("protos", "generated", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    return tmp_path


def run(tree: Path, tool: str, *arguments: str) -> tuple[int, str]:
    """Runs one of the tools on the copy; its exit status and what it said on standard output."""
    command = [sys.executable, str(tree / "tools" / tool), *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return finished.returncode, finished.stdout


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_generated_files_are_those_of_the_protos() -> None:
    assert run(ROOT, "generate.py", "--check") == (0, "")


def test_check_lists_each_file_that_was_edited_added_or_lost(tree: Path) -> None:
    package = tree / "generated" / "darkroom_pb"
    edit(package / "yandex/cloud/compute/v1/kek_pb2.pyi", "key_id: _builtins.str\n", "")
    (package / "yandex/cloud/compute/v1/extra_pb2.py").write_text("")
    (package / "py.typed").unlink()
    status, said = run(tree, "generate.py", "--check")
    assert status == 1
    assert said.splitlines() == [
        "generated/darkroom_pb/py.typed",
        "generated/darkroom_pb/yandex/cloud/compute/v1/extra_pb2.py",
        "generated/darkroom_pb/yandex/cloud/compute/v1/kek_pb2.pyi",
    ]

    assert run(tree, "generate.py")[0] == 0
    assert run(tree, "generate.py", "--check") == (0, "")


def test_the_api_is_clean_and_breaks_no_client() -> None:
    assert run(ROOT, "lint_protos.py") == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("string uri = 11;", "string uri = 19;", 'field "11" with name "uri"'),
        ("string uri = 11;", "string url = 11;", 'changed name from "uri" to "url"'),
        ("bool pooled = 17;", "int64 pooled = 17;", 'from "bool" to "int64"'),
        ("reserved 13 to 16;", "", 'reserved range "[13,16]"'),
        ("  // Id of a disk. At most 50 characters.\n", "", '"disk_id" should have a non-empty'),
    ],
)
def test_lint_refuses(tree: Path, old: str, new: str, complaint: str) -> None:
    edit(tree / IMAGE_SERVICE, old, new)
    assert run(tree, "generate.py")[0] == 0
    status, said = run(tree, "lint_protos.py")
    assert status == 1
    assert complaint in said


def test_additions_pass_and_are_held_to_once_released(tree: Path) -> None:
    added = "bool pooled = 17;\n\n  // New.\n  bool new = 19;"
    edit(tree / IMAGE_SERVICE, "bool pooled = 17;", added)
    assert run(tree, "generate.py")[0] == 0
    assert run(tree, "lint_protos.py", "--renew") == (0, "")

    edit(tree / IMAGE_SERVICE, "bool new = 19;", "bool new = 20;")
    assert run(tree, "generate.py")[0] == 0
    status, said = run(tree, "lint_protos.py", "--renew")
    assert status == 1
    assert 'field "19" with name "new"' in said


def test_descriptor_set_stands_alone_and_tells_everything() -> None:
    described = descriptor_pb2.FileDescriptorSet.FromString(
        importlib.resources.files("darkroom_pb").joinpath("descriptors.binpb").read_bytes()
    )
    pool = descriptor_pool.DescriptorPool()
    for file in described.file:  # refused if a file comes before what it imports
        pool.Add(file)
        assert file.source_code_info.location, file.name
    # Whatever a transcoder may meet in a google.protobuf.Any.
    in_any = {"google.rpc.Status", "yandex.cloud.quota.QuotaFailure"}
    in_any |= {
        each.full_name for each in error_details_pb2.DESCRIPTOR.message_types_by_name.values()
    }
    for file in described.file:
        for method in (method for service in file.service for method in service.method):
            operation = method.options.Extensions[operation_pb2.operation]
            for name in filter(None, (operation.metadata, operation.response)):
                in_any.add(resolved(pool, file.package, name))
    assert "google.protobuf.Empty" in in_any
    for name in in_any:
        assert pool.FindMessageTypeByName(name).full_name == name


def resolved(pool: descriptor_pool.DescriptorPool, scope: str, name: str) -> str:
    """The full name of a message that an option names, looked up from a package outwards."""
    scopes = scope.split(".")
    for depth in range(len(scopes), -1, -1):
        candidate = ".".join([*scopes[:depth], name])
        with contextlib.suppress(KeyError):
            return pool.FindMessageTypeByName(candidate).full_name
    raise AssertionError(f"{name} is not in the descriptor set")


@pytest.mark.parametrize(
    "request_type",
    [
        image_service_pb2.CreateImageRequest,
        image_service_pb2.UpdateImageRequest,
        disk_service_pb2.CreateDiskRequest,
        disk_service_pb2.UpdateDiskRequest,
        snapshot_service_pb2.CreateSnapshotRequest,
        snapshot_service_pb2.UpdateSnapshotRequest,
    ],
)
def test_labels_may_hold_every_documented_character(request_type: type[Message]) -> None:
    options = request_type.DESCRIPTOR.fields_by_name["labels"].GetOptions()
    key_pattern = options.Extensions[validation_pb2.map_key].pattern
    for pattern in (options.Extensions[validation_pb2.pattern], key_pattern):
        assert re.fullmatch(pattern, "az09-_./\\@")
        for refused in ("A", "é", " ", "\n", ":"):
            assert not re.fullmatch(pattern, "a" + refused)
    assert not re.fullmatch(key_pattern, "0a")
