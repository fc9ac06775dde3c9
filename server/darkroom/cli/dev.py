"""`darkroom dev`: the development stack: server, worker, gateway and object storage.

Whatever ends this program ends the stack: an interrupt and SIGTERM in good order, SIGKILL through
the kernel, which kills each child when its parent is gone.
"""

import argparse
import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from darkroom import config
from darkroom.cli import signals
from darkroom.cli.command import Subparsers
from darkroom.cli.seaweedfs import (
    LOOPBACK,
    PROGRAM,
    SOCKETS,
    SeaweedFS,
    free_ports,
    probe,
    sweep_sockets,
)
from darkroom.cli.stack import BUCKET, Stack, StackError, only_stack
from darkroom.worker import tether

DATA_DIR = Path(".darkroom")
STORAGE_PORT = 8333
CATALOG = Path(__file__).with_name("catalog.yaml")
"""Placeholders of the families that configurations ask for most."""

_PRIVATE_FOLDER = 0o700
_START_SECONDS = 60.0
_POLL_SECONDS = 0.05
_STORAGE_STOP_SECONDS = 0.0
"""SeaweedFS may take half a minute to end in good order, and what it keeps survives a kill."""
_SERVE_STOP_SECONDS = 15.0
"""Beyond what `serve` itself gives its calls: its workers need time too."""
_GATEWAY_GRACE_SECONDS = 1.0
_GATEWAY_STOP_SECONDS = 3.0
_PARTS_MISSING = "parts are missing: install them with `pip install darkroom-images[dev]`"


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `dev` and `dev upload` to the command line."""
    parser = subparsers.add_parser("dev", help="run the development stack in the foreground")
    config.add_arguments(parser, ("listen", "tls_listen", "gateway_listen", "catalog"))
    add_data_dir(parser)
    parser.add_argument(
        "--storage-port",
        type=_port,
        default=STORAGE_PORT,
        metavar="PORT",
        help="port of the object storage; 0 picks one [default: %(default)s]",
    )
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", metavar="[ACTION]")
    upload = actions.add_parser("upload", help="upload a file and print a pre-signed URL of it")
    upload.add_argument("file", type=Path, metavar="FILE")
    # Without a default of its own, which would replace what stands before `upload`.
    add_data_dir(upload, default=argparse.SUPPRESS)
    upload.set_defaults(run=run_upload)


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 65536):
        raise argparse.ArgumentTypeError("must be 0 to 65535")
    return int(text)


def add_data_dir(parser: argparse.ArgumentParser, default: object = DATA_DIR) -> None:
    """Add the flag that says which stack is meant."""
    parser.add_argument(
        "--data-dir",
        dest="stack_dir",
        type=Path,
        default=default,
        metavar="DIR",
        help=f"folder of everything the stack keeps [default: {DATA_DIR}]",
    )


def run_upload(arguments: argparse.Namespace) -> int:
    """Upload one file; 1 with a reason if that fails."""
    try:
        stack = Stack.running(arguments.stack_dir)
        print(stack.upload(arguments.file, arguments.file.name))
    except StackError as error:
        print(f"darkroom: {error}", file=sys.stderr)
        return 1
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Run the stack until it is interrupted; 0 then, 1 if a part of it fails."""
    settings = config.load(arguments)
    stop = threading.Event()
    signals.on(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), stop.set))
    try:
        with ExitStack() as ending:
            _run(arguments.stack_dir, settings, arguments.storage_port, stop, ending)
    except StackError as error:
        print(f"darkroom: {error}", file=sys.stderr)
        return 1
    print("stopped")
    return 0


def _run(
    data_dir: Path,
    settings: config.Settings,
    storage_port: int,
    stop: threading.Event,
    ending: ExitStack,
) -> None:
    data_dir.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
    ending.enter_context(only_stack(data_dir))
    sweep_sockets(SOCKETS)
    ports = ending.enter_context(free_ports())
    listen = _address(settings.listen, config.flag("listen"), ports)
    tls_listen, gateway_listen = settings.tls_listen, settings.gateway_listen
    if tls_listen:
        tls_listen = _address(tls_listen, config.flag("tls_listen"), ports)
    if gateway_listen:
        gateway_listen = _address(gateway_listen, config.flag("gateway_listen"), ports)
    storage = _address(f"{LOOPBACK}:{storage_port}", "--storage-port", ports)
    stack = Stack.on(data_dir, listen, tls_listen, gateway_listen, f"http://{storage}")
    parts = {
        "the object storage": ending.enter_context(
            _object_storage(stack, data_dir / "object-storage", ports)
        ),
        "the server": ending.enter_context(_server(stack, data_dir, settings)),
    }
    if gateway_listen:
        parts["the gateway"] = ending.enter_context(_gateway(stack, data_dir))
    waiting = ending.enter_context(_waiting(stack))

    print("starting ...", flush=True)
    _wait(stack.make_bucket, "the object storage", parts, stop)
    _wait(lambda: waiting.poll() == 0, "the server", parts, stop)
    if gateway_listen:
        _wait(lambda: _accepts(gateway_listen), "the gateway", parts, stop)
    if stop.is_set():
        return
    print(_greeting(stack, data_dir), flush=True)
    while not stop.wait(_POLL_SECONDS):
        _check(parts)
    print("stopping ...", flush=True)


def _greeting(stack: Stack, data_dir: Path) -> str:
    programs = _shown(Path(sysconfig.get_path("scripts")))
    folder = "" if data_dir == DATA_DIR else f" --data-dir {data_dir}"
    service = "yandex.cloud.compute.v1.ImageService/Create"
    operations = "yandex.cloud.operation.OperationService/Get"
    request = """'{"folder_id": "home", "name": "first", "uri": "'"$URL"'"}'"""
    tls = ""
    if stack.tls_listen:
        ca = config.Settings(data_dir=data_dir).certificate_folder / "ca.pem"
        tls = f"  gRPC over TLS   {stack.tls_listen}  (authority: {ca})\n"
    rest, curl = "", ""
    if stack.gateway_listen:
        rest = f"  REST            http://{stack.gateway_listen}  (and gRPC, gRPC-Web)\n"
        curl = f"  curl 'http://{stack.gateway_listen}/compute/v1/images?folderId=home'\n"
    return f"""
  gRPC            {stack.listen}  (plaintext, with reflection)
{tls}{rest}  object storage  {stack.storage_url}/{BUCKET}  (S3)
  data and logs   {data_dir}/  (*.log)

In another terminal, for a disk image of yours:

  URL=$({programs}/darkroom dev upload{folder} disk.qcow2)
  {programs}/grpcurl -plaintext -d {request} {stack.listen} {service}
  {programs}/grpcurl -plaintext -d '{{"operation_id": "ID"}}' {stack.listen} {operations}
{curl}
or `make demo`. Ctrl-C ends all of it.
"""


def _shown(path: Path) -> Path:
    """The path as a person in the current folder would type it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


# --- processes ------------------------------------------------------------------------------------


def _wait(
    ready: Callable[[], bool],
    what: str,
    parts: Mapping[str, "_Part"],
    stop: threading.Event,
) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not stop.is_set() and not ready():
        _check(parts)
        if time.monotonic() > deadline:
            raise StackError(f"{what} did not start within {_START_SECONDS:.0f} s")
        stop.wait(_POLL_SECONDS)


def _check(parts: Mapping[str, "_Part"]) -> None:
    for name, part in parts.items():
        if part.process.poll() is not None:
            last = part.log.read_text(errors="replace").strip().splitlines()[-5:]
            raise StackError("\n  ".join([f"{name} ended; the end of {part.log}:", *last]))


class _Part:
    """A child process that cannot outlive this one, in a process group of its own.

    Of its own, so that an interrupt from the terminal reaches this process only and the parts end
    in the right order.
    """

    def __init__(
        self, command: list[str], log: Path, stop_seconds: float, folder: Path | None = None
    ) -> None:
        self.log = log
        self._stop_seconds = stop_seconds
        parent = os.getpid()

        def tie() -> None:
            tether.die_with_parent()
            if os.getppid() != parent:
                os._exit(1)

        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
                # Safe: this process has one thread.
                preexec_fn=tie,
            )

    def stop(self) -> None:
        """Ask it to end, kill it when it takes too long."""
        self.process.terminate()
        try:
            self.process.wait(self._stop_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def _part(
    command: list[str], log: Path, stop_seconds: float, folder: Path | None = None
) -> Iterator[_Part]:
    part = _Part(command, log, stop_seconds, folder)
    try:
        yield part
    finally:
        part.stop()


@contextlib.contextmanager
def _server(stack: Stack, data_dir: Path, settings: config.Settings) -> Iterator[_Part]:
    command = [sys.executable, "-m", "darkroom", "serve", "--data-dir", str(data_dir)]
    command += ["--tls-listen", stack.tls_listen]
    command += ["--listen", stack.listen, "--source-allow", f"{stack.storage_url}/"]
    command += ["--catalog", settings.catalog or str(CATALOG)]
    stop_seconds = settings.drain_seconds + settings.grace_seconds + _SERVE_STOP_SECONDS
    with _part(command, data_dir / "serve.log", stop_seconds) as part:
        yield part


@contextlib.contextmanager
def _gateway(stack: Stack, data_dir: Path) -> Iterator[_Part]:
    """The gateway in front of the server. Raises `StackError` if Envoy is not installed."""
    if importlib.util.find_spec("envoy") is None:
        raise StackError(_PARTS_MISSING)
    command = [sys.executable, "-m", "darkroom", "gateway", "--gateway-upstream", stack.listen]
    command += ["--gateway-listen", stack.gateway_listen]
    # Nobody stands before it who would have to notice.
    command += ["--drain-seconds", "0", "--grace-seconds", str(_GATEWAY_GRACE_SECONDS)]
    with _part(command, data_dir / "gateway.log", _GATEWAY_STOP_SECONDS) as part:
        yield part


def _accepts(address: str) -> bool:
    """Whether somebody accepts connections there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _POLL_SECONDS).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _waiting(stack: Stack) -> Iterator["subprocess.Popen[bytes]"]:
    """`darkroom wait`, so that no gRPC threads run in the process that forks."""
    command = [sys.executable, "-m", "darkroom", "wait", "--listen", stack.listen]
    process = subprocess.Popen(
        [*command, "--timeout", str(_START_SECONDS)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=tether.die_with_parent,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _object_storage(stack: Stack, folder: Path, free: Iterator[int]) -> Iterator[_Part]:
    """SeaweedFS on loopback with the stack's credentials. Raises `StackError` if not installed."""
    if not PROGRAM.exists() or importlib.util.find_spec("boto3") is None:
        raise StackError(_PARTS_MISSING)
    port = int(stack.storage_url.rpartition(":")[2])
    storage = SeaweedFS(folder, port, free, stack.access_key, stack.secret_key)
    log = folder.with_suffix(".log")
    try:
        with _part(storage.command, log, _STORAGE_STOP_SECONDS, folder) as part:
            yield part
    finally:
        storage.clean()


# --- ports ----------------------------------------------------------------------------------------


def _address(wanted: str, flag: str, ports: Iterator[int]) -> str:
    """The address with its port chosen. Raises `StackError` if somebody has it already."""
    host, _, given = wanted.rpartition(":")
    port = int(given) or next(ports)
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        probe(family, address)
    except OSError as error:
        raise StackError(
            f"cannot listen on {wanted} ({error.strerror}): choose another with {flag}"
        ) from error
    return f"{host}:{port}"
