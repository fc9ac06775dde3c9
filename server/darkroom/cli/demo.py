"""`darkroom demo`: three real disk images into the running stack, and back out to compare."""

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.cli.command import Subparsers
from darkroom.cli.dev import add_data_dir
from darkroom.cli.stack import Stack, StackError

FOLDER_ID = "demo"

_IMAGES = "yandex.cloud.compute.v1.ImageService"
_OPERATIONS = "yandex.cloud.operation.OperationService"
_POLL_SECONDS = 0.2
_IMPORT_SECONDS = 600.0
_MIB = 1 << 20


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `demo` to the command line."""
    parser = subparsers.add_parser(
        "demo", help="import a qcow2, a VMDK and a raw image into the running stack and compare"
    )
    add_data_dir(parser)
    parser.add_argument(
        "--mib",
        type=int,
        default=64,
        metavar="MIB",
        help="random data in each image, MiB [default: %(default)s]",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 if all that is stored equals what was uploaded, 1 with a reason otherwise."""
    try:
        stack = Stack.running(arguments.stack_dir)
        print(f"server {stack.listen}, object storage {stack.storage_url}\n")
        with tempfile.TemporaryDirectory(prefix="darkroom-demo-") as folder:
            for source in _sources(Path(folder), arguments.mib):
                _import(stack, arguments.stack_dir, source)
    except StackError as error:
        print(f"darkroom: {error}", file=sys.stderr)
        return 1
    print("\nWhat is stored equals what was uploaded, three times.")
    return 0


@dataclass(frozen=True)
class _Source:
    path: Path
    format: str
    title: str


def _sources(folder: Path, mib: int) -> Iterator[_Source]:
    """One image after the other, each with a file system and random data of its own."""
    raw = folder / "source.raw"
    for image_format, title, options in (
        ("qcow2", "qcow2, zlib-compressed", ["-c"]),
        ("vmdk", "VMDK, streamOptimized", ["-o", "subformat=streamOptimized"]),
        ("raw", "raw", None),
    ):
        _make_disk(raw, folder, mib)
        path = folder / f"demo-{secrets.token_hex(4)}.{image_format}"
        if options is None:
            raw.rename(path)
        else:
            _call("qemu-img", "convert", "-f", "raw", "-O", image_format, *options, raw, path)
            raw.unlink()
        yield _Source(path, image_format, title)
        path.unlink()


def _make_disk(raw: Path, folder: Path, mib: int) -> None:
    """A raw disk with an ext4 file system that holds random data; needs no mount and no root."""
    with tempfile.TemporaryDirectory(dir=folder) as root:
        tree = Path(root)
        (tree / "README").write_text("A demonstration disk of Darkroom.\n")
        with (tree / "random").open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(_MIB))
        with raw.open("wb") as file:
            file.truncate((2 * mib + 16) * _MIB)
        _call("mkfs.ext4", "-q", "-F", "-L", "darkroom", "-d", tree, raw)


def _import(stack: Stack, data_dir: Path, source: _Source) -> None:
    size_mib = source.path.stat().st_size / _MIB
    print(f"{source.title}: {size_mib:.0f} MiB")
    url = stack.upload(source.path, source.path.name)
    print(f"  uploaded   {url.partition('?')[0]} (pre-signed)")
    request = {"folder_id": FOLDER_ID, "name": source.path.stem, "uri": url}
    started = time.monotonic()
    operation = _grpc(stack, f"{_IMAGES}/Create", request)
    image_id = operation["metadata"]["imageId"]
    print(f"  creating   image {image_id}, operation {operation['id']}")
    shown = ""
    while True:
        # The image second: once the operation is done, so is what the image says.
        operation, progress = _progress(stack, operation["id"])
        status = _grpc(stack, f"{_IMAGES}/Get", {"image_id": image_id})["status"]
        elapsed_seconds = time.monotonic() - started
        line = f"{status} {progress}" if status == "CREATING" and progress else status
        if line != shown:
            shown = line
            print(f"  {elapsed_seconds:6.1f} s   {line}", flush=True)
        if operation.get("done", False):
            break
        if elapsed_seconds > _IMPORT_SECONDS:
            raise StackError(f"operation {operation['id']} is not done yet")
        time.sleep(_POLL_SECONDS)
    if "error" in operation:
        raise StackError(f"operation {operation['id']} failed: {operation['error']['message']}")
    if status != "READY":
        raise StackError(f"image {image_id} is {status}")
    _compare(data_dir, image_id, source)


def _compare(data_dir: Path, image_id: str, source: _Source) -> None:
    exported = source.path.with_suffix(".exported")
    _call(
        sys.executable,
        *("-m", "darkroom", "image", "export", image_id, str(exported)),
        *("--data-dir", str(data_dir)),
    )
    try:
        answer = _call(
            "qemu-img", "compare", "-f", source.format, "-F", "qcow2", source.path, exported
        )
    finally:
        exported.unlink()
    print(f"  qemu-img compare: {answer.strip()}")


def _progress(stack: Stack, operation_id: str) -> tuple[Any, str]:
    """The operation, and its phase with MiB done, which the server tells in headers."""
    text = _grpcurl(stack, f"{_OPERATIONS}/Get", {"operation_id": operation_id}, "-v")
    headers, _, rest = text.partition("Response contents:")
    operation, _ = json.JSONDecoder().raw_decode(rest.lstrip())
    phase = re.search(r"^x-operation-phase: (\w+)$", headers, re.MULTILINE)
    progress = re.search(r"^x-operation-progress: (\d+)/(\d+)$", headers, re.MULTILINE)
    if not phase:
        return operation, ""
    amount = f" {int(progress[1]) // _MIB} of {int(progress[2]) // _MIB} MiB" if progress else ""
    return operation, f"({phase[1]}{amount})"


def _grpc(stack: Stack, method: str, request: dict[str, str]) -> Any:
    """The reply to one call."""
    return json.loads(_grpcurl(stack, method, request))


def _grpcurl(stack: Stack, method: str, request: dict[str, str], *options: str) -> str:
    """One call through grpcurl. Raises `StackError` with its words if it fails."""
    grpcurl = Path(sysconfig.get_path("scripts")) / "grpcurl"
    # The request goes in on standard input: a command line is for every user to read, and the URL
    # in it opens the object.
    arguments = [*options, "-plaintext", "-d", "@", stack.listen, method]
    return _call(grpcurl, *arguments, standard_input=json.dumps(request))


def _call(program: str | Path, *arguments: str | Path, standard_input: str = "") -> str:
    """Run a program to its end. Raises `StackError` with its words if it fails."""
    try:
        result = subprocess.run(
            [str(program), *map(str, arguments)],
            input=standard_input,
            capture_output=True,
            text=True,
            timeout=_IMPORT_SECONDS,
            # Some users have no sbin on their path; mkfs lives there.
            env={**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"},
            check=False,
        )
    except FileNotFoundError:
        raise StackError(f"{program} is not installed: `make demo` installs it") from None
    if result.returncode != 0:
        words = (result.stderr or result.stdout).strip()
        raise StackError(f"{Path(program).name} failed: {words}")
    return result.stdout
