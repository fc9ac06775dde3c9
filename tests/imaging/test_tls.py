"""HTTPS: the certificate belongs to the name, whatever address the connection goes to."""

import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from darkroom.domain.errors import Failure
from darkroom.domain.work import Interrupted
from darkroom.imaging.fetch import Fetcher
from darkroom.imaging.fetch_limits import FetchLimits
from darkroom.imaging.sources import SourcePolicy, parse_endpoint
from imaging.origin import Behaviour, Origin, serving
from imaging.watches import STOPPED_SECONDS, ManualWatch

BODY = bytes(range(256)) * 9000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for *.store.test and 127.0.0.1, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "store.test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("*.store.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def origin(certificate: Path) -> Iterator[Origin]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(Behaviour(body=BODY), context) as running:
        yield running


def fetch(port: int, host: str, target: Path, watch: ManualWatch | None = None) -> int:
    policy = SourcePolicy([parse_endpoint(f"https://{host}:{port}/")])
    limits = FetchLimits(attempts=2, backoff_seconds=0.01, part_bytes=1 << 20)
    fetcher = Fetcher(policy, limits, resolver=lambda host, port: ["127.0.0.1"])
    url = f"https://{host}:{port}/bucket/image?X-Amz-Signature=secret"
    return fetcher.fetch(url, target, watch or ManualWatch()).size_bytes


@pytest.mark.parametrize("host", ["bucket.store.test", "127.0.0.1"])
def test_trusts_the_right_name(
    host: str, origin: Origin, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert fetch(origin.port, host, tmp_path / "source") == len(BODY)
    assert (tmp_path / "source").read_bytes() == BODY


@pytest.mark.parametrize("host", ["other.example", "store.test.evil.example"])
def test_refuses_another_name(
    host: str, origin: Origin, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with pytest.raises(Failure) as caught:
        fetch(origin.port, host, tmp_path / "source")
    assert caught.value.reason == "SOURCE_CERTIFICATE_INVALID"
    assert not origin.seen


def test_refuses_an_unknown_authority(origin: Origin, tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        fetch(origin.port, "bucket.store.test", tmp_path / "source")
    assert caught.value.reason == "SOURCE_CERTIFICATE_INVALID"


def test_a_handshake_that_never_ends_can_be_left(tmp_path: Path) -> None:
    watch = ManualWatch()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pulled: list[float] = []

        def pull() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(10)
                pulled.append(time.monotonic())
                watch.event.set()
                connection.settimeout(5)
                while connection.recv(4096):
                    pass

        puller = threading.Thread(target=pull)
        puller.start()
        with pytest.raises(Interrupted):
            fetch(listener.getsockname()[1], "bucket.store.test", tmp_path / "source", watch)
        assert time.monotonic() - pulled[0] < STOPPED_SECONDS
        puller.join()
