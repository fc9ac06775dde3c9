"""Certificates of the TLS listener: given ones, or for development ones made here."""

import datetime
import ipaddress
import logging
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from darkroom.api.following import Stamp, replace_file, stamp

log = logging.getLogger(__name__)

_CA_DAYS = 3650
_SERVER_DAYS = 397
"""The longest that browsers and their kin accept."""
_RENEW_DAYS = 30
_MARGIN = datetime.timedelta(hours=1)
"""Clocks of clients may be behind."""


@dataclass(frozen=True)
class CertificateFiles:
    """PEM files of a listener. `ca` is what clients must trust, None where it is not ours."""

    certificate: Path
    key: Path
    ca: Path | None = None
    client_ca: Path | None = None
    """The authorities whose certificates clients must show; None if they show none."""


def development_files(folder: Path) -> CertificateFiles:
    """A certificate for this machine and the authority behind it, made when they are missing.

    The authority is made once, so that clients which trust it go on doing so; the server's
    certificate is made anew when it is about to end.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    files = CertificateFiles(folder / "server.pem", folder / "server.key", ca)
    if not (ca.exists() and ca_key.exists()):
        _write_authority(ca, ca_key)
        files.certificate.unlink(missing_ok=True)
    if not _is_current(files):
        _write_certificate(files, ca, ca_key)
    return files


def _is_current(files: CertificateFiles) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        files.key.read_bytes()
    except (OSError, ValueError):
        return False
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return left > datetime.timedelta(days=_RENEW_DAYS)


def _write_authority(ca: Path, ca_key: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Darkroom development CA")])
    builder = (
        _builder(name, name, key.public_key(), _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    replace_file(ca_key, _key_bytes(key), 0o600)
    replace_file(
        ca, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), 0o644
    )


def _write_certificate(files: CertificateFiles, ca: Path, ca_key: Path) -> None:
    authority = x509.load_pem_x509_certificate(ca.read_bytes())
    signer = serialization.load_pem_private_key(ca_key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    names = dict.fromkeys(("localhost", socket.gethostname()))
    alternatives = [
        *(x509.DNSName(name) for name in names),
        *(x509.IPAddress(ipaddress.ip_address(each)) for each in ("127.0.0.1", "::1")),
    ]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    builder = (
        _builder(subject, authority.subject, key.public_key(), _SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    )
    chain = builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    replace_file(files.key, _key_bytes(key), 0o600)
    replace_file(files.certificate, chain, 0o644)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _MARGIN)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


class _Reloader:
    """Gives grpcio the present certificate each time a connection is made."""

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self.configuration = self._read()

    def _stamp(self) -> Stamp:
        files = self._files
        present = (files.certificate, files.key, files.client_ca)
        return stamp(*(path for path in present if path is not None))

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """Raises `ValueError` unless the two files belong together."""
        chain, key = self._files.certificate.read_bytes(), self._files.key.read_bytes()
        try:
            certificate = x509.load_pem_x509_certificate(chain)
        except ValueError:
            raise ValueError(f"{self._files.certificate} holds no PEM certificate") from None
        try:
            private = serialization.load_pem_private_key(key, None)
        except (ValueError, TypeError):
            raise ValueError(f"{self._files.key} holds no PEM key without a password") from None
        if certificate.public_key() != private.public_key():
            raise ValueError("the TLS key is not that of the TLS certificate")
        return grpc.ssl_server_certificate_configuration([(key, chain)], self._client_ca())

    def _client_ca(self) -> bytes | None:
        path = self._files.client_ca
        if path is None:
            return None
        authorities = path.read_bytes()
        try:
            x509.load_pem_x509_certificates(authorities)
        except ValueError:
            raise ValueError(f"{path} holds no PEM certificate") from None
        return authorities

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """The new certificate if the files changed and are whole, else None: keep the last."""
        with self._lock:
            try:
                present = self._stamp()
                if present == self._seen:
                    return None
                self.configuration = self._read()
            except (OSError, ValueError):
                # One file may be there before the other; the next connection looks again.
                log.warning("the TLS certificate cannot be read; the last one stays")
                return None
            self._seen = present
        log.info("TLS certificate re-read")
        return self.configuration


def credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """Server credentials that follow the files without a restart.

    Raises `OSError` or `ValueError` if they cannot be used now.
    """
    reloader = _Reloader(files)
    return grpc.dynamic_ssl_server_credentials(
        reloader.configuration,
        # None means "as before" to grpcio; its type stubs do not know that.
        reloader.fetch,  # type: ignore[arg-type]
        require_client_authentication=files.client_ca is not None,
    )
