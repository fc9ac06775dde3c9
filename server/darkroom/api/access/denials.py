"""What the audit log has of calls that were refused: as much as does not fill the database."""

import logging
import re
import threading
import time
from collections.abc import Callable

from darkroom.api.calls import Call, Method
from darkroom.domain.audit import AuditEntry
from darkroom.domain.errors import Failure
from darkroom.storage.port import MetadataStore

log = logging.getLogger(__name__)

PER_SECOND = 10.0
"""So many entries a second and process, in the long run."""
AT_ONCE = 200.0


def action_of(method: Method) -> str:
    """What the audit log calls a method: as the kind of operation that it would begin."""
    service, _, name = method.path.rpartition(".")[2].partition("/")
    verb = (
        re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower().replace("_access_bindings", "_bindings")
    )
    return f"{service.removesuffix('Service').lower()}.{verb}"


class Denials:
    """Records refused attempts to change something; those above a rate are only counted."""

    def __init__(
        self,
        store: MetadataStore,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._clock_us = clock_us
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._room = AT_ONCE
        self._filled_at = monotonic()
        self._left_out = 0

    def record(self, call: Call, method: Method, failure: Failure) -> None:
        """Never raises: the caller is refused in any case."""
        if not self._may_record():
            return
        folder = failure.metadata.get("kind") == "folder"
        about = failure.metadata.get("id", "")
        entry = AuditEntry(
            self._clock_us(),
            call.identity.type,
            call.identity.id,
            action_of(method),
            failure.code.name,
            failure.reason,
            "" if folder else about,
            about if folder else "",
            request_id=call.request_id,
        )
        try:
            self._store.write(lambda tx: tx.record(entry))
        except Failure as problem:
            log.warning("audit entry lost", extra={"fields": {"reason": problem.reason}})

    def _may_record(self) -> bool:
        with self._lock:
            now = self._monotonic()
            self._room = min(AT_ONCE, self._room + (now - self._filled_at) * PER_SECOND)
            self._filled_at = now
            if self._room < 1:
                self._left_out += 1
                return False
            self._room -= 1
            left_out, self._left_out = self._left_out, 0
        if left_out:
            log.warning("audit entries left out", extra={"fields": {"count": left_out}})
        return True
