"""Callers that do not behave: nobody else may notice them."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from api.client import GET, Client, Refused, Silence, connect, refused, until
from api.conftest import LogLines, Starter
from darkroom.api import arrival, interceptors, overload_log
from darkroom.api.server import Server
from darkroom.storage.sqlite import SqliteStore
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2

REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
HEALTH = "/grpc.health.v1.Health/Check"
OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)
IDLERS = 64
FEW_THREADS = 8
"""Fewer than there are idlers: a thread held by each of them would stop the server."""


@pytest.fixture
def silence() -> Iterator[Silence]:
    made = Silence()
    yield made
    made.end()


def slowest_list(client: Client, calls: int = 30) -> float:
    """Seconds that the slowest of some calls took."""
    request = image_service_pb2.ListImagesRequest(folder_id="folder")
    slowest = 0.0
    for _ in range(calls):
        started = time.perf_counter()
        client.images.List(request, timeout=5)
        slowest = max(slowest, time.perf_counter() - started)
    return slowest


def test_grpcio_is_as_this_server_needs_it() -> None:
    # It fails when grpcio has changed where calls could lose their protection: then either
    # `arrival` follows the change, or its fallback and larger pools become the design.
    assert arrival.unsupported() == ""


def test_calls_without_a_request_and_open_streams_delay_nobody(
    start: Starter, silence: Silence
) -> None:
    server = start(rpc_threads=FEW_THREADS)
    with (
        connect(server.address, OWN_CONNECTION) as idle,
        connect(server.address, OWN_CONNECTION) as streams,
        connect(server.address) as busy,
    ):
        idler, client = Client(idle), Client(busy)
        waiting = [idler.open_without_request(GET, silence) for _ in range(IDLERS)]
        reflections = [streams.stream_stream(REFLECTION)(silence.requests()) for _ in range(IDLERS)]
        # The server has seen a stream when its headers have come back.
        for stream in reflections:
            assert dict(stream.initial_metadata())["x-request-id"]
        until(lambda: len(server._alarms) == 2 * IDLERS, "all idlers to have reached the server")
        assert slowest_list(client) < 1.0
        check = client.channel.unary_unary(HEALTH)
        assert check(b"", timeout=5)
        assert not any(each.done() for each in waiting)
        for each in (*waiting, *reflections):
            each.cancel()


def test_a_request_that_does_not_come_in_time_ends_the_call(
    start: Starter, silence: Silence, lines: LogLines
) -> None:
    server = start(request_body_seconds=0.2)
    with connect(server.address) as channel:
        call = Client(channel).open_without_request(GET, silence)
        failed = refused(call.result)
    assert failed.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert failed.reason == "REQUEST_TOO_LATE"
    assert failed.message == "The request did not arrive within 0.2 seconds of the call's start"
    assert failed.headers["x-request-id"]
    assert lines.calls()[-1]["code"] == "DEADLINE_EXCEEDED"
    assert len(server._alarms) == 0


def test_a_silent_reflection_stream_is_ended(start: Starter, silence: Silence) -> None:
    server = start(request_body_seconds=0.2)
    with connect(server.address) as channel:
        stream = channel.stream_stream(REFLECTION)(silence.requests())
        with pytest.raises(grpc.RpcError):
            next(stream)
        assert stream.code() is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize(("undisturbed_seconds", "given_up"), [(0.0, [0, 1, 2]), (60.0, [2, 3, 4])])
def test_of_too_many_requests_on_their_way_those_that_take_long_are_given_up(
    start: Starter,
    silence: Silence,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed_seconds: float,
    given_up: list[int],
) -> None:
    """Two may settle, two are the newest; seven come."""
    monkeypatch.setattr(arrival, "MAX_SETTLED", 2)
    monkeypatch.setattr(arrival, "MAX_NEWEST", 2)
    monkeypatch.setattr(arrival, "_MOMENT_SECONDS", 0.0)
    monkeypatch.setattr(arrival, "_UNDISTURBED_SECONDS", undisturbed_seconds)
    server = start()
    with connect(server.address) as channel:
        client = Client(channel)
        calls: list[Any] = []

        def open_one(alarms: int) -> None:
            calls.append(client.open_without_request(GET, silence))
            until(lambda: len(server._alarms) == alarms, "the call to have reached the server")

        for number in range(4):
            open_one(number + 1)
        for number in given_up:
            open_one(4)
            failed = refused(calls[number].result)
            assert failed.reason == "OVERLOADED"
            assert int(failed.trailers["grpc-retry-pushback-ms"]) > 0
        assert [number for number, call in enumerate(calls) if call.done()] == given_up
        # Whoever sends a request with the call is not kept out.
        assert refused(lambda: client.raw(GET, SMALL)).code is grpc.StatusCode.NOT_FOUND


def test_a_cancelled_call_leaves_nothing_behind(start: Starter, silence: Silence) -> None:
    server = start()
    with connect(server.address) as channel:
        call = Client(channel).open_without_request(GET, silence)
        until(lambda: len(server._alarms) == 1, "the call to reach the server")
        call.cancel()
        until(lambda: len(server._alarms) == 0, "the call to be forgotten")
        until(lambda: server._pool.running == 0, "nothing to run")  # type: ignore[attr-defined]


class Brake:
    """Holds reads or writes of the store still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
        self.go = threading.Event()
        self.held = 0
        for name in names:
            original = getattr(SqliteStore, name)

            def held(*arguments: Any, original: Any = original, **options: Any) -> Any:
                self.held += 1
                self.go.wait(20)
                return original(*arguments, **options)

            monkeypatch.setattr(SqliteStore, name, held)


def test_more_calls_than_may_run_are_refused_with_a_pause(
    start: Starter, monkeypatch: pytest.MonkeyPatch, lines: LogLines
) -> None:
    server = start(max_concurrent_rpcs=2)
    brake = Brake(monkeypatch, ("get",))
    with connect(server.address) as channel:
        client = Client(channel)
        request = image_service_pb2.GetImageRequest(image_id="fd8absent")
        running = [client.images.Get.future(request) for _ in range(2)]
        until(lambda: brake.held == 2, "two calls to run")
        failed = refused(client.get)
        assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failed.reason == "OVERLOADED"
        assert int(failed.trailers["grpc-retry-pushback-ms"]) > 0
        assert channel.unary_unary(HEALTH)(b"", timeout=5), "health is outside the limit"
        told = [line for line in lines.calls() if line.get("reason") == "OVERLOADED"]
        assert [(line["method"], line["code"]) for line in told] == [(GET, "RESOURCE_EXHAUSTED")]
        brake.go.set()
        for call in running:
            assert refused(call.result).code is grpc.StatusCode.NOT_FOUND


def test_calls_refused_by_the_thousand_have_a_line_a_second_and_are_counted(
    lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload_log, "_SECONDS", 60.0)
    refusals = overload_log.OverloadLog()
    for _ in range(2):
        assert [refusals.has_own_line(path) for path in (GET, GET, HEALTH, GET)] == [
            *(True, False, False, False)
        ]
        refusals.flush()
    monkeypatch.setattr(overload_log, "_SECONDS", 0.01)
    assert refusals.has_own_line(GET)
    until(lambda: refusals.has_own_line(GET), "the second to be over")
    refusals.flush()
    counted = [(line["method"], line["reason"], line["calls"]) for line in lines.calls()]
    assert counted[:4] == [(GET, "OVERLOADED", 2), (HEALTH, "OVERLOADED", 1)] * 2


def crowd_and(client: Client, crowd: list[bytes], latecomer: bytes, brake: Brake) -> Refused:
    """How a call is refused that comes when others are stuck, all of which then end."""
    get = client.channel.unary_unary(GET)
    stuck = [get.future(request) for request in crowd]
    until(lambda: brake.held == len(crowd), "the others to be stuck")
    failed = refused(lambda: get(latecomer, timeout=20))
    assert not any(call.done() for call in stuck)
    brake.go.set()
    for call in stuck:
        assert refused(call.result).code is grpc.StatusCode.NOT_FOUND
    return failed


SMALL = image_service_pb2.GetImageRequest(image_id="fd8absent").SerializeToString()
LARGE = SMALL + b"\xfa\x7f\xa0\x8d\x06" + bytes(100_000)
"""The same with a field that nobody knows."""


def test_more_calls_than_fit_are_refused_without_their_requests_being_kept(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "_LEAST_RUNNING", FEW_THREADS)
    server = start(rpc_threads=FEW_THREADS)
    brake = Brake(monkeypatch, ("get",))
    with connect(server.address) as channel:
        failed = crowd_and(Client(channel), [SMALL] * FEW_THREADS, b"not even a request", brake)
    assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert int(failed.trailers["grpc-retry-pushback-ms"]) > 0


def test_of_large_requests_only_a_few_are_kept_at_once(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "MAX_LARGE", 2)
    server = start()
    brake = Brake(monkeypatch, ("get",))
    with connect(server.address) as channel:
        client = Client(channel)
        failed = crowd_and(client, [LARGE, LARGE, SMALL], LARGE, brake)
        assert failed.reason == "OVERLOADED"
        assert refused(lambda: client.raw(GET, LARGE)).code is grpc.StatusCode.NOT_FOUND
    until(lambda: not server._pool._large, "all to be forgotten")  # type: ignore[attr-defined]


def test_only_as_many_wait_for_their_turn_as_may_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "_PATIENCE_SECONDS", 60.0)
    places, came = interceptors._Places(1), []
    assert places.acquire()
    waiting = [threading.Thread(target=lambda: came.append(places.acquire())) for _ in range(4)]
    for thread in waiting:
        thread.start()
    until(lambda: places._waiting._value == 0, "four to wait")
    assert not places.acquire(), "the next one is told at once"
    for _ in waiting:
        places.release()
    for thread in waiting:
        thread.join()
    assert came == [True] * 4


def test_stuck_writers_leave_room_for_readers(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(max_concurrent_rpcs=4)
    brake = Brake(monkeypatch, ("write",))
    with connect(server.address) as channel:
        client = Client(channel)
        request = image_service_pb2.DeleteImageRequest(image_id="fd8absent")
        writers = [client.images.Delete.future(request) for _ in range(8)]
        until(lambda: brake.held == 2, "writers to be stuck")
        assert slowest_list(client, 10) < 1.0
        brake.go.set()
        codes = {refused(call.result).code for call in writers}
        assert codes <= {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED}


# --- the end --------------------------------------------------------------------------------------


def stopped_after(server: Server, grace_seconds: float) -> float:
    started = time.monotonic()
    server.stop(grace_seconds)
    return time.monotonic() - started


def test_stopping_lets_running_calls_finish(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    brake = Brake(monkeypatch, ("get",))
    with connect(server.address) as channel:
        client = Client(channel)
        request = image_service_pb2.GetImageRequest(image_id="fd8absent")
        call = client.images.Get.future(request)
        until(lambda: brake.held == 1, "the call to run")
        ending = threading.Thread(target=server.stop, args=(20,))
        ending.start()
        assert not call.done()
        brake.go.set()
        assert refused(call.result).code is grpc.StatusCode.NOT_FOUND
        ending.join(5)
        assert not ending.is_alive()


def test_stopping_does_not_wait_for_idlers(start: Starter, silence: Silence) -> None:
    server = start()
    with connect(server.address) as channel:
        # Named, because a call that nobody refers to is cancelled.
        call = Client(channel).open_without_request(GET, silence)
        stream = channel.stream_stream(REFLECTION)(silence.requests())
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert next(watch)
        until(lambda: len(server._alarms) == 2, "the idlers to reach the server")
        assert stopped_after(server, 20) < 5
        assert isinstance(call.exception(timeout=10), grpc.RpcError)
        assert stream.code() is not grpc.StatusCode.OK


def test_stopping_ends_calls_that_outlive_the_grace(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    brake = Brake(monkeypatch, ("get",))
    with connect(server.address) as channel:
        request = image_service_pb2.GetImageRequest(image_id="fd8absent")
        call = Client(channel).images.Get.future(request)
        until(lambda: brake.held == 1, "the call to run")
        ending = threading.Thread(target=server.stop, args=(0.3,))
        ending.start()
        assert isinstance(call.exception(timeout=10), grpc.RpcError)
        brake.go.set()
        ending.join(5)
        assert not ending.is_alive()
