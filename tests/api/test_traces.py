"""The trace of a call that begins here."""

import grpc

from api.client import Client, refused
from api.conftest import LogLines, Starter
from darkroom.telemetry.instruments import Instruments
from darkroom.telemetry.tracing import Tracing
from telemetry.collector import Collector


def test_its_id_is_the_one_that_caller_log_and_collector_are_told(
    start: Starter, lines: LogLines
) -> None:
    with Collector().running() as collector:
        tracing = Tracing(collector.endpoint, 1.0, "serve", "0")
        server = start(Instruments(tracing=tracing))
        with grpc.insecure_channel(server.address) as channel:
            told = refused(Client(channel).get).headers["x-server-trace-id"]
        tracing.close(20)
        (span,) = collector.spans()
    trace_id = told.partition(":")[0].zfill(32)
    (line,) = lines.calls()
    assert line["trace_id"] == trace_id
    assert (span.trace_id, span.parent_id) == (trace_id, "")
