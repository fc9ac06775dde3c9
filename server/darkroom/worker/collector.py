"""Removes what nothing refers to: contents, scratch folders, old operations."""

import contextlib
import itertools
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.domain.audit import RETENTION_SECONDS as AUDIT_RETENTION_SECONDS
from darkroom.domain.content import parse_content_id
from darkroom.domain.operation import RETENTION_SECONDS
from darkroom.imaging.contents import ContentStore
from darkroom.operations.desk import wall_clock_us
from darkroom.storage.port import MetadataStore
from darkroom.telemetry.failpoints import failpoint

if TYPE_CHECKING:
    from darkroom.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

_BATCH = 100
"""Rows per transaction: small enough that nobody waits for the collector."""

_LISTED = 1000
"""Files that are looked at together."""

_ROUND_SECONDS = 1.0
"""Between two looks at what the database knows to be superfluous."""

_SCAN_SECONDS = 300.0
"""Between two looks at every file; soon instead after something went wrong, and at start-up."""

_BLOCK_BYTES = 512
"""What `st_blocks` counts in."""

_SLICE_SECONDS = 2.0
"""A look at every file that takes longer goes on in the next round: imports wait meanwhile."""

_SHARE = 20
"""A round that takes long is followed by a pause this many times as long: 5 % of a core at most."""

_MAX_PURGES = 20
"""Transactions that purge operations, per round: when the setting changes there are many."""


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
        share, pause_seconds = 1, 0.0
        try:
            yield due
            share, pause_seconds = _SHARE, self._pause_seconds
        finally:
            if due:
                # One that failed comes again soon; if it took long to fail, not at once.
                ended = time.monotonic()
                self._earliest = ended + max(_ROUND_SECONDS, share * (ended - started))
                self._due = max(self._earliest, ended + pause_seconds)


@dataclass
class _Removed:
    """What a part of a round removed."""

    count: int = 0
    bytes: int = 0

    def add(self, size_bytes: int) -> None:
        self.count += 1
        self.bytes += size_bytes


class Collector:
    """Safe to run at any time, from several workers at once, and to be killed anywhere."""

    def __init__(
        self,
        store: MetadataStore,
        contents: ContentStore,
        scratch: Path,
        *,
        retention_seconds: int = RETENTION_SECONDS,
        audit_retention_seconds: int = AUDIT_RETENTION_SECONDS,
        clock_us: Callable[[], int] = wall_clock_us,
        metrics: "Metrics | None" = None,
    ) -> None:
        """Operations are kept for `retention_seconds` after they ended.

        Entries of the audit log are kept for `audit_retention_seconds`.
        """
        self._store = store
        self._contents = contents
        self._scratch = scratch
        self._retention_seconds = retention_seconds
        self._audit_retention_seconds = audit_retention_seconds
        self._clock_us = clock_us
        self._metrics = metrics
        self._rows = _Rounds(_ROUND_SECONDS)
        self._files = _Rounds(_SCAN_SECONDS)
        self._scan: Iterator[list[str]] | None = None

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
                self._collect_files(_SLICE_SECONDS)
        if self._scan is not None:
            self._files.hasten()

    def collect(self) -> None:
        """One round of everything, due or not."""
        self._scan = None
        self._collect_rows()
        self._collect_files(math.inf)

    def _collect_rows(self) -> None:
        with _reported("rows", self._metrics) as report:
            # Contents last, here and below: their storage may be away.
            self._old_operations(report("operations"))
            self._old_audit(report("audit"))
            report("revocations").count += self._store.forget_revocations(self._clock_us())
            self._unreferenced_contents(report("contents"))

    def _collect_files(self, seconds: float) -> None:
        with _reported("files", self._metrics) as report:
            self._abandoned_scratch(report("scratch"))
            self._orphaned_contents(report("orphans"), seconds)

    def _unreferenced_contents(self, removed: _Removed) -> None:
        for content_id in self._store.unreferenced_contents(_BATCH):
            # Row first, under a guard: an image made of it meanwhile keeps it. The file after
            # the commit: a crash in between leaves an orphan, which the next round finds.
            failpoint("content.forget")
            if self._store.delete_content(content_id):
                try:
                    failpoint("content.forgotten")
                    removed.add(self._delete(content_id))
                    failpoint("content.deleted")
                except BaseException:
                    self.expect_debris()
                    raise

    def _delete(self, content_id: str) -> int:
        """Delete a content's file; its length, 0 if it was not there whole."""
        try:
            size_bytes = self._contents.size_bytes(content_id)
        except FileNotFoundError:
            size_bytes = 0
        self._contents.delete(content_id)
        return size_bytes

    def _orphaned_contents(self, removed: _Removed, seconds: float) -> None:
        """Go on with the last look that took too long, or begin one."""
        started = time.monotonic()
        batches, self._scan = self._scan or _orphans(self._store, self._contents), None
        for orphans in batches:
            for name in orphans:
                failpoint("orphan.delete")
                removed.add(self._delete(name))
                failpoint("orphan.deleted")
            if time.monotonic() - started > seconds:
                self._scan = batches
                return

    def _abandoned_scratch(self, removed: _Removed) -> None:
        for name in abandoned_scratch(self._store, self._scratch):
            size_bytes = _occupied_bytes(self._scratch / name)
            failpoint("scratch.remove")
            shutil.rmtree(self._scratch / name, ignore_errors=True)
            failpoint("scratch.removed")
            removed.add(size_bytes)

    def _old_audit(self, removed: _Removed) -> None:
        before_us = self._clock_us() - self._audit_retention_seconds * 1_000_000
        for _ in range(_MAX_PURGES):
            purged = self._store.purge_audit(before_us, _BATCH)
            removed.count += purged
            if purged < _BATCH:
                break

    def _old_operations(self, removed: _Removed) -> None:
        before_us = self._clock_us() - self._retention_seconds * 1_000_000
        for _ in range(_MAX_PURGES):
            failpoint("operation.purge")
            purged = self._store.purge_operations(before_us, _BATCH)
            failpoint("operation.purged")
            removed.count += purged
            if purged < _BATCH:
                break


def orphaned_contents(store: MetadataStore, contents: ContentStore) -> Iterator[str]:
    """Names of contents that no row refers to and that no attempt can publish any more."""
    for orphans in _orphans(store, contents):
        yield from orphans


def _orphans(store: MetadataStore, contents: ContentStore) -> Iterator[list[str]]:
    """The same in pieces, each of as many files: memory does not grow with what is stored."""
    ids = contents.ids()
    while listed := list(itertools.islice(ids, _LISTED)):
        # Files are listed first, attempts judged next, rows last: an attempt that is not live
        # any more has either left a row by then or never will.
        dead = _dead(store, listed)
        used = store.contents_in_use(dead)
        yield [name for name in dead if name not in used]


def abandoned_scratch(store: MetadataStore, scratch: Path) -> list[str]:
    """Names of scratch folders whose attempt is over."""
    return _dead(store, (entry.name for entry in scratch.iterdir()))


def _dead(store: MetadataStore, names: Iterable[str]) -> list[str]:
    """Those names whose attempt can no longer publish anything."""
    attempts = {name: parsed for name in names if (parsed := parse_content_id(name))}
    live = store.live_attempts(attempts.values())
    return [name for name, attempt in attempts.items() if attempt not in live]


def _occupied_bytes(folder: Path) -> int:
    """What the files below a folder take on the disk; those that go meanwhile take nothing."""
    total = 0
    # Unlike Path.rglob() it passes over folders that another collector removes under its feet.
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * _BLOCK_BYTES
    return total


@contextlib.contextmanager
def _reported(name_of_round: str, metrics: "Metrics | None") -> Iterator[Callable[[str], _Removed]]:
    """Time the block, count what it removed, and log it by name if it removed anything."""
    started = time.monotonic()
    parts: dict[str, _Removed] = {}

    def part(name: str) -> _Removed:
        return parts.setdefault(name, _Removed())

    try:
        yield part
    except BaseException:
        if metrics is not None:
            metrics.collector_failures.labels(name_of_round).inc()
        raise
    finally:
        if metrics is not None:
            metrics.collector_seconds.labels(name_of_round).inc(time.monotonic() - started)
            for name, removed in parts.items():
                metrics.collected.labels(name).inc(removed.count)
                metrics.collected_bytes.labels(name).inc(removed.bytes)
        fields: dict[str, float] = {}
        for name, removed in parts.items():
            if removed.count:
                fields[name] = removed.count
            if removed.bytes:
                fields[f"{name}_bytes"] = removed.bytes
        if fields:
            fields["seconds"] = round(time.monotonic() - started, 4)
            log.info("collected", extra={"fields": fields})
