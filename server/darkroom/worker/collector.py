"""Removes what nothing refers to: contents, scratch folders, old operations."""

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from darkroom.domain.content import parse_content_id
from darkroom.imaging.contents import ContentStore
from darkroom.operations.desk import wall_clock_us
from darkroom.storage.port import MetadataStore

log = logging.getLogger(__name__)

_BATCH = 100
"""Rows per transaction: small enough that nobody waits for the collector."""

_ROUND_SECONDS = 1.0
"""Between two looks at what the database knows to be superfluous."""

_SCAN_SECONDS = 300.0
"""Between two looks at every file; soon instead after something went wrong, and at start-up."""

_SHARE = 20
"""A round that takes long is followed by a pause this many times as long: 5 % of a core at most."""

OPERATION_RETENTION_SECONDS = 14 * 24 * 3600
"""Finished operations are kept two weeks (cloud docs)."""


class _Rounds:
    """When a recurring duty is due again."""

    def __init__(self, pause_seconds: float) -> None:
        self._pause_seconds = pause_seconds
        self._earliest = self._due = time.monotonic()

    def hasten(self) -> None:
        """Have the next round as soon as the last one's cost allows."""
        self._due = min(self._due, self._earliest)

    @contextlib.contextmanager
    def round_if_due(self) -> Iterator[bool]:
        """Whether it is due; if so, the block is the round and is timed."""
        started = time.monotonic()
        due = started >= self._due
        yield due
        if due:
            ended = time.monotonic()
            self._earliest = ended + max(_ROUND_SECONDS, _SHARE * (ended - started))
            self._due = max(self._earliest, ended + self._pause_seconds)


class Collector:
    """Safe to run at any time, from several workers at once, and to be killed anywhere."""

    def __init__(
        self,
        store: MetadataStore,
        contents: ContentStore,
        scratch: Path,
        *,
        retention_seconds: int = OPERATION_RETENTION_SECONDS,
        clock_us: Callable[[], int] = wall_clock_us,
    ) -> None:
        self._store = store
        self._contents = contents
        self._scratch = scratch
        self._retention_seconds = retention_seconds
        self._clock_us = clock_us
        self._rows = _Rounds(_ROUND_SECONDS)
        self._files = _Rounds(_SCAN_SECONDS)

    def expect_debris(self) -> None:
        """An attempt did not end well: files may be left that no row knows of."""
        self._files.hasten()

    def collect_if_due(self) -> None:
        """One round of whatever is due. Logs a line if it removed anything."""
        with self._rows.round_if_due() as due:
            if due:
                self._collect_rows()
        with self._files.round_if_due() as due:
            if due:
                self._collect_files()

    def collect(self) -> None:
        """One round of everything, due or not."""
        self._collect_rows()
        self._collect_files()

    def _collect_rows(self) -> None:
        _report(contents=self._unreferenced_contents(), operations=self._old_operations())

    def _collect_files(self) -> None:
        _report(orphans=self._orphaned_contents(), scratch=self._abandoned_scratch())

    def _unreferenced_contents(self) -> int:
        removed = 0
        for content_id in self._store.unreferenced_contents(_BATCH):
            # Row first, under a guard: an image made of it meanwhile keeps it. The file after
            # the commit: a crash in between leaves an orphan, which the next round finds.
            if self._store.delete_content(content_id):
                self._contents.delete(content_id)
                removed += 1
        return removed

    def _dead(self, names: Iterable[str]) -> list[str]:
        """Those names whose attempt can no longer publish anything."""
        attempts = {name: parsed for name in names if (parsed := parse_content_id(name))}
        live = self._store.live_attempts(attempts.values())
        return [name for name, attempt in attempts.items() if attempt not in live]

    def _orphaned_contents(self) -> int:
        # Files are listed first, attempts judged next, rows last: an attempt that is not live
        # any more has either left a row by then or never will.
        dead = self._dead(self._contents.ids())
        used = self._store.contents_in_use(dead)
        orphans = [name for name in dead if name not in used]
        for name in orphans:
            self._contents.delete(name)
        return len(orphans)

    def _abandoned_scratch(self) -> int:
        dead = self._dead(entry.name for entry in self._scratch.iterdir())
        for name in dead:
            shutil.rmtree(self._scratch / name, ignore_errors=True)
        return len(dead)

    def _old_operations(self) -> int:
        before_us = self._clock_us() - self._retention_seconds * 1_000_000
        return self._store.purge_operations(before_us, _BATCH)


def _report(**removed: int) -> None:
    if any(removed.values()):
        log.info("collected", extra={"fields": removed})
