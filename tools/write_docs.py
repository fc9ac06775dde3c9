"""Writes the parts of the documentation that the code knows better.

usage: python tools/write_docs.py          the settings table of README.md, docs/errors.md, and
                                           all of deploy/envoy
       python tools/write_docs.py --check  write nothing; exit 1 and name what would change
"""

import argparse
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from darkroom import config
from darkroom.api.status import to_status
from darkroom.domain import errors as catalogue
from darkroom.domain.errors import CATALOGUE, Failure, FieldViolation, Kind
from darkroom.gateway.envoy import Gateway, configuration, rest_services
from darkroom.gateway.parts import as_text
from darkroom.gateway.sidecar import (
    ClientSidecar,
    Identity,
    ServerSidecar,
    client_configuration,
    secrets,
    server_configuration,
)

ROOT = Path(__file__).resolve().parent.parent

_ERRORS_HEAD = """\
# Errors

Made by `make docs` from the catalogue in `server/darkroom/domain/errors.py`; changes here are lost.

Each failure has one gRPC code, one message and one reason. The reason stands in
`google.rpc.ErrorInfo` (domain `darkroom`) and never changes, so programs may go by it. The same
status serves the call that fails and the `error` of an operation that fails later.

Besides the details named here, every failure carries `google.rpc.ErrorInfo`, and that of a call
`google.rpc.RequestInfo`.
"""

_MESH_HEAD = """\
# Made by `make docs`; changes here are lost.
#
# What `darkroom gateway` runs, for an Envoy of your own. It wants descriptors.binpb, openapi.json
# (both of generated/darkroom_pb) in /etc/envoy, and finds the server as darkroom:50051.
# Nothing here ends TLS or knows a caller: the mesh does.
"""
_SIDECAR_CLIENT_HEAD = """\
# Made by `make docs`; changes here are lost.
#
# For the Envoy beside a client, which calls 127.0.0.1:50051 in plaintext. It goes on to whatever
# the name darkroom stands for, all of its addresses: in Kubernetes that is a headless service.
# It wants identity.yaml and trusted.yaml in /etc/envoy.
"""
_SIDECAR_SERVER_HEAD = """\
# Made by `make docs`; changes here are lost.
#
# For the Envoy beside a server that listens on 127.0.0.1:50051. It lets nobody through but the
# client with the SPIFFE id below. It wants identity.yaml and trusted.yaml in /etc/envoy.
"""
_SIDECAR_MESH_HEAD = """\
# Made by `make docs`; changes here are lost.
#
# The same as sidecar-server.yaml for a server that goes by who calls. Both have one identity, with
# which they prove to each other who they are; the server is started with
#
#   --auth-mode mesh --listen 127.0.0.1:50051 --tls-listen 127.0.0.1:50443
#   --tls-certificate /etc/envoy/tls/cert.pem --tls-key /etc/envoy/tls/key.pem
#   --tls-client-ca /etc/envoy/tls/ca.pem --mesh-peer spiffe://darkroom.example/ns/darkroom/sa/darkroom
#   --mesh-subject-header x-forwarded-client-cert --mesh-groups-header=
#
# and its access files give roles to serviceAccount:spiffe://darkroom.example/ns/clients/sa/client.
"""
_SECRET_HEAD = """\
# Made by `make docs`; changes here are lost.
#
# What both sidecars read about the files of /etc/envoy/tls. They watch that folder: whoever
# replaces what is in it by renaming, as Kubernetes does with a secret, need not restart them.
"""
_MESH_FOLDER = Path("/etc/envoy")
_SPIFFE_PREFIX = "spiffe://darkroom.example/ns/"
_SERVER, _CLIENT = "darkroom/sa/darkroom", "clients/sa/client"

_EVERYWHERE = {"google.rpc.ErrorInfo", "google.rpc.RequestInfo"}


def main() -> int:
    """Writes or checks; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write generated parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="name what differs, write nothing")
    check_only = parser.parse_args().check
    stale = [path for path, text in wanted().items() if not _holds(path, text)]
    for path in stale:
        print(path.relative_to(ROOT))
        if not check_only:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted()[path], encoding="utf-8")
    if stale and check_only:
        print("out of date: run `make docs`", file=sys.stderr)
    return 1 if stale and check_only else 0


def wanted() -> dict[Path, str]:
    """What each file should hold."""
    readme = ROOT / "README.md"
    return {
        readme: with_settings(readme.read_text(encoding="utf-8")),
        ROOT / "docs/errors.md": errors(),
        ROOT / "deploy/envoy/envoy.yaml": mesh(),
        ROOT / "deploy/envoy/sidecar-client.yaml": sidecar_client(),
        ROOT / "deploy/envoy/sidecar-server.yaml": sidecar_server(),
        ROOT / "deploy/envoy/sidecar-server-mesh.yaml": sidecar_server_mesh(),
        **sidecar_secrets(),
    }


def with_settings(readme: str) -> str:
    """The README with the table of settings as it is now between its markers."""
    before, begin, rest = readme.partition("<!-- settings:begin -->")
    _, end, after = rest.partition("<!-- settings:end -->")
    if not end:
        raise ValueError("README.md has lost the markers of the settings table")
    return f"{before}{begin}\n{config.table()}\n{end}{after}"


def mesh() -> str:
    """The whole of deploy/envoy/envoy.yaml."""
    descriptors = ROOT / "generated/darkroom_pb/descriptors.binpb"
    gateway = Gateway(
        listen="0.0.0.0:8080",
        upstream="darkroom:50051",
        descriptors=_MESH_FOLDER / "descriptors.binpb",
        services=rest_services(descriptors.read_bytes()),
        max_request_bytes=config.Settings.max_request_size,
        max_header_bytes=config.Settings.max_metadata_size,
        openapi=_MESH_FOLDER / "openapi.json",
    )
    return _MESH_HEAD + as_text(configuration(gateway))


def _identity(peer: str) -> Identity:
    """Files below the mesh's folder; `peer` is who the other side must be."""
    certificate, key, trusted = (
        str(_MESH_FOLDER / "tls" / name) for name in ("cert.pem", "key.pem", "ca.pem")
    )
    return Identity(certificate, key, trusted, (_SPIFFE_PREFIX + peer,), str(_MESH_FOLDER))


def sidecar_client() -> str:
    """The whole of deploy/envoy/sidecar-client.yaml."""
    sidecar = ClientSidecar(
        listen="127.0.0.1:50051",
        upstreams=("darkroom:50052",),
        identity=_identity(_SERVER),
        max_request_bytes=config.Settings.max_request_size,
        max_header_bytes=config.Settings.max_metadata_size,
    )
    return _SIDECAR_CLIENT_HEAD + as_text(client_configuration(sidecar))


_SERVER_SIDECAR = ServerSidecar(
    listen="0.0.0.0:50052",
    upstream="127.0.0.1:50051",
    identity=_identity(_CLIENT),
    max_request_bytes=config.Settings.max_request_size,
    max_header_bytes=config.Settings.max_metadata_size,
)


def sidecar_server() -> str:
    """The whole of deploy/envoy/sidecar-server.yaml."""
    return _SIDECAR_SERVER_HEAD + as_text(server_configuration(_SERVER_SIDECAR))


def sidecar_server_mesh() -> str:
    """The whole of deploy/envoy/sidecar-server-mesh.yaml."""
    sidecar = replace(
        _SERVER_SIDECAR, upstream="127.0.0.1:50443", upstream_peer=_SPIFFE_PREFIX + _SERVER
    )
    return _SIDECAR_MESH_HEAD + as_text(server_configuration(sidecar))


def sidecar_secrets() -> dict[Path, str]:
    """The files that both sidecars read about their certificates."""
    return {
        ROOT / "deploy/envoy" / Path(path).name: _SECRET_HEAD + as_text(document)
        for path, document in secrets(_SERVER_SIDECAR.identity).items()
    }


def errors() -> str:
    """The whole of docs/errors.md."""
    parts = [_ERRORS_HEAD]
    carried = details()
    for code in sorted({kind.code.name for kind in CATALOGUE.values()}):
        parts.append(
            f"\n## {code}\n\n| reason | message | details | what to do |\n|---|---|---|---|\n"
        )
        for kind in sorted(CATALOGUE.values(), key=lambda each: each.reason):
            if kind.code.name == code:
                cells = (f"`{kind.reason}`", kind.message, carried[kind.reason], _advice(kind))
                parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(parts)


def details() -> dict[str, str]:
    """What the status of each reason carries, seen on failures that the constructors make."""
    found = {}
    for _, constructor in inspect.getmembers(catalogue, inspect.isfunction):
        if constructor.__annotations__.get("return") is not Failure:
            continue
        # One constructor tells failures apart by the status of an HTTP reply.
        for number in (302, 403, 404, 500):
            failure = constructor(*_arguments(constructor, number))
            names = {each.TypeName() for each in to_status(failure).details} - _EVERYWHERE
            found[failure.reason] = ", ".join(f"`{name}`" for name in sorted(names))
    return found


def _arguments(constructor: Callable[..., Failure], number: int) -> list[object]:
    """Values of the right types, whatever they mean."""
    made: list[object] = []
    for parameter in inspect.signature(constructor).parameters.values():
        if parameter.annotation in (int, float):
            made.append(number)
        elif parameter.annotation is str:
            made.append("text")
        else:
            texts = "str" in str(parameter.annotation)
            made.append(["text"] if texts else [FieldViolation("field", "is wrong")])
    return made


def _advice(kind: Kind) -> str:
    if kind.retry_after_seconds is None:
        return kind.advice
    return f"{kind.advice} RetryInfo says {kind.retry_after_seconds:g} s."


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
