"""Stubs that other languages' generators make from our .proto files, as docs/stubs.md has it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clients.environments import node, npm_packages
from installation import Installation
from object_server import ObjectServer

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "stubs.md"
CLIENTS = Path(__file__).parent
TYPESCRIPT = CLIENTS / "node" / "stubs"
GENERATOR_VERSION = json.loads((TYPESCRIPT / "package.json").read_text())["dependencies"][
    "ts-proto"
]
PATH = os.environ["PATH"]
RUBY = CLIENTS / "ruby" / "client.rb"


def block(name: str) -> str:
    """The commands of a block of the page."""
    found = re.search(
        rf"<!-- {name}:begin -->\n```sh\n(.*?)```\n<!-- {name}:end -->", PAGE.read_text(), re.DOTALL
    )
    assert found is not None, name
    return found[1]


def paste(name: str, folder: Path, *programs: Path) -> None:
    """What a reader does who wants the stubs in this folder and has these programs."""
    script = block("include") + block(name).replace("stubs/", f"{folder}/")
    finished = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env={**os.environ, "PATH": ":".join([*(str(each.parent) for each in programs), PATH])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def seen(*command: str, folder: Path) -> Any:
    """What a program prints; it must succeed."""
    finished = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=90, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return json.loads(finished.stdout)


def expected(name: str, served: Installation) -> dict[str, object]:
    """What a program prints whose image is stored as the server shows it to us."""
    (image,) = [each for each in served.listed() if each.name == name]
    return {
        "repeated": True,
        "description": "Create image",
        "same": True,
        "name": name,
        "status": "READY",
        "size": str(image.size),
        "reason": "RESOURCE_NOT_FOUND",
    }


# The first run on a machine downloads Node.js and the packages.
@pytest.mark.timeout(600)
@pytest.mark.client(
    "stubs in TypeScript, by `ts-proto` for `@grpc/grpc-js`",
    GENERATOR_VERSION,
    "made from `protos/`, type-checked: create from a URL with an idempotency key, wait, an error",
    "ran",
)
def test_typescript_stubs_create_an_image(
    served: Installation, objects: ObjectServer, disk: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "typescript"
    folder.mkdir()
    (folder / "node_modules").symlink_to(npm_packages(TYPESCRIPT))
    for name in ("package.json", "tsconfig.json", "client.ts"):
        shutil.copy(TYPESCRIPT / name, folder)
    paste("typescript", tmp_path, node())
    compiler = str(folder / "node_modules" / "typescript" / "bin" / "tsc")
    compiled = subprocess.run(
        [node(), compiler], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert compiled.returncode == 0, compiled.stdout
    program = str(folder / "out" / "client.js")
    arguments = (served.address, objects.url(disk.name))
    printed = seen(str(node()), program, *arguments, folder=folder)
    assert printed == expected("typescript", served)


@pytest.mark.client(
    "stubs in Ruby, by Debian's `ruby-grpc-tools`",
    "1.51",
    "made from `protos/`: create from a URL with an idempotency key, wait, an error",
    "ran",
)
def test_ruby_stubs_create_an_image(
    served: Installation, objects: ObjectServer, disk: Path, tmp_path: Path
) -> None:
    paste("ruby", tmp_path)
    arguments = (str(RUBY), served.address, objects.url(disk.name))
    printed = seen("ruby", "-I", str(tmp_path / "ruby"), *arguments, folder=tmp_path)
    assert printed == expected("ruby", served)


def plain(module: Path) -> str:
    """A module without the names in JSON, which only a descriptor set spells out."""
    return re.sub(r', json_name: "\w+"', "", module.read_text())


def test_the_descriptor_set_gives_the_same_stubs(tmp_path: Path) -> None:
    made = []
    for name in ("ruby", "descriptors"):
        paste(name, tmp_path / name)
        files = sorted((tmp_path / name / "ruby").rglob("*.rb"))
        made.append({str(each.relative_to(tmp_path / name)): plain(each) for each in files})
    assert made[0] == made[1]
    assert "ruby/yandex/cloud/compute/v1/image_service_services_pb.rb" in made[0]
