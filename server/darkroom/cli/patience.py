"""Starting while the database is out of reach: wait for it, and say so."""

import logging
import threading
from collections.abc import Callable

from darkroom.domain.errors import Failure

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0


def patiently(act: Callable[[], object], stop: threading.Event) -> bool:
    """Run `act` until the database answers; False if `stop` was set before.

    Raises what `act` raises, except failures that pass by themselves.
    """
    waited = False
    while not stop.is_set():
        try:
            act()
        except Failure as failure:
            if failure.retry_after_seconds is None:
                raise
            if not waited:
                fields = {"reason": failure.reason, "problem": str(failure.__cause__ or "")}
                log.warning("waiting for the database", extra={"fields": fields})
                waited = True
            stop.wait(_PAUSE_SECONDS)
        else:
            return True
    return False
