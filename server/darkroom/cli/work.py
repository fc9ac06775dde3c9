"""`darkroom work`: a worker without an API, any number of them on one installation."""

import argparse
import logging
import signal
import sys
import threading
from typing import TYPE_CHECKING

from darkroom import config, wiring
from darkroom.cli import signals
from darkroom.cli.command import Subparsers
from darkroom.cli.patience import patiently
from darkroom.telemetry import logs
from darkroom.worker import tether
from darkroom.worker.supervisor import STOP_CLAIMING, new_owner

if TYPE_CHECKING:
    from darkroom.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `work` to the command line."""
    parser = subparsers.add_parser("work", help="run one worker", allow_abbrev=False)
    config.add_arguments(parser)
    # How `serve` holds its workers; of no use to anybody else.
    parser.add_argument("--owner", default="", help=argparse.SUPPRESS)
    parser.add_argument("--beat-fd", type=int, default=-1, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Work until SIGTERM or SIGINT, then give the running operation back; 0 after that."""
    supervised = arguments.beat_fd >= 0
    if supervised:
        tether.die_with_parent()
    settings = config.load(arguments)
    logs.configure(settings.log_level, settings.log_format)
    watched = wiring.instruments(settings, "work")
    metrics = watched.metrics
    held = _tether(arguments.beat_fd, settings, metrics) if supervised else None
    wiring.be_nice()
    try:
        deployment = wiring.open_deployment(settings, watched)
        if metrics is not None and not supervised:
            shown = wiring.exposition(metrics).listen(settings.metrics_listen)
            log.info("figures are shown", extra={"fields": {"metrics_listen": shown}})
        patiently(deployment.store.check_schema, threading.Event())
    except (OSError, ValueError) as error:
        print(f"darkroom: cannot start: {error}", file=sys.stderr)
        return 1
    worker = wiring.worker(deployment, arguments.owner or new_owner(), watched)

    signals.on(
        {
            STOP_CLAIMING: worker.stop_claiming,
            signal.SIGTERM: worker.drain,
            signal.SIGINT: worker.drain,
        }
    )
    log.info("working")
    worker.run_forever()
    watched.close()
    if held is not None:
        held.beat()
    deployment.close()
    return 0


def _tether(descriptor: int, settings: config.Settings, metrics: "Metrics | None") -> tether.Tether:
    if metrics is None:
        held = tether.Tether(descriptor, settings.lease_seconds)
    else:
        from darkroom.telemetry.exposition import told

        held = tether.Tether(descriptor, settings.lease_seconds, lambda: told(metrics))
    held.hold()
    return held
