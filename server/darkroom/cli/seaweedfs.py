"""SeaweedFS, the object storage of the development stack and of tests, and ports for it."""

import contextlib
import json
import os
import random
import re
import secrets
import socket
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.cli.stack import StackError

LOOPBACK = "127.0.0.1"
PROGRAM = Path(sysconfig.get_path("scripts")) / "weed"
"""Where its wheel puts it."""

SOCKETS = Path("/tmp")  # noqa: S108 - where it makes some, whatever it is told

_SOCKET = re.compile(r"seaweedfs-[a-z0-9]+-grpc-([0-9]{1,5})\.sock")
_KERNEL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT = 20000
_BLOCK_PORTS = 16
_PARTS = ("master", "volume", "filer", "admin")
_PRIVATE_FOLDER = 0o700
_PRIVATE_FILE = 0o600


class SeaweedFS:
    """How to start one on loopback with one pair of credentials, and what it leaves behind."""

    def __init__(
        self, folder: Path, port: int, free: Iterator[int], access_key: str, secret_key: str
    ) -> None:
        """Everything it keeps is in the folder, in which the command must be run."""
        folder.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)
        keys = folder / "credentials.json"
        credentials = {"accessKey": access_key, "secretKey": secret_key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "darkroom", "credentials": [credentials], "actions": actions}
        descriptor = os.open(keys, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE_FILE)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"identities": [identity]}, file)
        ports = {part: next(free) for part in _PARTS}
        self._rpc_ports = {part: next(free) for part in (*_PARTS, "s3")}
        self.command = [
            str(PROGRAM),
            "mini",
            "-dir=.",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            f"-s3.port={port}",
            f"-s3.config={keys.name}",
            *(f"-{part}.port={number}" for part, number in ports.items()),
            *(f"-{part}.port.grpc={number}" for part, number in self._rpc_ports.items()),
            # Relative, like the rest: the kernel takes no long path for a socket.
            "-filer.localSocket=filer.sock",
            "-s3.localSocket=s3.sock",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-webdav=false",
            "-admin.ui=false",
            # It would tell its makers about this machine.
            "-master.telemetry=false",
        ]

    def clean(self) -> None:
        """Remove what it leaves outside of its folder."""
        for name, port in self._rpc_ports.items():
            (SOCKETS / f"seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)


@dataclass(frozen=True)
class Running:
    """A SeaweedFS that was started; it answers a second later."""

    process: "subprocess.Popen[bytes]"
    port: int
    access_key: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        """The AWS variables that lead any client to it."""
        return {
            "AWS_ENDPOINT_URL_S3": f"http://{LOOPBACK}:{self.port}",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Running]:
    """One with credentials of its own for tests and benchmarks, killed in the end."""
    with free_ports() as free, folder.with_suffix(".log").open("wb") as log:
        keys = secrets.token_hex(8), secrets.token_hex(20)
        port = next(free)
        storage = SeaweedFS(folder, port, free, *keys)
        # It goes with this process, however that ends.
        command = ["setpriv", "--pdeathsig", "KILL", *storage.command]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, process_group=0)
        try:
            yield Running(process, port, *keys)
        finally:
            process.kill()
            process.wait()
            storage.clean()


def sweep_sockets(folder: Path) -> None:
    """Remove the sockets that object storages of killed stacks have left in a folder.

    Those bear a port of a block that no stack holds now, and nobody listens at them.
    """
    for path in folder.glob("seaweedfs-*.sock"):
        named = _SOCKET.fullmatch(path.name)
        if named is None or int(named[1]) < _LOWEST_PORT:
            continue
        first = int(named[1]) - (int(named[1]) - _LOWEST_PORT) % _BLOCK_PORTS
        # It may be somebody else's, or gone by now.
        with contextlib.suppress(OSError), _held(first), socket.socket(socket.AF_UNIX) as caller:
            try:
                caller.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()


@contextlib.contextmanager
def free_ports() -> Iterator[Iterator[int]]:
    """Ports that nobody listens on, that no other stack and no outgoing connection will be given.

    Those that the kernel picks, for listeners and connections alike, are taken again by somebody
    else before a slow starter comes to bind them. So these lie below, in blocks, and a stack holds
    its block by a name in the network namespace that goes away with the process.
    """
    lowest_picked = int(_KERNEL_PORTS.read_text().split()[0])
    blocks = list(range(_LOWEST_PORT, lowest_picked - _BLOCK_PORTS, _BLOCK_PORTS))
    random.shuffle(blocks)
    for first in blocks:
        block = range(first, first + _BLOCK_PORTS)
        with contextlib.ExitStack() as holding:
            try:
                holding.enter_context(_held(first))
                for port in block:
                    probe(socket.AF_INET, (LOOPBACK, port))
            except OSError:
                continue
            yield iter(block)
            return
    raise StackError("there are no free ports left on loopback")


@contextlib.contextmanager
def _held(first: int) -> Iterator[None]:
    """Hold the block of ports that begins there. Raises `OSError` if somebody has it."""
    with socket.socket(socket.AF_UNIX) as name:
        name.bind(f"\0darkroom-dev-ports-{first}")
        yield


def probe(family: int, address: Any) -> None:
    """Raise `OSError` if a server could not listen there."""
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # As a server does: what is left of connections that ended is no hindrance.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
