"""Health and reflection, with the generated stubs and with grpcurl."""

import contextlib
import socket
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from api.client import Client, refused, until
from api.conftest import LogLines, Starter
from darkroom.api.health import LIVENESS
from darkroom.api.readiness import Readiness
from darkroom.api.reflection import served_index
from darkroom.api.server import Server
from darkroom.cli.main import main
from darkroom.storage.sqlite import SqliteStore

GRPCURL = Path(sys.executable).with_name("grpcurl")
SERVICES = ("", "yandex.cloud.compute.v1.ImageService", "yandex.cloud.operation.OperationService")
Status = health_pb2.HealthCheckResponse


def check(client: Client, service: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(client.channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status)


@pytest.mark.parametrize("service", SERVICES)
def test_health_is_what_the_server_was_told(server: Server, client: Client, service: str) -> None:
    assert check(client, service) == Status.SERVING
    server.set_serving(False)
    assert check(client, service) == Status.NOT_SERVING
    server.set_serving(True)
    assert check(client, service) == Status.SERVING


def test_health_says_whether_what_is_written_can_be_kept(
    server: Server, client: Client, store: SqliteStore, tmp_path: Path
) -> None:
    server.set_serving(False)
    readiness = Readiness(
        store.writable, server.set_serving, look_seconds=0.02, look_again_seconds=0.02
    )
    readiness.start()
    assert check(client, "") == Status.SERVING
    with contextlib.closing(
        sqlite3.connect(tmp_path / "metadata.sqlite", isolation_level=None)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        until(lambda: check(client, "") == Status.NOT_SERVING, "NOT_SERVING")
        assert refused(client.get).code is grpc.StatusCode.NOT_FOUND  # it answers all the same
        other.execute("ROLLBACK")
        until(lambda: check(client, "") == Status.SERVING, "SERVING again")
    readiness.stop()
    assert check(client, "") == Status.NOT_SERVING


def test_what_restarts_a_server_is_neither_its_drain_nor_its_database(
    server: Server, client: Client
) -> None:
    server.set_serving(False)
    assert check(client, LIVENESS) == Status.SERVING
    server.refuse_new_calls()
    assert check(client, "") == Status.NOT_SERVING
    assert check(client, LIVENESS) == Status.SERVING


def test_health_of_an_unknown_service_is_not_found(client: Client) -> None:
    failed = refused(lambda: check(client, "no.such.Service"))
    assert failed.code is grpc.StatusCode.NOT_FOUND


def test_a_watcher_hears_of_every_change(server: Server, client: Client, lines: LogLines) -> None:
    stub: Any = health_pb2_grpc.HealthStub(client.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICES[1]), timeout=20)
    assert dict(watch.initial_metadata())["x-request-id"]
    assert next(watch).status == Status.SERVING
    server.set_serving(False)
    assert next(watch).status == Status.NOT_SERVING
    server.stop(5)
    told: list[Any] = []
    with pytest.raises(grpc.RpcError):
        told.extend(watch)
    assert {each.status for each in told} <= {Status.NOT_SERVING}
    (line,) = lines.calls()
    assert line["method"] == "/grpc.health.v1.Health/Watch"


def grpcurl(server: Server, *arguments: str) -> str:
    command = [str(GRPCURL), "-plaintext", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def test_grpcurl_lists_the_services(server: Server) -> None:
    listed = grpcurl(server, server.address, "list").split()
    assert {*SERVICES[1:], "grpc.health.v1.Health"} < set(listed)


def test_grpcurl_describes_with_comments_rules_and_bindings(server: Server) -> None:
    method = grpcurl(server, server.address, "describe", SERVICES[1] + ".Get")
    assert "// Shows one image." in method
    assert 'get:"/compute/v1/images/{image_id}"' in method
    message = "yandex.cloud.compute.v1.CreateImageRequest"
    described = grpcurl(server, server.address, "describe", message)
    assert "// Free text, at most 256 characters." in described
    assert '(.yandex.cloud.length) = "<=256"' in described
    assert "Health" in grpcurl(server, server.address, "describe", "grpc.health.v1.Health")


def test_grpcurl_describes_all_there_is(server: Server) -> None:
    described = grpcurl(server, server.address, "describe")
    for service in grpcurl(server, server.address, "list").split():
        assert f"{service} is a service" in described


def test_grpcurl_calls(server: Server) -> None:
    get = ("-d", "{}", server.address, "grpc.health.v1.Health/Check")
    assert '"SERVING"' in grpcurl(server, *get)


def test_both_versions_of_reflection_give_the_same_files_with_comments(client: Client) -> None:
    question = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICES[1])
    answers = [
        next(client.channel.stream_stream(path)(iter([question.SerializeToString()]), timeout=5))
        for path in (
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        )
    ]
    assert answers[0] == answers[1]
    answer = reflection_pb2.ServerReflectionResponse.FromString(answers[0])
    packed = answer.file_descriptor_response.file_descriptor_proto
    files = [descriptor_pb2.FileDescriptorProto.FromString(each) for each in packed]
    assert files[0].service[0].name == "ImageService"
    for file in files:
        commented = any(each.leading_comments for each in file.source_code_info.location)
        assert commented == file.name.startswith(("yandex/", "google/")), file.name


def test_the_index_answers_only_what_is_there() -> None:
    index = served_index()
    field_options = "google.protobuf.FieldOptions"
    assert {101501, 101510} <= set(index.extension_numbers(field_options) or [])
    assert index.extension_numbers("no.such.Message") is None
    assert index.file_of_extension(field_options, 101501)
    assert index.file_of_symbol("yandex.cloud.compute.v1.Image.Status")
    assert index.file_of_symbol("yandex.cloud.compute.v1.Image.READY")
    assert not index.file_of_extension(field_options, 1)
    assert not index.file("no/such.proto")
    assert not index.file_of_symbol("no.such.Symbol")


def test_watches_that_end_while_others_are_told_hold_nobody_up(server: Server) -> None:
    """A lock that is held while a message is sent must not be needed for another watch's end."""
    done = threading.Event()

    def come_and_go() -> None:
        with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as own:
            anything: Any = own
            for _ in range(150):
                watch = anything.stream_stream("/grpc.health.v1.Health/Watch")(iter([b""]))
                next(watch)
                watch.cancel()

    def tell() -> None:
        serving = False
        while not done.is_set():
            server.set_serving(serving)
            serving = not serving

    with ThreadPoolExecutor(5) as pool:
        teller = pool.submit(tell)
        for each in [pool.submit(come_and_go) for _ in range(4)]:
            each.result(timeout=60)
        done.set()
        teller.result(timeout=60)
    server.set_serving(True)
    with grpc.insecure_channel(server.address) as channel:
        assert check(Client(channel), "") == Status.SERVING


def test_a_watcher_that_takes_nothing_in_holds_nobody_up(start: Starter) -> None:
    server = start(request_body_seconds=0.5)
    http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    http.initiate_connection()
    http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    path = "/grpc.health.v1.Health/Watch"
    headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
    headers |= {"te": "trailers", "content-type": "application/grpc"}
    stuck = 4  # as many as there are threads for it
    for stream in range(1, 2 * stuck, 2):
        http.send_headers(stream, list(headers.items()))
        http.send_data(stream, bytes(5), end_stream=True)
    host, _, port = server.address.rpartition(":")
    with (
        socket.create_connection((host, int(port))) as connection,
        grpc.insecure_channel(server.address) as channel,
    ):
        connection.sendall(http.data_to_send())
        while not any(
            isinstance(event, h2.events.ResponseReceived)
            for event in http.receive_data(connection.recv(65536))
        ):
            connection.sendall(http.data_to_send())
        server.set_serving(False)
        assert check(Client(channel), "") == Status.NOT_SERVING


def test_watches_that_end_at_once_leave_nothing_behind(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        anything: Any = channel
        for _ in range(1500):
            watch = anything.stream_stream("/grpc.health.v1.Health/Watch")(iter([b""]))
            next(watch)
            watch.cancel()
        # Had a hundred of them been kept, the connection would refuse this.
        assert check(Client(channel), "") == Status.SERVING


def test_a_probe_asks_once_and_tells_by_its_status(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    def status(*flags: str) -> int:
        return main(["healthcheck", "--listen", server.address, "--timeout", "5", *flags])

    assert status() == 0
    assert status("--service", "yandex.cloud.compute.v1.ImageService") == 0
    assert status("--service", "absent") == 1
    assert "NOT_FOUND" in capfd.readouterr().err
    server.set_serving(False)
    assert status("--service", LIVENESS) == 0
    assert status() == 1
    assert "NOT_SERVING" in capfd.readouterr().err
    server.stop(0)
    assert main(["healthcheck", "--listen", server.address, "--timeout", "0.2"]) == 1
