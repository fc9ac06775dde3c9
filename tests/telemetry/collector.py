"""A stand-in for an OpenTelemetry collector: takes spans over OTLP/HTTP and keeps them."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Received:
    """One span, its ids in hex."""

    name: str
    process: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str]
    error: str
    started_ns: int
    ended_ns: int


class Collector:
    """Use it as `with Collector().running() as collector`."""

    def __init__(self) -> None:
        self._spans: list[Received] = []
        self._lock = threading.Lock()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector._keep(body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    @contextlib.contextmanager
    def running(self) -> Iterator["Collector"]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def spans(self, trace_id: str = "") -> list[Received]:
        """All of a trace, or of every trace, in the order of their beginnings."""
        with self._lock:
            found = [each for each in self._spans if trace_id in ("", each.trace_id)]
        return sorted(found, key=lambda each: each.started_ns)

    def _keep(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        found = []
        for resource in request.resource_spans:
            process = _values(resource.resource.attributes)["darkroom.process"]
            for scope in resource.scope_spans:
                found += [
                    Received(
                        name=span.name,
                        process=process,
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        attributes=_values(span.attributes),
                        error=span.status.message,
                        started_ns=span.start_time_unix_nano,
                        ended_ns=span.end_time_unix_nano,
                    )
                    for span in scope.spans
                ]
        with self._lock:
            self._spans += found


def _values(attributes: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in attributes}
