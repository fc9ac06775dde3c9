"""`darkroom env CLIENT`: what to set, and what to write, so that a client talks to this server."""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from darkroom import config
from darkroom.cli import installation
from darkroom.cli.command import Subparsers
from darkroom.config import SettingError, Settings

_SETTINGS = (
    *("data_dir", "tls_listen", "tls_advertise", "gateway_listen"),
    *("cloud_id", "folder", "zone"),
)
_TOKEN = "development"
"""Any will do while nobody is asked who they are."""
_PROFILE = "darkroom"


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `env` to the command line."""
    parser = subparsers.add_parser(
        "env",
        help="print what makes a client talk to this server",
        description="""Prints lines for a shell: eval "$(darkroom env CLIENT)". Comments among them
            say what goes into a program.""",
        allow_abbrev=False,
    )
    parser.add_argument("client", choices=_NAMES, metavar="CLIENT", help=", ".join(_NAMES))
    config.add_arguments(parser, _SETTINGS)
    parser.add_argument(
        "--endpoint", metavar="HOST:PORT", help="of the TLS listener [default: what it listens on]"
    )
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="PEM file of the authority that clients must trust"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the lines; 1 with a reason if what clients must trust is not there."""
    settings = installation.settings(arguments)
    if arguments.client == "curl":
        lines = _curl(settings)
    else:
        try:
            lines = _CLIENTS[arguments.client](_target(settings, arguments.endpoint, arguments.ca))
        except FileNotFoundError as error:
            print(f"darkroom: {error}", file=sys.stderr)
            return 1
    print("\n".join(lines))
    return 0


@dataclass(frozen=True)
class _Target:
    """What clients of the TLS listener need to know."""

    endpoint: str
    ca: Path | None
    cloud_id: str
    folder_id: str
    zone: str


def _target(settings: Settings, endpoint: str | None, ca: Path | None) -> _Target:
    """Raises `FileNotFoundError` and `SettingError`."""
    if endpoint is None:
        endpoint = settings.tls_advertise or installation.reachable(settings.tls_listen)
    if not endpoint:
        raise SettingError("tls_listen: the official clients speak TLS only, so one is needed")
    if endpoint.endswith(":0"):
        raise SettingError("tls_listen: port 0 is another at each start: name it with --endpoint")
    if ca is None and not settings.tls_certificate:
        ca = settings.certificate_folder / "ca.pem"
        if not ca.exists():
            raise FileNotFoundError(f"{ca} is made when the server first starts; or name --ca FILE")
    elif ca is not None and not ca.exists():
        raise FileNotFoundError(f"{ca} does not exist")
    return _Target(
        endpoint=endpoint,
        ca=None if ca is None else ca.resolve(),
        cloud_id=settings.cloud_id,
        folder_id=next(iter(settings.folders().names)),
        zone=settings.zone[0],
    )


# --- clients --------------------------------------------------------------------------------------


def _export(name: str, value: str | Path) -> str:
    return f"export {name}={shlex.quote(str(value))}"


def _common(target: _Target, trust_variable: str) -> Iterator[str]:
    yield _export("YC_ENDPOINT", target.endpoint)
    yield _export("YC_CLOUD_ID", target.cloud_id)
    yield _export("YC_FOLDER_ID", target.folder_id)
    if target.ca is not None:
        yield _export(trust_variable, target.ca)


def _python(target: _Target) -> Iterator[str]:
    yield from _common(target, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
    if target.ca is not None:
        yield "# In this shell Python's gRPC now trusts that authority and no other."
    yield _export("YC_TOKEN", _TOKEN)
    yield '# yandexcloud.SDK(endpoint=os.environ["YC_ENDPOINT"], token=os.environ["YC_TOKEN"])'


def _node(target: _Target) -> Iterator[str]:
    yield from _common(target, "NODE_EXTRA_CA_CERTS")
    yield _export("YC_IAM_TOKEN", _TOKEN)
    yield "# const session = new Session({ iamToken: process.env.YC_IAM_TOKEN });"
    yield "# The SDK asks nobody where services are, so each client is told:"
    yield "#   session.client(CLIENT, process.env.YC_ENDPOINT)"
    yield "#   waitForOperation(operation, session, 600000, process.env.YC_ENDPOINT)"


def _go(target: _Target) -> Iterator[str]:
    yield from _common(target, "SSL_CERT_FILE")
    yield _export("YC_TOKEN", _TOKEN)
    yield '# version 1: ycsdk.Config{Endpoint: os.Getenv("YC_ENDPOINT"), Credentials: ...}'
    yield '# version 2: options.WithDiscoveryEndpoint(os.Getenv("YC_ENDPOINT")), whose discovery'
    yield "#   trusts what the system trusts, whatever its other options say"


def _terraform(target: _Target) -> Iterator[str]:
    yield from _common(target, "SSL_CERT_FILE")
    yield _export("YC_ZONE", target.zone)
    yield _export("YC_TOKEN", _TOKEN)
    yield "# Half of the provider heeds neither, the other half would: both shall use TLS."
    yield "unset YC_PLAINTEXT YC_INSECURE"
    yield "# It would ask its makers for its newest version."
    yield _export("YC_TERRAFORM_INITIALIZATION_SILENCE", "true")
    yield '# provider "yandex" {}'


def _yc(target: _Target) -> Iterator[str]:
    if target.ca is not None:
        yield _export("SSL_CERT_FILE", target.ca)
    yield _export("YC_CLI_INITIALIZATION_SILENCE", "true")
    yield f"yc config profile activate {_PROFILE} 2>/dev/null ||"
    yield f"    yc config profile create {_PROFILE}"
    for key, value in (
        ("endpoint", target.endpoint),
        ("token", _TOKEN),
        ("cloud-id", target.cloud_id),
        ("folder-id", target.folder_id),
        ("compute-default-zone", target.zone),
    ):
        yield f"yc config set {key} {shlex.quote(value)}"
    yield "# yc compute image list"


def _grpcurl(target: _Target) -> Iterator[str]:
    yield from _common(target, "SSL_CERT_FILE")
    yield '# grpcurl "$YC_ENDPOINT" list'


def _curl(settings: Settings) -> Iterator[str]:
    """Raises `SettingError`."""
    if not settings.gateway_listen or settings.gateway_listen.endswith(":0"):
        raise SettingError("gateway_listen: REST needs the gateway, at a port that is known")
    yield _export("YC_REST", f"http://{installation.reachable(settings.gateway_listen)}")
    yield _export("YC_FOLDER_ID", next(iter(settings.folders().names)))
    yield '# curl "$YC_REST/compute/v1/images?folderId=$YC_FOLDER_ID"'


_CLIENTS: dict[str, Callable[[_Target], Iterator[str]]] = {
    "go": _go,
    "grpcurl": _grpcurl,
    "node": _node,
    "python": _python,
    "terraform": _terraform,
    "yc": _yc,
}
_NAMES = sorted([*_CLIENTS, "curl"])
