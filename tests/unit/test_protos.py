"""The tools that stand between a change of a .proto file and the clients that would notice."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGE_SERVICE = "protos/yandex/cloud/compute/v1/image_service.proto"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of everything that the tools read and write."""
    for folder in ("protos", "generated", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
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
