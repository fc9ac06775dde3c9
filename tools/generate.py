"""Makes `generated/` from `protos/`: modules, type stubs, descriptor set and OpenAPI document.

usage: python tools/generate.py          write generated/
       python tools/generate.py --check  write nothing; exit 1 and list the files that would change

The modules live below `darkroom_pb`, so that our wheel never installs the top-level `yandex`
package that the official SDK owns. Only Python imports move: the .proto names stay canonical, and
so do the descriptors, the service paths and the type URLs.
"""

import argparse
import importlib.metadata
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2

from openapi import openapi

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = ROOT / "generated"
PACKAGE = "darkroom_pb"
DESCRIPTOR_SET = f"{PACKAGE}/descriptors.binpb"
OPENAPI = f"{PACKAGE}/openapi.json"

# What a google.protobuf.Any may hold in our answers without any file of ours importing it: details
# of a status, and the response of a deletion. A JSON transcoder cannot write an Any whose type its
# descriptor set lacks.
ANY_FILES = (
    "google/protobuf/empty.proto",
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
)

PACKAGE_DOCSTRING = '"""Made from the .proto files by `make generate`; changes here are lost."""\n'

# `from yandex.cloud.access import access_pb2` and its like, at the start of a line.
IMPORT = re.compile(r"^(from|import) yandex\b", re.MULTILINE)
# The `__module__` that protobuf gives to the message classes: pickling and `repr` go by it.
BUILDER_MODULE = re.compile(r"(_builder\.Build\w+\(DESCRIPTOR, ')(?=yandex\.)")


def main() -> int:
    """Generates or checks; returns the exit status."""
    parser = argparse.ArgumentParser(description="Make generated/ from protos/.")
    parser.add_argument("--check", action="store_true", help="list differing files, write nothing")
    check_only = parser.parse_args().check

    wanted = generate()
    present = {name: (GENERATED / name).read_bytes() for name in present_names()}
    differing = sorted(
        name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name)
    )
    if check_only:
        for name in differing:
            print(f"generated/{name}")
        if differing:
            print("differ from what protos/ gives: run `make generate`", file=sys.stderr)
        return 1 if differing else 0

    for name in differing:
        path = GENERATED / name
        if name in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wanted[name])
        else:
            path.unlink()
    print(f"generated/: {len(wanted)} files, {len(differing)} changed")
    return 0


def present_names() -> set[str]:
    """Names below `generated/` of the files that are there, byte code aside."""
    return {
        path.relative_to(GENERATED).as_posix()
        for path in GENERATED.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def generate() -> dict[str, bytes]:
    """What `generated/` should hold: contents by name.

    The same protos and the same versions of the tools give the same bytes.

    Raises:
        subprocess.CalledProcessError: a .proto file has an error; protoc has printed where.
        RuleError: a rule or a binding in a .proto file cannot be published.
    """
    names = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory(prefix="darkroom-generate-") as folder:
        out = Path(folder)
        descriptor_set = out / "descriptors.binpb"
        protoc(
            f"--descriptor_set_out={descriptor_set}",
            "--include_imports",
            "--include_source_info",
            *names,
            *ANY_FILES,
        )
        files = {DESCRIPTOR_SET: descriptor_set.read_bytes()}
        descriptor_set.unlink()

        protoc(f"--python_out={out}", f"--mypy_out=quiet:{out}", *names)
        # Only for the files that declare a service: for the others the plug-in writes a module
        # with nothing in it. Our server and our tests are synchronous, so are the stubs.
        with_services = services(files[DESCRIPTOR_SET]).intersection(names)
        protoc(
            f"--grpc_python_out={out}",
            f"--mypy_grpc_out=quiet,only_sync:{out}",
            *sorted(with_services),
        )
        for path in out.rglob("*"):
            if path.is_file():
                name = f"{PACKAGE}/{path.relative_to(out).as_posix()}"
                files[name] = relocated(path.read_text(encoding="utf-8")).encode()

    folders = {parent for name in files for parent in Path(name).parents} - {Path(".")}
    files |= {f"{folder.as_posix()}/__init__.py": PACKAGE_DOCSTRING.encode() for folder in folders}
    files[f"{PACKAGE}/py.typed"] = b""
    files[OPENAPI] = openapi(files[DESCRIPTOR_SET])
    return files


def services(descriptor_set: bytes) -> set[str]:
    """Names of the .proto files that declare a service."""
    parsed = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set)
    return {file.name for file in parsed.file if file.service}


def relocated(source: str) -> str:
    """A generated module or stub with its `yandex` imports moved below `darkroom_pb`."""
    moved = IMPORT.sub(rf"\1 {PACKAGE}.yandex", source)
    return BUILDER_MODULE.sub(rf"\1{PACKAGE}.", moved)


def protoc(*arguments: str) -> None:
    """Runs the protoc of grpcio-tools on the protos of ours and of the installed packages."""
    binaries = Path(sys.executable).parent
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{PROTOS}",
        f"-I{installed('grpcio-tools', 'grpc_tools/_proto')}",
        f"-I{installed('googleapis-common-protos', '')}",
        *(f"--plugin={binaries / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")),
        *arguments,
    ]
    subprocess.run(command, check=True)


def installed(distribution: str, folder: str) -> Path:
    """A folder of an installed distribution."""
    return Path(str(importlib.metadata.distribution(distribution).locate_file(folder)))


if __name__ == "__main__":
    sys.exit(main())
