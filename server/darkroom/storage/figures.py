"""Figures of the whole installation, asked of the database when Prometheus asks for them.

Every `serve` of an installation shows the same ones: take the largest, not the sum.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from darkroom.domain.content import ContentTotals
from darkroom.domain.errors import Failure
from darkroom.domain.operation import IMAGE_CREATE, State
from darkroom.storage.port import MetadataStore

log = logging.getLogger(__name__)

_ALWAYS_SHOWN = ((IMAGE_CREATE, State.PENDING), (IMAGE_CREATE, State.RUNNING))
_TOTALS_SECONDS = 60.0
"""Between two sums over all contents: the only figure here that costs what there is."""


class StoreFigures(Collector):
    """Operations under way and contents. While the database is away, there are none."""

    def __init__(
        self,
        store: MetadataStore,
        clock_seconds: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._clock_seconds = clock_seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._totals = ContentTotals(0, 0)
        self._totals_due = monotonic()

    def describe(self) -> Iterator[Metric]:
        """Known without asking the database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        try:
            yield from self._operations()
            yield from self._contents()
        except Failure as failure:
            log.warning("figures cannot be told", extra={"fields": {"reason": failure.reason}})

    def _operations(self) -> Iterator[Metric]:
        backlog = self._store.backlog()
        operations = GaugeMetricFamily(
            "darkroom_operations", "Operations that have not ended.", labels=("kind", "state")
        )
        # An autoscaler must be able to tell none from not knowing.
        counts = dict.fromkeys(_ALWAYS_SHOWN, 0)
        counts |= {(each.kind, each.state): each.count for each in backlog}
        for (kind, state), count in counts.items():
            operations.add_metric((kind, state.name.lower()), count)
        yield operations
        waiting = [each for each in backlog if each.state is State.PENDING]
        yield GaugeMetricFamily(
            "darkroom_queue_depth",
            "Operations that wait for a worker.",
            value=sum(each.count for each in waiting),
        )
        oldest_us = min((each.oldest_created_at_us for each in waiting), default=None)
        age = 0.0 if oldest_us is None else max(0.0, self._clock_seconds() - oldest_us / 1e6)
        yield GaugeMetricFamily(
            "darkroom_queue_oldest_seconds", "Age of the oldest of these, 0 for none.", value=age
        )

    def _contents(self) -> Iterator[Metric]:
        with self._lock:
            if self._monotonic() >= self._totals_due:
                self._totals = self._store.content_totals()
                self._totals_due = self._monotonic() + _TOTALS_SECONDS
            totals = self._totals
        yield GaugeMetricFamily("darkroom_contents", "Contents stored.", value=totals.count)
        yield GaugeMetricFamily(
            "darkroom_contents_bytes", "Their stored size.", value=totals.stored_bytes
        )
