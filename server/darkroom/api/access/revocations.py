"""What was declared worthless before its time: tokens, keys, everything of an account.

Kept in the database, so that every server knows of it within seconds.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from darkroom.api.access.iam import TOKEN_FOR_ANOTHER, token_mark
from darkroom.api.calls import Call
from darkroom.api.tokens import Claims
from darkroom.config import MAX_TOKEN_SECONDS
from darkroom.domain import errors
from darkroom.domain.access import Revocation
from darkroom.domain.errors import Failure
from darkroom.storage.port import MetadataStore, Transaction

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks into the database: a revocation is in force everywhere that much later."""
_PATIENCE_SECONDS = 15.0
"""How long calls go on with what was known last, when the database cannot be asked."""
_WHOLE_SECONDS = 600.0
"""Between two looks at all there are, which forget what the database has forgotten."""
_OVERLAP_US = 300 * 1_000_000
"""Clocks of those who write rows, and their transactions, may be so far apart."""

FOR_EVER_US = 2**63 - 1


def revoke(tx: Transaction, mark: str, now_us: int, *, credential: bool = False) -> None:
    """Make what was issued before now under the mark worthless; a credential for ever."""
    if credential:
        tx.revoke(mark, FOR_EVER_US, now_us, FOR_EVER_US)
    else:
        # Whatever was issued until now has ended by itself then.
        tx.revoke(mark, now_us, now_us, now_us + 2 * MAX_TOKEN_SECONDS * 1_000_000)


class Revocations:
    """The revocations of the database, looked at when somebody asks and the last look is old."""

    def __init__(
        self,
        store: MetadataStore,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._before_us: dict[str, int] = {}
        """Of each mark: what was issued until then is worthless."""
        self._known_until_us = 0
        self._tried_at = self._known_at = self._known_whole_at = -math.inf

    def cover(self, marks: tuple[str, ...], issued_us: int) -> bool:
        """See the protocol."""
        now = self._monotonic()
        # The very first calls wait for the first look; later ones go on with the last.
        if now - self._tried_at >= LOOK_SECONDS and self._lock.acquire(
            blocking=self._known_at == -math.inf
        ):
            try:
                if now - self._tried_at >= LOOK_SECONDS:
                    self._look()
            finally:
                self._lock.release()
        if self._monotonic() - self._known_at > _PATIENCE_SECONDS:
            raise errors.store_busy()
        known = self._before_us
        return any(issued_us <= known.get(mark, -1) for mark in marks)

    def _look(self) -> None:
        whole = self._monotonic() - self._known_whole_at >= _WHOLE_SECONDS
        try:
            found = self._store.revocations(0 if whole else self._known_until_us - _OVERLAP_US)
        except Failure as failure:
            fields = {"reason": failure.reason}
            log.warning("revocations cannot be looked at", extra={"fields": fields})
        else:
            self._take(found, whole=whole)
            self._known_at = self._monotonic()
            if whole:
                self._known_whole_at = self._known_at
        self._tried_at = self._monotonic()

    def _take(self, found: list[Revocation], *, whole: bool) -> None:
        known = {} if whole else self._before_us
        for revocation in found:
            known[revocation.mark] = revocation.before_us
            self._known_until_us = max(self._known_until_us, revocation.at_us)
        self._before_us = known

    def record_issued(self, account_id: str, call: Call) -> None:
        """See the protocol."""
        entry = call.caller.entry(int(self._clock() * 1_000_000), TOKEN_FOR_ANOTHER, "OK")
        self._store.write(lambda tx: tx.record(replace(entry, resource_id=account_id)))

    def revoke_token(self, claims: Claims, call: Call) -> None:
        """See the protocol."""
        mark, now_us = token_mark(claims), int(self._clock() * 1_000_000)
        entry = call.caller.entry(now_us, "token.revoke", "OK")

        def change(tx: Transaction) -> None:
            revoke(tx, mark, now_us)
            tx.record(replace(entry, resource_id=claims.subject))

        self._store.write(change)
        self._before_us[mark] = now_us
