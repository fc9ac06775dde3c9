"""A call and the import that it begins are one trace, over processes; no tracing, no cost."""

import socket
import time

import pytest

from darkroom.telemetry.tracing import Tracing
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2
from installation import until
from telemetry.conftest import PARENT, Watched, sampled

SERVICE = "yandex.cloud.compute.v1.ImageService"


def test_a_create_and_its_import_are_one_trace(watched: Watched) -> None:
    trace = watched.good_trace
    spans = watched.collector.spans(trace)
    (call,) = [each for each in spans if each.name == f"{SERVICE}/Create"]
    (attempt,) = [each for each in spans if each.name == "attempt image.create"]
    assert (call.process, call.parent_id) == ("serve", PARENT)
    assert (attempt.process, attempt.parent_id) == ("work", call.span_id)
    assert call.attributes["darkroom.operation_id"] == watched.good
    assert attempt.attributes["darkroom.operation_id"] == watched.good
    below = [each.name for each in spans if each.parent_id == attempt.span_id]
    phases = [name for name in below if name.startswith("phase")]
    assert phases == ["phase fetch", "phase inspect", "phase convert", "phase publish"]
    assert below.count("transaction") == 1
    transactions = [each for each in spans if each.name == "transaction"]
    assert [each.parent_id for each in transactions] == [call.span_id, attempt.span_id]
    assert len({each.span_id for each in spans}) == len(spans)
    assert all(each.started_ns <= each.ended_ns for each in spans)
    assert all(not each.error for each in spans)


def test_the_logs_of_both_processes_name_the_trace_and_the_call_that_began_it(
    watched: Watched,
) -> None:
    lines = [
        each for each in watched.running.log_lines() if each.get("operation_id") == watched.good
    ]
    (rpc,) = [each for each in lines if each.get("method") == f"/{SERVICE}/Create"]
    ended = [each for each in lines if each["event"] == "phase ended"]
    assert [each["phase"] for each in ended] == ["fetch", "inspect", "convert", "publish"]
    for line in (rpc, *ended):
        assert line["request_id"] == rpc["request_id"]
        assert line["resource_id"] == rpc["resource_id"]
        assert line["subject"] == rpc["subject"]
        assert line["trace_id"] == watched.good_trace


def test_a_failure_is_seen_and_says_nothing_secret(watched: Watched) -> None:
    trace = watched.bad_trace
    (attempt,) = watched.attempts(trace)
    assert attempt.error == "failed"
    spans = watched.collector.spans(trace)
    phases = [each for each in spans if each.name == "phase fetch"]
    assert phases and phases[0].error not in ("", "OK")
    assert "c0ffee" not in repr(spans)


def test_what_is_not_sampled_makes_no_span(watched: Watched) -> None:
    trace, last = "6bf92f3577b34da6a3ce929d0e0e4736", "7bf92f3577b34da6a3ce929d0e0e4736"
    images = watched.running.images
    request = image_service_pb2.ListImagesRequest(folder_id="folder")
    images.List(request)
    images.List(request, metadata=(("traceparent", f"00-{trace}-{PARENT}-00"),))
    images.List(request, metadata=(("traceparent", "nonsense"),))
    images.List(request, metadata=sampled(last))
    # Spans come in order: the last call's is there, so the others' would be.
    until(lambda: watched.collector.spans(last), "the span of the last call")
    assert not watched.collector.spans(trace)
    listed = [each for each in watched.collector.spans() if each.name == f"{SERVICE}/List"]
    assert len(listed) == 1


@pytest.mark.parametrize("listening", [True, False], ids=["silent", "away"])
def test_a_collector_that_does_not_answer_disturbs_nobody(listening: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if not listening:
            silent.close()
            url = "http://127.0.0.1:1/v1/traces"
        else:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"
        started = time.monotonic()
        tracing = Tracing(url, 1.0, "serve", "0")
        for number in range(600):  # more than one message takes
            with tracing.call(f"/{SERVICE}/List", "", f"{number + 1:032x}"):
                pass
        tracing.close(0.1)
        # An answer is waited for five seconds, an end for thirty.
        assert time.monotonic() - started < 4
