"""Spans of calls, transactions, attempts and phases, sent to a collector over OTLP.

Imported only where `--tracing-endpoint` is set. A call that is not sampled costs one random number:
no span is made for it, nor for the operation that it begins. Callers that send a W3C `traceparent`
decide for themselves.
"""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Iterator

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

log = logging.getLogger(__name__)

_SEND_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0
"""For one answer of the collector; what it does not take in time is dropped."""
_POLLS = frozenset({"claim", "heartbeat", "get_operation"})
"""Calls of the store that happen all the time inside an attempt and say nothing about it."""

_propagator = TraceContextTextMapPropagator()


class _Ids(RandomIdGenerator):
    """Trace ids that the access log and the caller know already."""

    def __init__(self) -> None:
        self.wanted = threading.local()

    def generate_trace_id(self) -> int:
        wanted: int = getattr(self.wanted, "trace_id", 0)
        return wanted or super().generate_trace_id()


class Tracing:
    """Makes spans and sends them, in a thread of its own. Thread-safe."""

    def __init__(self, endpoint: str, ratio: float, process: str, version: str) -> None:
        """`endpoint` is the whole URL; `ratio` of the calls without `traceparent` are sampled."""
        self._ratio = ratio
        self._ids = _Ids()
        resource = Resource.create(
            {
                "service.name": "darkroom",
                "service.version": version,
                "darkroom.process": process,
            }
        )
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_PATIENCE_SECONDS)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, schedule_delay_millis=_SEND_SECONDS * 1000)
        )
        self._tracer = self._provider.get_tracer("darkroom")

    def close(self, seconds: float) -> None:
        """Send what is left; what takes longer than so many seconds is lost."""
        # By itself it would wait for half a minute for a collector that takes calls in silence.
        sending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(seconds)
        if sending.is_alive():
            log.warning("spans are lost: the collector does not take them")

    def wanted(self, traceparent: str) -> bool:
        """Whether a call is traced: what its caller says, or by chance."""
        if traceparent:
            return int(traceparent[-2:], 16) & 1 == 1
        return random.random() < self._ratio  # noqa: S311 - nothing to guess here

    @contextlib.contextmanager
    def call(self, method: str, traceparent: str, trace_id: str) -> Iterator[Span]:
        """A span around one RPC; without a parent its trace has the id that the caller is told."""
        service, _, name = method[1:].rpartition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        self._ids.wanted.trace_id = int(trace_id, 16)
        try:
            with self._span(f"{service}/{name}", SpanKind.SERVER, traceparent, attributes) as span:
                yield span
        finally:
            self._ids.wanted.trace_id = 0

    @contextlib.contextmanager
    def attempt(self, kind: str, traceparent: str, operation_id: str) -> Iterator[Span | None]:
        """A span around a worker's attempt, below the call that began the operation.

        None if that call was not sampled.
        """
        if not traceparent or not self.wanted(traceparent):
            yield None
            return
        attributes = {"darkroom.operation_id": operation_id}
        with self._span(f"attempt {kind}", SpanKind.CONSUMER, traceparent, attributes) as span:
            yield span

    @contextlib.contextmanager
    def _span(
        self, name: str, kind: SpanKind, traceparent: str, attributes: dict[str, str]
    ) -> Iterator[Span]:
        carrier = {"traceparent": traceparent} if traceparent else {}
        with self._tracer.start_as_current_span(
            name,
            context=_propagator.extract(carrier),
            kind=kind,
            attributes=attributes,
            record_exception=False,  # its text may quote what nobody else may read
            set_status_on_exception=False,
        ) as span:
            yield span

    def phase(self, name: str, started_seconds_ago: float, code: str) -> None:
        """A phase of the current attempt has ended."""
        self._past(f"phase {name}", started_seconds_ago, "" if code == "OK" else code)

    def store_call(self, call: str, seconds: float, failure: str) -> None:
        """The metadata store answered the current call or attempt."""
        if call not in _POLLS:
            self._past("transaction" if call == "write" else f"read {call}", seconds, failure)

    def _past(self, name: str, seconds: float, failure: str) -> None:
        if not trace.get_current_span().is_recording():
            return
        ended_ns = time.time_ns()
        span = self._tracer.start_span(name, start_time=ended_ns - round(seconds * 1e9))
        if failure:
            span.set_status(Status(StatusCode.ERROR, failure))
        span.end(ended_ns)


def traceparent_of(span: Span) -> str:
    """The span as whoever goes on with its trace is told of it."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def end(span: Span, code: str, **attributes: str) -> None:
    """Say how a call or an attempt ended; attributes without a value are left out."""
    for name, value in attributes.items():
        if value:
            span.set_attribute(f"darkroom.{name}", value)
    if code not in ("", "OK"):
        span.set_status(Status(StatusCode.ERROR, code))
