"""A call and the import that it begins are one trace, over processes; no tracing, no cost."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.telemetry.tracing import Tracing
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2
from installation import Installation, installation, until
from object_server import ObjectServer
from telemetry.collector import Collector, Received

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
SERVICE = "yandex.cloud.compute.v1.ImageService"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector().running() as running:
        yield running


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory, disk: Path) -> Iterator[ObjectServer]:
    folder = tmp_path_factory.mktemp("objects")
    (folder / disk.name).hardlink_to(disk)
    with ObjectServer(folder).running() as running:
        yield running


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory, collector: Collector, objects: ObjectServer
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("traced")
    with installation(
        folder,
        objects.origin,
        DARKROOM_TRACING_ENDPOINT=collector.endpoint,
        DARKROOM_TRACING_RATIO="0",
    ) as running:
        yield running


def test_a_create_and_its_import_are_one_trace(
    house: Installation, collector: Collector, objects: ObjectServer, disk: Path
) -> None:
    begun = house.create(objects.url(disk.name), metadata=SAMPLED, name="traced")
    assert not house.done(begun.id).HasField("error")

    def whole() -> list[Received] | None:
        found = collector.spans(TRACE)
        return found if any(each.name.startswith("attempt") for each in found) else None

    spans = until(whole, "the worker's spans")
    (call,) = [each for each in spans if each.name == f"{SERVICE}/Create"]
    (attempt,) = [each for each in spans if each.name == "attempt image.create"]
    assert (call.process, call.parent_id) == ("serve", PARENT)
    assert (attempt.process, attempt.parent_id) == ("work", call.span_id)
    assert call.attributes["darkroom.operation_id"] == begun.id
    assert attempt.attributes["darkroom.operation_id"] == begun.id
    below = [each.name for each in spans if each.parent_id == attempt.span_id]
    phases = [name for name in below if name.startswith("phase")]
    assert phases == ["phase fetch", "phase inspect", "phase convert", "phase publish"]
    assert below.count("transaction") == 1
    transactions = [each for each in spans if each.name == "transaction"]
    assert [each.parent_id for each in transactions] == [call.span_id, attempt.span_id]
    assert len({each.span_id for each in spans}) == len(spans)
    assert all(each.started_ns <= each.ended_ns for each in spans)
    assert all(not each.error for each in spans)
    # The logs of both processes name the trace, and the call that began it.
    lines = [each for each in house.log_lines() if each.get("operation_id") == begun.id]
    named = {each["trace_id"] for each in lines if each["event"] in ("rpc", "phase ended")}
    assert TRACE in named
    (rpc,) = [each for each in lines if each.get("method") == f"/{SERVICE}/Create"]
    ended = [each for each in lines if each["event"] == "phase ended"]
    assert [each["phase"] for each in ended] == ["fetch", "inspect", "convert", "publish"]
    for line in ended:
        assert line["request_id"] == rpc["request_id"]
        assert line["resource_id"] == rpc["resource_id"]
        assert line["subject"] == rpc["subject"]
        assert line["trace_id"] == TRACE


def test_a_failure_is_seen_and_says_nothing_secret(
    house: Installation, collector: Collector, objects: ObjectServer
) -> None:
    trace = "5bf92f3577b34da6a3ce929d0e0e4736"
    metadata = (("traceparent", f"00-{trace}-{PARENT}-01"),)
    url = objects.url("nothing.qcow2") + "?X-Amz-Signature=c0ffee"
    house.done(house.create(url, metadata=metadata, name="failed").id)

    def attempt() -> Received | None:
        found = [each for each in collector.spans(trace) if each.name.startswith("attempt")]
        return found[0] if found else None

    assert until(attempt, "the failed attempt").error == "failed"
    phases = [each for each in collector.spans(trace) if each.name == "phase fetch"]
    assert phases and phases[0].error not in ("", "OK")
    assert "c0ffee" not in repr(collector.spans(trace))


def test_what_is_not_sampled_makes_no_span(house: Installation, collector: Collector) -> None:
    trace = "6bf92f3577b34da6a3ce929d0e0e4736"
    images = house.images
    request = image_service_pb2.ListImagesRequest(folder_id="folder")
    images.List(request)
    images.List(request, metadata=(("traceparent", f"00-{trace}-{PARENT}-00"),))
    images.List(request, metadata=(("traceparent", "nonsense"),))
    images.List(request, metadata=(("traceparent", f"00-{TRACE[:-1]}7-{PARENT}-01"),))
    # Spans come in order: the last call's is there, so the others' would be.
    until(lambda: collector.spans(f"{TRACE[:-1]}7"), "the span of the last call")
    assert not collector.spans(trace)
    listed = [each for each in collector.spans() if each.name == f"{SERVICE}/List"]
    assert len(listed) == 1


def test_a_trace_that_begins_here_has_the_id_that_the_caller_is_told(
    tmp_path: Path, collector: Collector, objects: ObjectServer
) -> None:
    with installation(
        tmp_path,
        objects.origin,
        DARKROOM_TRACING_ENDPOINT=collector.endpoint,
        DARKROOM_TRACING_RATIO="1",
        DARKROOM_WORKERS="0",
    ) as house:
        request = image_service_pb2.ListImagesRequest(folder_id="folder")
        _, call = house.images.List.with_call(request)
        headers = dict(call.initial_metadata())
        told = str(headers["x-server-trace-id"]).partition(":")[0]
        (line,) = [each for each in house.log_lines() if each["event"] == "rpc"]
        assert line["trace_id"] == told.zfill(32)
    # Stopped: what had not been sent was sent at the end.
    (span,) = [each for each in collector.spans(told.zfill(32)) if each.name.endswith("/List")]
    assert span.parent_id == ""


def test_a_collector_that_is_away_disturbs_nobody(tmp_path: Path, objects: ObjectServer) -> None:
    with installation(
        tmp_path,
        objects.origin,
        DARKROOM_TRACING_ENDPOINT="http://127.0.0.1:1/v1/traces",
        DARKROOM_TRACING_RATIO="1",
        DARKROOM_WORKERS="0",
    ) as house:
        for _ in range(3):
            house.listed()


def test_a_collector_that_takes_calls_in_silence_holds_no_end_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"
        tracing = Tracing(url, 1.0, "serve", "0")
        with tracing.call(f"/{SERVICE}/List", "", TRACE):
            pass
        started = time.monotonic()
        tracing.close(0.1)
        # An answer is waited for five seconds, an end for thirty.
        assert time.monotonic() - started < 4


def test_without_an_endpoint_nothing_is_imported_for_traces() -> None:
    program = (
        "import sys; from darkroom import wiring; from darkroom.config import Settings;"
        "import darkroom.cli.serve, darkroom.cli.work;"
        "assert wiring.instruments(Settings(), 'serve').tracing is None;"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
