"""Shows figures to Prometheus over HTTP: those of this process and those its workers tell it.

Worker processes beside `serve` have no port of their own. Each writes all its counters to its
parent once a second, through the pipe in which it beats; here they are added up. What a worker
counted stays counted when it has ended, so sums never go backwards while the server runs; of a
worker that was killed, the last second may be missing.
"""

import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from darkroom.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

_Key = tuple[str, str, tuple[tuple[str, str], ...]]
"""Family, sample and labels."""


def told(metrics: Metrics) -> bytes:
    """Every counter as one line, for `Exposition.told` of another process."""
    samples = [
        [family.name, sample.name, list(sample.labels.items()), sample.value]
        for family in metrics.registry.collect()
        if family.type in ("counter", "histogram")
        for sample in family.samples
    ]
    return json.dumps(samples, separators=(",", ":")).encode() + b"\n"


class Exposition(Collector):
    """`/metrics` on an address of its own."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        ProcessCollector(registry=metrics.registry)
        self._lock = threading.Lock()
        self._told: dict[str, dict[_Key, float]] = {}
        self._ended: dict[_Key, float] = {}
        self._server: Any = None

    def listen(self, address: str) -> str:
        """Answer on HOST:PORT, port 0 for any; returns where. Raises `OSError`."""
        host, _, port = address.rpartition(":")
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, _thread = start_http_server(
                int(port), addr=host.strip("[]"), registry=registry
            )
        except OSError as error:
            raise OSError(f"{address} cannot be bound for metrics: {error.strerror}") from error
        return f"{host}:{self._server.server_port}"

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def told(self, owner: str, line: bytes) -> None:
        """Keep what a worker says that it has counted since it started."""
        samples = {
            (family, name, tuple((key, value) for key, value in labels)): value
            for family, name, labels, value in json.loads(line)
        }
        with self._lock:
            self._told[owner] = samples

    def ended(self, owner: str) -> None:
        """The worker is gone: what it counted is kept."""
        with self._lock:
            for key, value in self._told.pop(owner, {}).items():
                self._ended[key] = self._ended.get(key, 0.0) + value

    def collect(self) -> Iterator[Metric]:
        """Our own figures, those of workers added to them."""
        with self._lock:
            others = [self._ended, *self._told.values()]
            added: dict[str, dict[_Key, float]] = {}
            for samples in others:
                for key, value in samples.items():
                    family = added.setdefault(key[0], {})
                    family[key] = family.get(key, 0.0) + value
        for metric in self._metrics.registry.collect():
            more = added.get(metric.name)
            yield _with(metric, more) if more else metric


def _with(metric: Metric, more: dict[_Key, float]) -> Metric:
    result = Metric(metric.name, metric.documentation, metric.type)
    # Copied: what is left over are series that only workers have.
    more = dict(more)
    for sample in metric.samples:
        key = (metric.name, sample.name, tuple(sample.labels.items()))
        value = sample.value + more.pop(key, 0.0)
        result.samples.append(Sample(sample.name, sample.labels, value))
    result.samples += [
        Sample(name, dict(labels), value) for (_, name, labels), value in more.items()
    ]
    return result
