"""The TLS listener: its certificates, made or given, and how they change under a running server."""

import os
import shutil
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from darkroom.api import tls
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2, image_service_pb2_grpc
from installation import Installation, installation, until

ANY_PORT = "127.0.0.1:0"


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path, "http://127.0.0.1:9", DARKROOM_TLS_LISTEN=ANY_PORT) as running:
        yield running


def ca_bytes(darkroom: Installation) -> bytes:
    (line,) = [line for line in darkroom.log_lines() if line["event"] == "clients must trust"]
    return Path(line["ca_file"]).read_bytes()


def listed(darkroom: Installation, ca: bytes, host: str = "localhost") -> int:
    """How many images a client that trusts `ca` sees."""
    address = f"{host}:{darkroom.tls_address.rpartition(':')[2]}"
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca)) as channel:
        stub = image_service_pb2_grpc.ImageServiceStub(channel)
        request = image_service_pb2.ListImagesRequest(folder_id="folder")
        return len(stub.List(request, timeout=10).images)


def presented(darkroom: Installation) -> int:
    """Serial number of the certificate that a new connection is shown."""
    host, _, port = darkroom.tls_address.rpartition(":")
    pem = ssl.get_server_certificate((host, int(port)), timeout=5)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_client_that_trusts_the_authority_is_served(secured: Installation, host: str) -> None:
    assert listed(secured, ca_bytes(secured), host) == 0


def test_a_client_that_does_not_trust_it_stays_away(secured: Installation, tmp_path: Path) -> None:
    files = tls.development_files(tmp_path / "other")
    assert files.ca is not None
    with pytest.raises(grpc.RpcError) as refused:
        listed(secured, files.ca.read_bytes())
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_keys_are_private_and_the_authority_survives_a_restart(secured: Installation) -> None:
    before = ca_bytes(secured)
    folder = secured.data / "tls"
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    secured.kill()
    secured.log_path.unlink()
    secured.start()
    assert ca_bytes(secured) == before
    assert listed(secured, before) == 0


def test_a_changed_certificate_is_served_without_a_restart(
    secured: Installation, tmp_path: Path
) -> None:
    folder = secured.data / "tls"
    before = presented(secured)
    (folder / "server.pem").write_text("half a file")
    assert presented(secured) == before
    other = tls.development_files(tmp_path / "other")
    assert other.ca is not None
    shutil.copy(other.key, folder / "server.key.new")
    os.replace(folder / "server.key.new", folder / "server.key")
    assert presented(secured) == before  # the key came first: the pair is not whole yet
    shutil.copy(other.certificate, folder / "server.pem.new")
    os.replace(folder / "server.pem.new", folder / "server.pem")
    after = x509.load_pem_x509_certificate(other.certificate.read_bytes()).serial_number
    until(lambda: presented(secured) == after, "the new certificate", 5)
    assert listed(secured, other.ca.read_bytes()) == 0


def test_given_files_are_used(tmp_path: Path) -> None:
    files = tls.development_files(tmp_path / "given")
    assert files.ca is not None
    settings = {
        "DARKROOM_TLS_LISTEN": ANY_PORT,
        "DARKROOM_TLS_CERTIFICATE": str(files.certificate),
        "DARKROOM_TLS_KEY": str(files.key),
    }
    with installation(tmp_path, "http://127.0.0.1:9", **settings) as darkroom:
        assert listed(darkroom, files.ca.read_bytes()) == 0
        assert not (darkroom.data / "tls").exists()


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("a/server.pem", "", "give both or neither"),
        ("a/server.pem", "b/server.key", "the TLS key is not that of the TLS certificate"),
        ("a/server.pem", "missing.key", "No such file"),
        ("a/server.key", "a/server.key", "server.key holds no PEM certificate"),
        ("a/server.pem", "a/server.pem", "server.pem holds no PEM key"),
        ("a/server.pem", "a/locked.key", "locked.key holds no PEM key without a password"),
    ],
)
def test_files_that_do_not_fit_refuse_to_start(
    tmp_path: Path, certificate: str, key: str, message: str
) -> None:
    for name in ("a", "b"):
        files = tls.development_files(tmp_path / name)
        locked = serialization.load_pem_private_key(files.key.read_bytes(), None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
        files.key.with_name("locked.key").write_bytes(locked)
    command = [sys.executable, "-m", "darkroom", "serve", "--listen", ANY_PORT]
    command += ["--tls-listen", ANY_PORT, "--data-dir", str(tmp_path / "data")]
    command += ["--tls-certificate", str(tmp_path / certificate)]
    command += ["--tls-key", str(tmp_path / key) if key else ""]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_certificate_about_to_end_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_SERVER_DAYS", 20)
    short = tls.development_files(tmp_path).certificate.read_bytes()
    monkeypatch.undo()
    ca = (tmp_path / "ca.pem").read_bytes()
    renewed = tls.development_files(tmp_path).certificate.read_bytes()
    assert renewed != short
    assert tls.development_files(tmp_path).certificate.read_bytes() == renewed
    assert (tmp_path / "ca.pem").read_bytes() == ca
