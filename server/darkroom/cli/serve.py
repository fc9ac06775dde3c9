"""`darkroom serve`: the API process and, by default, one worker beside it."""

import argparse
import logging
import os
import signal
import sys
import threading

from darkroom import config, wiring
from darkroom.api import catalog_file
from darkroom.api.server import build_server
from darkroom.cli.command import Subparsers
from darkroom.domain.errors import Failure
from darkroom.operations import catalog
from darkroom.telemetry import logs
from darkroom.worker.supervisor import Supervisor

log = logging.getLogger(__name__)


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `serve` to the command line."""
    parser = subparsers.add_parser("serve", help="run the server", allow_abbrev=False)
    config.add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, then drain; 0 after an orderly end."""
    settings = config.load(arguments)
    logs.configure(settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        entries = catalog_file.read(settings)
        deployment = wiring.open_deployment(settings)
        deployment.store.migrate()
        operations = wiring.operations(deployment)
        catalog.stock(deployment.store, operations, entries)
    except (OSError, ValueError, Failure) as error:
        print(f"darkroom: cannot start: {error}", file=sys.stderr)
        return 1
    try:
        server = build_server(settings, deployment.store, operations)
    except OSError as error:
        print(f"darkroom: cannot listen on {settings.listen}: {error}", file=sys.stderr)
        return 1
    supervisor = Supervisor(
        settings.workers,
        [sys.executable, "-m", "darkroom", "work"],
        {**os.environ, **settings.to_environment()},
        silence_seconds=settings.lease_seconds,
        died=deployment.store.put_back_all,
    )
    server.start()
    supervisor.start()
    server.set_serving(True)
    log.info("serving", extra={"fields": {"listen": server.address, "pid": os.getpid()}})
    stop.wait()
    log.info("draining")
    server.set_serving(False)
    supervisor_stop = threading.Thread(target=supervisor.stop, args=(settings.grace_seconds,))
    supervisor_stop.start()
    server.stop(settings.grace_seconds)
    supervisor_stop.join()
    deployment.close()
    log.info("stopped")
    return 0
