"""The gRPC server: services, interceptors, pools and the life of one listener."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from darkroom.api import disks, health, images, operations, reflection, snapshots, tls
from darkroom.api.access.modes import Access
from darkroom.api.arrival import Alarms, RequestFirstExecutor, executor
from darkroom.api.calls import Call, Handler, method_path, methods_of
from darkroom.api.convert import OPERATION_TYPES, check_operation_types
from darkroom.api.endpoints import ApiEndpointServicer
from darkroom.api.folders import CloudServicer, FolderServicer
from darkroom.api.iam_tokens import IamTokenServicer
from darkroom.api.interceptors import Interceptors, unknown_method
from darkroom.api.permissions import PERMISSIONS, check_table
from darkroom.api.places import DiskTypeServicer, ZoneServicer
from darkroom.api.tls import CertificateFiles
from darkroom.config import MAX_CONCURRENT_STREAMS, Settings
from darkroom.domain import errors
from darkroom.operations.desk import Operations
from darkroom.storage.port import MetadataStore
from darkroom.telemetry.instruments import NO_INSTRUMENTS, Instruments

log = logging.getLogger(__name__)

MIN_PING_MS = 5_000
"""Pings closer together than this are counted against a client. gRPC for Go pings every 10 s at
most, the cloud's Go SDK every 30 s; networks bring some of them closer together."""
_HEALTH_THREADS = 4
_REFLECTION_THREADS = 128
"""A reflection stream holds a thread for as long as it is open."""
_FLUSH_SECONDS = 0.2
_POLL_SECONDS = 0.01

_WALL = 2
"""The interceptors refuse what is above a limit, with advice and a line in the log. What is this
many times above it gRPC's core refuses, with neither, before it takes room."""

_OPTIONS = (
    ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
    # Clients of the cloud ping every 30 s, calls or not; the default takes that for an attack.
    ("grpc.keepalive_permit_without_calls", 1),
    # The constant for this in gRPC's C library has a RECV in its name, the option itself has not.
    ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_MS),
    # What a caller may send of a request that nobody waits for yet: nearly every one fits, and of a
    # large one core keeps no more, for each of the calls under way. By itself it would let this
    # grow with what a connection carries.
    ("grpc.http2.lookahead_bytes", 8 * 1024),
    ("grpc.http2.bdp_probe", 0),
    # Without it two servers could be started on one port, each getting some of the calls.
    ("grpc.so_reuseport", 0),
)


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        *_OPTIONS,
        *_age(settings),
        ("grpc.max_receive_message_length", settings.max_request_size * _WALL),
        # Above the first of these two core refuses now and then, above the second always.
        ("grpc.max_metadata_size", settings.max_metadata_size * _WALL),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_size * _WALL),
    ]


def _age(settings: Settings) -> list[tuple[str, int]]:
    """gRPC's core spreads the age by a tenth, so that not all connections end together."""
    if not settings.max_connection_age_seconds:
        return []
    return [
        ("grpc.max_connection_age_ms", max(1, round(settings.max_connection_age_seconds * 1000))),
        ("grpc.max_connection_age_grace_ms", max(1, round(settings.grace_seconds * 1000))),
    ]


_CONSTANTS = frozenset({"SERVICE", "WIRE"})
"""What a servicer says about itself, besides its methods."""


class ServicerError(TypeError):
    """A servicer has a public method that is no RPC: its name must be misspelt."""


def implementation(service: ServiceDescriptor, servicer: object) -> dict[str, Handler]:
    """The servicer's handler of every method; those it lacks answer UNIMPLEMENTED.

    Raises `ServicerError`.
    """
    names = {method.name for method in service.methods}
    strangers = {name for name in dir(servicer) if not name.startswith("_")} - names - _CONSTANTS
    if strangers:
        raise ServicerError(f"{service.full_name} has no method {', '.join(sorted(strangers))}")
    return {name: getattr(servicer, name, _not_implemented(service, name)) for name in names}


def _not_implemented(service: ServiceDescriptor, name: str) -> Handler:
    def handle(call: Call) -> Any:
        raise errors.method_not_implemented(f"{service.name}.{name}")

    return handle


class _UnknownMethods(grpc.GenericRpcHandler):
    """Answers calls of methods that nobody serves, with a request id and a log line."""

    def __init__(self, interceptors: Interceptors) -> None:
        self._interceptors = interceptors

    def service(self, handler_call_details: Any) -> Any:
        behaviour = unknown_method(self._interceptors, handler_call_details.method)
        # As a stream of requests it is answered at once, whether or not a request comes.
        return grpc.stream_unary_rpc_method_handler(behaviour)


@dataclass(frozen=True)
class Listener:
    """Where a server listens, what it tells clients about that, and how it proves itself."""

    address: str
    advertised: str = ""
    credentials: grpc.ServerCredentials | None = None
    xds: bool = False
    """A control plane opens it: later than `start`, and not before it has said how."""


class Server:
    """One listener. Nothing is SERVING until `set_serving`; `stop` ends everything, once."""

    def __init__(
        self,
        settings: Settings,
        store: MetadataStore,
        desk: Operations,
        access: Access,
        listener: Listener,
        instruments: Instruments = NO_INSTRUMENTS,
    ) -> None:
        places = settings.places
        services = {
            servicer.SERVICE: implementation(servicer.SERVICE, servicer)
            for servicer in (
                images.ImageServicer(store, desk),
                disks.DiskServicer(store, desk, places),
                snapshots.SnapshotServicer(store, desk),
                ZoneServicer(places),
                DiskTypeServicer(places),
                ApiEndpointServicer(listener.advertised),
                IamTokenServicer(access.exchange),
                CloudServicer(settings.folders()),
                FolderServicer(settings.folders()),
                operations.OperationServicer(store, desk),
            )
        }
        everything = (*services, health.SERVICE, *reflection.SERVICES)
        check_table(
            [method_path(method) for service in everything for method in service.methods],
            PERMISSIONS,
        )
        check_operation_types(OPERATION_TYPES)
        self._interceptors = interceptors = Interceptors(
            access.authenticator,
            access.authorizer,
            max_running=settings.max_concurrent_rpcs,
            request_seconds=settings.request_body_seconds,
            max_request_bytes=settings.max_request_size,
            max_metadata_bytes=settings.max_metadata_size,
            instruments=instruments,
        )
        self._alarms = Alarms(settings.request_body_seconds)
        self._pool = executor(settings.rpc_threads, self._alarms, "rpc")
        self._health_pool = executor(_HEALTH_THREADS, self._alarms, "health")
        self._reflection_pool = ThreadPoolExecutor(_REFLECTION_THREADS, "reflection")
        self._health = health.Health((service.full_name for service in services), self._alarms)
        self._server = grpc.server(self._pool, options=_options(settings), xds=listener.xds)
        for service, handlers in services.items():
            self._add(
                service,
                {
                    method.name: grpc.unary_unary_rpc_method_handler(
                        interceptors.around(method, handlers[method.name])
                    )
                    for method in methods_of(service, PERMISSIONS)
                },
            )
        self._add_health(interceptors)
        if settings.reflects:
            self._add_reflection(interceptors, [service.full_name for service in everything])
        self._server.add_generic_rpc_handlers([_UnknownMethods(interceptors)])
        self.address = self._listen(listener)

    def _add(self, service: ServiceDescriptor, handlers: dict[str, Any]) -> None:
        name = service.full_name
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, handlers)]
        )
        if service is not ApiEndpointServicer.SERVICE:
            # Quicker, but then a method does not learn which authority its caller wrote.
            self._server.add_registered_method_handlers(name, handlers)

    def _add_health(self, interceptors: Interceptors) -> None:
        handlers: dict[str, Any] = {}
        for method in methods_of(health.SERVICE, PERMISSIONS):
            behaviour = self._health.behaviour(method, interceptors)
            # grpcio's way to run a behaviour in a pool of its own.
            behaviour.experimental_thread_pool = self._health_pool  # type: ignore[attr-defined]
            handlers[method.name] = (
                grpc.unary_stream_rpc_method_handler(
                    behaviour, response_serializer=method.response.SerializeToString
                )
                if method.server_streaming
                else grpc.unary_unary_rpc_method_handler(behaviour)
            )
        self._add(health.SERVICE, handlers)

    def _add_reflection(self, interceptors: Interceptors, services: list[str]) -> None:
        answers = reflection.Reflection(reflection.served_index(), services)
        for service in reflection.SERVICES:
            (method,) = methods_of(service, PERMISSIONS)
            behaviour = interceptors.around_stream(method, answers.answer_all, self._alarms)
            behaviour.experimental_thread_pool = self._reflection_pool  # type: ignore[attr-defined]
            handler: Any = grpc.stream_stream_rpc_method_handler(behaviour)
            self._add(service, {method.name: handler})

    def _listen(self, listener: Listener) -> str:
        address = listener.address
        try:
            if listener.xds:
                # The fallback is for a control plane that asks for no TLS.
                fallback = grpc.insecure_server_credentials()
                self._server.add_secure_port(address, grpc.xds_server_credentials(fallback))
                return address
            if listener.credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, listener.credentials)
        except RuntimeError as error:
            self.stop(0)
            raise OSError(
                f"{address} cannot be bound: it is in use or no address of this machine"
            ) from error
        return f"{address.rpartition(':')[0]}:{port}"

    def start(self) -> None:
        """Accept calls."""
        self._server.start()

    def set_serving(self, serving: bool) -> None:
        """Tell health checks, overall and per service."""
        self._health.set_serving(serving)

    def refuse_new_calls(self) -> None:
        """Answer new calls UNAVAILABLE, SHUTTING_DOWN; health goes on and says NOT_SERVING."""
        self._health.shut_down()
        self._interceptors.refuse_new_calls()

    def wait_for_calls(self, deadline: float) -> bool:
        """Whether the last running call came to its end before `deadline` (monotonic clock)."""
        while self._interceptors.running:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def stop(self, grace_seconds: float) -> None:
        """Take no new calls, let the running ones finish for at most `grace_seconds`, end.

        Open streams of health and reflection, and calls whose request has not come, are not
        waited for.
        """
        self.refuse_new_calls()
        deadline = time.monotonic() + grace_seconds
        stopped = self._server.stop(grace_seconds)
        if isinstance(self._pool, RequestFirstExecutor):
            while self._pool.running and not stopped.wait(_POLL_SECONDS):
                pass
            stopped.wait(min(_FLUSH_SECONDS, max(0.0, deadline - time.monotonic())))
            self._server.stop(None)
        stopped.wait()
        self._interceptors.overload_log.flush()
        self._alarms.close()
        for pool in (self._pool, self._health_pool, self._reflection_pool):
            pool.shutdown(wait=False)


def build_server(
    settings: Settings,
    store: MetadataStore,
    desk: Operations,
    access: Access,
    instruments: Instruments = NO_INSTRUMENTS,
) -> Server:
    """The plaintext server under the settings, bound to its address but not started.

    Raises:
        OSError: the address cannot be bound.
        PermissionTableError, OperationTypeError, RuleError, ServicerError: the program
            contradicts itself; nothing may be served.
    """
    listener = Listener(settings.listen, settings.advertise, xds=settings.xds)
    return Server(settings, store, desk, access, listener, instruments)


def build_tls_server(
    settings: Settings,
    store: MetadataStore,
    desk: Operations,
    access: Access,
    files: CertificateFiles,
    instruments: Instruments = NO_INSTRUMENTS,
) -> Server:
    """The same on the TLS listener. Raises `ValueError` too, if the files cannot be used."""
    listener = Listener(settings.tls_listen, settings.tls_advertise, tls.credentials(files))
    return Server(settings, store, desk, access, listener, instruments)


def certificate_files(settings: Settings) -> CertificateFiles:
    """The files of the settings, or those made for development."""
    if settings.tls_certificate:
        files = CertificateFiles(Path(settings.tls_certificate), Path(settings.tls_key))
    else:
        files = tls.development_files(settings.certificate_folder)
    client_ca = Path(settings.tls_client_ca) if settings.tls_client_ca else None
    return replace(files, client_ca=client_ca)
