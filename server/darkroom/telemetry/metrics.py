"""What is counted and timed, for Prometheus.

Imported only where `--metrics-listen` is set: whoever does not ask for figures pays nothing for
them. RPCs have the names that go-grpc-prometheus gives them, so that dashboards made for Go
servers fit; everything else begins with `darkroom_`.
"""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

from darkroom.domain.operation import IMAGE_CREATE

# fmt: off
_CALL_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0
)
_PHASE_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 7200.0)
# fmt: on
_METHOD = ("grpc_type", "grpc_service", "grpc_method")

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody here looks at


class RpcFigures:
    """Those of one method, found once: a call costs three additions."""

    def __init__(self, metrics: "Metrics", kind: str, service: str, method: str) -> None:
        labels = (kind, service, method)
        self.started = metrics.rpcs_started.labels(*labels).inc
        self._observe = metrics.rpc_seconds.labels(*labels).observe
        self._count: Callable[[str], Counter] = lambda code: metrics.rpcs_handled.labels(
            *labels, code
        )
        self._handled = {"OK": self._count("OK").inc}

    def ended(self, code: str, seconds: float) -> None:
        """A call has ended with the code of this name."""
        handled = self._handled.get(code)
        if handled is None:
            handled = self._handled[code] = self._count(code).inc
        handled()
        self._observe(seconds)


class Metrics:
    """All figures of one process. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def seconds(
            name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
        ) -> Histogram:
            return Histogram(name, text, labels, registry=self.registry, buckets=buckets)

        self.rpcs_started = counter("grpc_server_started", "RPCs that began.", _METHOD)
        self.rpcs_handled = counter(
            "grpc_server_handled", "RPCs that ended, by code.", (*_METHOD, "grpc_code")
        )
        self.rpc_seconds = seconds(
            "grpc_server_handling_seconds", "From an RPC's request to its reply.", _METHOD,
            _CALL_SECONDS,
        )  # fmt: skip
        self.operations_begun = counter(
            "darkroom_operations_begun", "Operations that calls began.", ("kind",)
        )
        self.operations_ended = counter(
            "darkroom_operations_ended", "Operations that ended, by code.", ("kind", "code")
        )
        self.attempts = counter(
            "darkroom_attempts", "Attempts of workers, by how they were left.", ("kind", "outcome")
        )
        self.retries = counter(
            "darkroom_operation_retries", "Attempts that will be repeated.", ("kind", "reason")
        )
        self.leases_lost = counter(
            "darkroom_leases_lost", "Attempts stopped because their lease was gone.", ("kind",)
        )
        self.phase_seconds = seconds(
            "darkroom_phase_seconds", "Durations of phases.", ("kind", "phase", "code"),
            _PHASE_SECONDS,
        )  # fmt: skip
        self.bytes_in = counter("darkroom_bytes_in", "Bytes that imports took from their sources.")
        self.bytes_out = counter("darkroom_bytes_out", "Bytes that imports wrote as contents.")
        self.collected = counter("darkroom_collected", "What the collector removed.", ("what",))
        self.collected_bytes = counter(
            "darkroom_collected_bytes", "The bytes that this took.", ("what",)
        )
        self.collector_seconds = counter(
            "darkroom_collector_seconds", "Time that the collector worked.", ("round",)
        )
        self.collector_failures = counter(
            "darkroom_collector_failures", "Rounds of the collector that failed.", ("round",)
        )
        self.store_seconds = seconds(
            "darkroom_database_seconds", "Calls of the metadata store.", ("call",), _CALL_SECONDS
        )
        self.store_failures = counter(
            "darkroom_database_failures", "Those that the database failed.", ("call", "reason")
        )
        self.object_storage_seconds = seconds(
            "darkroom_object_storage_seconds", "Calls of object storage, to the answer's head.",
            ("call",), _CALL_SECONDS,
        )  # fmt: skip
        self.object_storage_failures = counter(
            "darkroom_object_storage_failures", "Those that failed; many are repeated.", ("call",)
        )
        self.workers_ended = counter(
            "darkroom_workers_ended", "Worker processes of this server that ended."
        )
        # Without a first sample of 0 the first increase would not be one.
        self.leases_lost.labels(IMAGE_CREATE)
        for name in ("rows", "files"):
            self.collector_failures.labels(name)

    def rpc(self, kind: str, service: str, method: str) -> RpcFigures:
        """The figures of a method; `kind` is unary, server_stream or bidi_stream."""
        return RpcFigures(self, kind, service, method)

    def describe_process(self, version: str) -> None:
        """Add what the build is and whether this process serves."""
        build = Gauge(
            "darkroom_build_info", "1, labelled with what runs.", ("version",),
            registry=self.registry,
        )  # fmt: skip
        build.labels(version).set(1)

    def serving_gauge(self) -> Callable[[float], None]:
        """What to tell 1 when health is SERVING and 0 when it is not."""
        gauge = Gauge(
            "darkroom_serving", "Whether health checks are told SERVING.", registry=self.registry
        )
        return gauge.set

    def store_call(self, call: str, seconds: float, failure: str) -> None:
        """The metadata store answered; `failure` is the reason that the database failed, or ""."""
        self.store_seconds.labels(call).observe(seconds)
        if failure:
            self.store_failures.labels(call, failure).inc()

    def object_storage_call(self, call: str, seconds: float, failed: bool) -> None:
        """Object storage answered, or did not."""
        self.object_storage_seconds.labels(call).observe(seconds)
        if failed:
            self.object_storage_failures.labels(call).inc()

    def phase(self, kind: str, phase: str, code: str, seconds: float) -> None:
        """A phase has ended."""
        self.phase_seconds.labels(kind, phase, code).observe(seconds)
