"""Whether health checks are told SERVING: as long as what a call writes can be kept."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0
_LOOK_AGAIN_SECONDS = 1.0


class Readiness:
    """Says SERVING at once, and from then on what a look at the database every few seconds shows.

    A full disk, a database that is gone or one that somebody keeps locked: calls that read go on
    being answered, but whoever distributes calls should prefer another server.
    """

    def __init__(
        self,
        writable: Callable[[], bool],
        set_serving: Callable[[bool], None],
        *,
        look_seconds: float = _LOOK_SECONDS,
        look_again_seconds: float = _LOOK_AGAIN_SECONDS,
    ) -> None:
        """`look_again_seconds` is the pause while the database cannot be written to."""
        self._writable = writable
        self._set_serving = set_serving
        self._pauses = {True: look_seconds, False: look_again_seconds}
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="readiness", daemon=True)

    def start(self) -> None:
        self._set_serving(True)
        self._thread.start()

    def stop(self) -> None:
        """Say NOT_SERVING, for good."""
        with self._lock:
            self._stopping.set()
            self._set_serving(False)

    def _watch(self) -> None:
        serving = True
        while not self._stopping.wait(self._pauses[serving]):
            try:
                seen = self._writable()
            except Exception:
                log.exception("readiness cannot be told")
                seen = False
            if seen is serving:
                continue
            serving = seen
            with self._lock:
                if self._stopping.is_set():
                    return
                self._set_serving(serving)
            if serving:
                log.info("serving again")
            else:
                log.error("not serving: the database cannot be written to")
