"""Checks of the listeners, as a client sees them."""

import datetime
import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from darkroom import config
from darkroom.api.endpoints import ENDPOINT_IDS
from darkroom.cli import installation
from darkroom.cli.checks import Finding, State, failed, ok, skipped, warning
from darkroom.config import Settings
from darkroom_pb.yandex.cloud.endpoint import (
    api_endpoint_service_pb2,
    api_endpoint_service_pb2_grpc,
)

_ENDING_SOON = datetime.timedelta(days=14)
_SERVICE = "yandex.cloud.compute.v1.ImageService"


@dataclass(frozen=True)
class ClientCertificate:
    """What is shown to listeners that ask clients who they are: PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class _Listener:
    name: str
    setting: str
    address: str
    """As a client on this machine writes it."""
    advertise_setting: str
    ca: bytes | None = None
    secure: bool = False
    shown: "ClientCertificate | None" = None

    @property
    def host(self) -> str:
        return _split(self.address)[0]

    def channel(self) -> grpc.Channel:
        if not self.secure:
            return grpc.insecure_channel(self.address)
        key = certificate = None
        if self.shown is not None:
            key, certificate = self.shown.key.read_bytes(), self.shown.certificate.read_bytes()
        credentials = grpc.ssl_channel_credentials(self.ca, key, certificate)
        return grpc.secure_channel(self.address, credentials)

    def context(self) -> ssl.SSLContext:
        """As a client has it that trusts the authority. Raises `OSError`, `ValueError`."""
        context = ssl.create_default_context(cadata=None if self.ca is None else self.ca.decode())
        context.set_alpn_protocols(["h2"])
        if self.shown is not None:
            context.load_cert_chain(self.shown.certificate, self.shown.key)
        return context


def findings(
    settings: Settings, ca: Path | None, seconds: float, shown: ClientCertificate | None = None
) -> Iterator[Callable[[], Iterator[Finding]]]:
    """The checks, in order; `ca` is what clients trust, None for what is made for development.

    Nothing is waited for longer than `seconds`.
    """
    plain = _Listener("plaintext", "listen", installation.reachable(settings.listen), "advertise")
    yield lambda: _served(plain, settings, seconds)
    if settings.tls_listen:
        yield lambda: _tls(settings, ca, seconds, shown)
    else:
        yield lambda: iter([skipped("TLS listener", "none", "official clients need --tls-listen")])
    yield lambda: _gateway(settings, seconds)
    yield lambda: _exposure(settings)


def _tls(
    settings: Settings, ca: Path | None, seconds: float, shown: ClientCertificate | None
) -> Iterator[Finding]:
    address = installation.reachable(settings.tls_listen)
    if ca is None and not settings.tls_certificate:
        ca = settings.certificate_folder / "ca.pem"
    authority = None
    if ca is not None:
        try:
            authority = ca.read_bytes()
            ssl.create_default_context(cadata=authority.decode())
        except (OSError, ValueError):
            advice = "start the server once, or name the authority with --ca"
            yield failed("TLS trust", f"{ca} is no PEM file of an authority", advice)
            return
    listener = _Listener(
        "TLS", "tls_listen", address, "tls_advertise", authority, secure=True, shown=shown
    )
    if shown is not None:
        try:
            listener.context()
        except (OSError, ValueError):
            advice = "name PEM files that belong together, which this user may read"
            yield failed("TLS client", "certificate and key cannot be used", advice)
            return
    if _reached(listener, seconds) is None:
        yield from _certificate(listener, settings, seconds)
        yield _trust(listener, ca, seconds)
        if settings.tls_client_ca:
            yield _strangers(replace(listener, shown=None), seconds)
            if shown is None:
                found = "it asks clients for a certificate, and none was given to show"
                advice = "give one with --client-certificate and --client-key to look further"
                yield skipped("TLS listener", found, advice)
                return
    yield from _served(listener, settings, seconds)


# --- reaching it ----------------------------------------------------------------------------------


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _reached(listener: _Listener, seconds: float) -> Finding | None:
    """None, or why not."""
    check, setting = f"{listener.name} listener", config.flag(listener.setting)
    if listener.address.endswith(":0"):
        advice = f"name the address that the server has logged with {setting}"
        return failed(check, "port 0 is another at each start", advice)
    try:
        socket.create_connection(_split(listener.address), seconds).close()
    except OSError as error:
        found = f"{listener.address} cannot be reached: {error.strerror or error}"
        return failed(check, found, f"start the server, or say where it listens with {setting}")
    return None


def _served(listener: _Listener, settings: Settings, seconds: float) -> Iterator[Finding]:
    unreached = _reached(listener, seconds)
    if unreached is not None:
        yield unreached
        return
    with listener.channel() as channel:
        healthy = _health(listener, channel, seconds)
        yield healthy
        if healthy.state is not State.OK:
            return  # the rest would say the same once more
        if settings.reflects:
            yield _reflection(listener, channel, seconds)
        else:
            yield skipped(f"{listener.name} reflection", "it is turned off")
        yield from _discovery(listener, channel, seconds)


def _health(listener: _Listener, channel: grpc.Channel, seconds: float) -> Finding:
    check = f"{listener.name} listener"
    try:
        reply = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=seconds
        )
    except grpc.RpcError as error:
        advice = "see that this is a Darkroom, and what its log says"
        return failed(check, f"{listener.address} answers {_code(error)} to a health check", advice)
    state = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        advice = "it is starting, ending, or its database cannot be written: see its log"
        return failed(check, f"{listener.address} is {state}", advice)
    return ok(check, f"{listener.address} is {state}")


def _reflection(listener: _Listener, channel: grpc.Channel, seconds: float) -> Finding:
    check = f"{listener.name} reflection"
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    try:
        (reply,) = stub.ServerReflectionInfo(iter([request]), timeout=seconds)
    except grpc.RpcError as error:
        advice = "without it grpcurl and its like need the .proto files"
        return warning(check, f"it answers {_code(error)}", advice)
    services = [each.name for each in reply.list_services_response.service]
    if _SERVICE not in services:
        return failed(check, f"it does not know {_SERVICE}", "see that this is a Darkroom")
    return ok(check, f"it lists {len(services)} services")


def _code(error: grpc.RpcError) -> str:
    return str(error.code().name)


# --- discovery ------------------------------------------------------------------------------------


def _discovery(listener: _Listener, channel: grpc.Channel, seconds: float) -> Iterator[Finding]:
    check, setting = f"{listener.name} discovery", config.flag(listener.advertise_setting)
    stub = api_endpoint_service_pb2_grpc.ApiEndpointServiceStub(channel)
    request = api_endpoint_service_pb2.ListApiEndpointsRequest()
    try:
        endpoints = stub.List(request, timeout=seconds).endpoints
    except grpc.RpcError as error:
        yield failed(check, f"it answers {_code(error)}", "see the log of the server")
        return
    missing = set(ENDPOINT_IDS) - {each.id for each in endpoints}
    if missing:
        found = f"it does not name {', '.join(sorted(missing))}"
        yield failed(check, found, "clients need all of them: see that this is a Darkroom")
    for address in sorted({each.address for each in endpoints}):
        problem = _dialled(address, listener, seconds)
        if problem:
            advice = f"change {setting} to an address that clients can reach, or leave it out"
            yield failed(check, f"it sends clients to {address}, where {problem}", advice)
        else:
            yield ok(check, f"it sends clients to {address}, which answers")


def _dialled(address: str, listener: _Listener, seconds: float) -> str:
    """What is wrong with the address, as a client finds it that dials it; empty if nothing is."""
    try:
        host, port = _split(address)
        with socket.create_connection((host, port), seconds) as connection:
            if listener.secure:
                listener.context().wrap_socket(connection, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        return f"the certificate does not hold: {error.verify_message}"
    except ValueError:
        return "there is no port"
    except OSError as error:
        return f"nobody answers: {error.strerror or error}"
    return ""


# --- certificates ---------------------------------------------------------------------------------


def _certificate(listener: _Listener, settings: Settings, seconds: float) -> Iterator[Finding]:
    """What is presented, whether or not anybody trusts it."""
    check = "TLS certificate"
    looking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    looking.check_hostname, looking.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(_split(listener.address), seconds) as connection,
            looking.wrap_socket(connection, server_hostname=listener.host) as secured,
        ):
            presented = secured.getpeercert(binary_form=True)
    except OSError as error:
        advice = f"see that {config.flag(listener.setting)} is the TLS listener"
        yield failed(check, f"there is no TLS handshake: {error.strerror or error}", advice)
        return
    assert presented is not None
    certificate = x509.load_der_x509_certificate(presented)
    ends = certificate.not_valid_after_utc
    now = datetime.datetime.now(datetime.UTC)
    advice = (
        f"put a new one at {settings.tls_certificate}: no restart is needed"
        if settings.tls_certificate
        else "restart the server, which makes a new one"
    )
    if now < certificate.not_valid_before_utc:
        found = f"it is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        yield failed(check, found, "set the clock, or put the right certificate there")
    elif now >= ends:
        yield failed(check, f"it has ended on {ends:%Y-%m-%d %H:%M} UTC", advice)
    elif ends - now < _ENDING_SOON:
        yield warning(check, f"it ends on {ends:%Y-%m-%d}", advice)
    else:
        yield ok(check, f"for {', '.join(_names(certificate))}; it ends on {ends:%Y-%m-%d}")


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ["nobody"]
    addresses = [str(each) for each in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def _trust(listener: _Listener, ca: Path | None, seconds: float) -> Finding:
    check = "TLS trust"
    try:
        with (
            socket.create_connection(_split(listener.address), seconds) as connection,
            listener.context().wrap_socket(connection, server_hostname=listener.host),
        ):
            pass
    except ssl.SSLCertVerificationError as error:
        advice = "name the authority with --ca, or call the server by a name in its certificate"
        return failed(check, f"clients refuse it: {error.verify_message}", advice)
    except ssl.SSLError as error:
        return failed(check, f"there is no TLS handshake: {error.reason}", "see the server's log")
    except OSError as error:
        return failed(check, f"nobody answers: {error.strerror or error}", "see the server's log")
    if ca is None:
        return ok(check, "clients that trust what this machine trusts are served")
    return ok(check, f"clients must trust {ca}: `darkroom env CLIENT` says how")


def _strangers(listener: _Listener, seconds: float) -> Finding:
    """Whether a client without a certificate is let in."""
    check = "TLS client"
    try:
        with (
            socket.create_connection(_split(listener.address), seconds) as connection,
            listener.context().wrap_socket(connection, server_hostname=listener.host) as secured,
        ):
            # With TLS 1.3 the client is done before the server has judged it.
            let_in = bool(secured.recv(1))
    except ssl.SSLCertVerificationError:
        return skipped(check, "not looked at: the server's own certificate does not hold")
    except TimeoutError:
        return skipped(check, "not looked at: the server says nothing")
    except OSError:
        let_in = False
    if let_in:
        advice = f"see that the server was started with {config.flag('tls_client_ca')}"
        return failed(check, "a client without a certificate is let in", advice)
    return ok(check, "a client without a certificate is refused")


# --- the rest -------------------------------------------------------------------------------------


def _gateway(settings: Settings, seconds: float) -> Iterator[Finding]:
    check, address = "REST gateway", installation.reachable(settings.gateway_listen)
    if not address or address.endswith(":0"):
        yield skipped(check, "none, or at a port that is not known")
        return
    connection = http.client.HTTPConnection(*_split(address), timeout=seconds)
    try:
        connection.request("GET", "/endpoints")
        status = connection.getresponse().status
    except ConnectionRefusedError:
        yield skipped(check, f"nobody listens at {address}", "`darkroom gateway` would serve REST")
    except (OSError, http.client.HTTPException):
        advice = "see that the gateway has this address"
        yield failed(check, f"{address} does not answer HTTP", advice)
    else:
        if status == http.client.OK:
            yield ok(check, f"{address} answers")
        else:
            advice = "see that it stands before this server: --gateway-upstream"
            yield failed(check, f"{address} answers {status}", advice)
    finally:
        connection.close()


def _exposure(settings: Settings) -> Iterator[Finding]:
    check, exposed = "exposure", settings.exposed()
    reached = f"other machines may reach {' and '.join(exposed)}"
    if not exposed:
        yield ok(check, "only this machine can reach the server")
    elif settings.auth_mode == "none":
        advice = "keep it behind a mesh or a firewall, or on loopback"
        yield warning(check, f"{reached}, and nobody is asked who they are", advice)
    elif settings.listen in exposed and settings.auth_mode != "mesh":
        advice = f"have clients use TLS, and {config.flag('listen')} an address of loopback"
        yield warning(check, f"{reached}; tokens can be read on the way without TLS", advice)
    else:
        yield ok(check, f"{reached}; callers are asked who they are")
