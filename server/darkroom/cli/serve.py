"""`darkroom serve`: the API process and, by default, one worker beside it."""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from darkroom import config, wiring
from darkroom.api import catalog_file
from darkroom.api.access.modes import Access, access
from darkroom.api.readiness import Readiness
from darkroom.api.server import Server, build_server, build_tls_server, certificate_files
from darkroom.cli import control, signals
from darkroom.cli.command import Subparsers
from darkroom.cli.drain import drain
from darkroom.cli.patience import patiently
from darkroom.config import SettingError, Settings
from darkroom.domain.errors import Failure
from darkroom.operations import catalog
from darkroom.operations.desk import Operations
from darkroom.storage.port import SchemaMismatch
from darkroom.telemetry import logs
from darkroom.telemetry.instruments import Instruments
from darkroom.worker.supervisor import Supervisor

if TYPE_CHECKING:
    from darkroom.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

_XDS_VARIABLES = {"GRPC_XDS_BOOTSTRAP", "GRPC_XDS_BOOTSTRAP_CONFIG"}


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `serve` to the command line."""
    parser = subparsers.add_parser("serve", help="run the server", allow_abbrev=False)
    config.add_arguments(parser)
    # How a test run holds the server that it started; of no use to anybody else.
    parser.add_argument("--control-fd", type=int, default=-1, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, then drain; 0 after an orderly end.

    Raises `SettingError`.
    """
    settings = config.load(arguments)
    settings.check_exposure(settings.listen, settings.tls_listen)
    _check_control_plane(settings)
    test_run = None
    if arguments.control_fd >= 0:
        control.check_disposable(settings)
        test_run = control.Control(arguments.control_fd)
    logs.configure(settings.log_level, settings.log_format)
    stop = threading.Event()
    signals.on({signal.SIGTERM: stop.set, signal.SIGINT: stop.set})
    try:
        entries = catalog_file.read(settings)
        watched = wiring.instruments(settings, "serve")
        deployment = wiring.open_deployment(settings, watched)
        operations = wiring.operations(deployment, watched.metrics)
        known = access(settings, deployment.store)

        def prepare() -> None:
            deployment.store.migrate()
            wiring.announce_secret_key(deployment)
            catalog.stock(deployment.store, operations, entries)

        prepared = _prepared_at_once(prepare)
    except (OSError, ValueError, Failure) as error:
        print(f"darkroom: cannot start: {error}", file=sys.stderr)
        return 1
    try:
        figures = _Figures(settings, deployment, watched.metrics)
        servers = _servers(settings, deployment, operations, known, watched)
    except (OSError, ValueError) as error:
        print(f"darkroom: cannot listen: {error}", file=sys.stderr)
        return 1
    supervisor = _supervisor(settings, figures)
    for server in servers.values():
        server.start()

    def set_serving(serving: bool) -> None:
        for server in servers.values():
            server.set_serving(serving)
        figures.set_serving(serving)

    readiness = Readiness(deployment.store.writable, set_serving)
    addresses = {name: server.address for name, server in servers.items()}
    addresses.update(figures.addresses)
    status = 0
    try:
        prepared = prepared or _prepared_later(prepare, addresses, stop)
    except (OSError, ValueError, Failure, SchemaMismatch) as error:
        print(f"darkroom: cannot go on: {error}", file=sys.stderr)
        prepared, status = False, 1
    if prepared:
        supervisor.start()
        readiness.start()
        warn_of_exposure(settings)
        log.info("serving", extra={"fields": {**addresses, "pid": os.getpid()}})
        if test_run is not None:
            test_run.serving(
                control.greeting(deployment, addresses),
                control.orders(
                    deployment, lambda: catalog.stock(deployment.store, operations, entries)
                ),
            )
        stop.wait()
    drain(settings, supervisor if prepared else None, readiness, tuple(servers.values()))
    figures.close()
    deployment.close()
    watched.close()
    log.info("stopped")
    return status


def _supervisor(settings: Settings, figures: "_Figures") -> Supervisor:
    return Supervisor(
        settings.workers,
        [sys.executable, "-m", "darkroom", "work"],
        {**os.environ, **settings.to_environment()},
        silence_seconds=settings.lease_seconds,
        died=figures.worker_died,
        told=figures.worker_told,
    )


def _check_control_plane(settings: Settings) -> None:
    if settings.xds and not _XDS_VARIABLES & os.environ.keys():
        raise SettingError("xds: GRPC_XDS_BOOTSTRAP must name the file about the control plane")


def _prepared_at_once(prepare: Callable[[], None]) -> bool:
    """False if the database is out of reach; raises for everything that waiting does not mend."""
    try:
        prepare()
    except Failure as failure:
        if failure.retry_after_seconds is None:
            raise
        return False
    return True


def _prepared_later(
    prepare: Callable[[], None], addresses: Mapping[str, str], stop: threading.Event
) -> bool:
    # Until then every call is answered, with UNAVAILABLE.
    log.info("listening", extra={"fields": dict(addresses)})
    return patiently(prepare, stop)


def warn_of_exposure(settings: Settings) -> None:
    """A line for each listener that other machines may reach."""
    if settings.auth_mode != "none":
        return
    for address in settings.exposed():
        log.warning(
            "whoever reaches this address may do anything: nobody is asked who they are",
            extra={"fields": {"address": address}},
        )


class _Figures:
    """Whatever `serve` does for Prometheus; nothing, if nobody asked for it."""

    def __init__(
        self, settings: Settings, deployment: wiring.Deployment, metrics: "Metrics | None"
    ) -> None:
        """Raises `OSError` if the address cannot be bound."""
        self._deployment = deployment
        self._metrics = metrics
        self.addresses: dict[str, str] = {}
        if metrics is not None:
            self._exposition = wiring.exposition(metrics, deployment)
            self._set_serving = metrics.serving_gauge()
            self.addresses["metrics_listen"] = self._exposition.listen(settings.metrics_listen)

    def worker_told(self, owner: str, line: bytes) -> None:
        if self._metrics is not None:
            self._exposition.told(owner, line)

    def worker_died(self, owner: str) -> None:
        if self._metrics is not None:
            self._metrics.workers_ended.inc()
            self._exposition.ended(owner)
        self._deployment.store.put_back_all(owner)

    def set_serving(self, serving: bool) -> None:
        if self._metrics is not None:
            self._set_serving(float(serving))

    def close(self) -> None:
        if self._metrics is not None:
            self._exposition.close()


def _servers(
    settings: Settings,
    deployment: wiring.Deployment,
    operations: Operations,
    known: Access,
    watched: Instruments,
) -> dict[str, Server]:
    """A server per listener, bound. Raises `OSError`, or `ValueError` for a bad certificate."""
    parts = (deployment.store, operations, known)
    servers = {"listen": build_server(settings, *parts, watched)}
    if settings.tls_listen:
        try:
            files = certificate_files(settings)
            tls_server = build_tls_server(settings, *parts, files, watched)
        except (OSError, ValueError):
            servers["listen"].stop(0)
            raise
        servers["tls_listen"] = tls_server
        if files.ca is not None:
            log.info("clients must trust", extra={"fields": {"ca_file": str(files.ca.resolve())}})
    return servers
