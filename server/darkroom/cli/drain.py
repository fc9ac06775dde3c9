"""The end of `serve`, in order, so that neither a call nor an operation is lost."""

import logging
import time

from darkroom.api.readiness import Readiness
from darkroom.api.server import Server
from darkroom.config import Settings
from darkroom.worker.supervisor import LAST_SECONDS, Supervisor

log = logging.getLogger(__name__)

LEASE_SECONDS = 10.0
"""How long workers may take to give back what they run; then they are killed, and it is taken."""


def drain(
    settings: Settings,
    supervisor: Supervisor | None,
    readiness: Readiness,
    servers: tuple[Server, ...],
) -> None:
    """Takes `drain_seconds`, at most `grace_seconds` for calls, at most `LEASE_SECONDS` for leases.

    `supervisor` is None if the server never was SERVING: then nobody needs to notice anything.
    """
    log.info("draining")
    if supervisor is not None:
        supervisor.stop_claiming()
    readiness.stop()
    if supervisor is not None:
        time.sleep(settings.drain_seconds)
    for server in servers:
        server.refuse_new_calls()
    log.info("refusing calls")
    deadline = time.monotonic() + settings.grace_seconds
    finished = [server.wait_for_calls(deadline) for server in servers]
    if not all(finished):
        log.warning("calls are cut off: they took longer than the grace period")
    if supervisor is not None:
        # Meanwhile callers still get an answer that tells them what to do.
        supervisor.stop(LEASE_SECONDS - LAST_SECONDS)
    for server in servers:
        server.stop(max(0.0, deadline - time.monotonic()))
