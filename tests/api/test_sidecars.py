"""Two sidecars before one server: who is let through, what is repeated, what is logged."""

import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest

from api.client import refused
from api.conftest import LogLines, Starter
from darkroom.api.server import Server
from darkroom_pb.yandex.cloud.compute.v1 import (
    image_service_pb2,
    image_service_pb2_grpc,
)
from installation import until
from sidecars import (
    CLIENT,
    SERVER,
    STRANGER,
    Authority,
    Envoy,
    beside_client,
    beside_server,
    running,
)

WITH_ID = (("x-client-request-id", "wanted-by-caller"),)
ANY = image_service_pb2.ListImagesRequest(folder_id="folder")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@contextlib.contextmanager
def calling(envoy: Envoy) -> Iterator[image_service_pb2_grpc.ImageServiceStub]:
    with grpc.insecure_channel(envoy.address, [("grpc.enable_retries", 0)]) as channel:
        yield image_service_pb2_grpc.ImageServiceStub(channel)


def test_calls_go_through_with_one_request_id_and_strangers_do_not(
    tmp_path: Path, authority: Authority, server: Server
) -> None:
    of_server = authority.identity(SERVER, CLIENT)
    with running(tmp_path, "server", beside_server(of_server, server.address)) as inbound:
        client = beside_client(authority.identity(CLIENT, SERVER), inbound.address)
        with running(tmp_path, "client", client) as outbound, calling(outbound) as images:
            _, call = images.List.with_call(ANY, metadata=WITH_ID, wait_for_ready=True)
            assert dict(call.initial_metadata())["x-request-id"] == WITH_ID[0][1]
            for envoy in (inbound, outbound):
                seen = until(partial(lines_of, envoy, "List"), "the line in the log")
                assert seen[-1]["request_id"] == WITH_ID[0][1]
                assert seen[-1]["code"] == "OK"
            assert lines_of(inbound, "List")[-1]["identity"] == CLIENT
        for wrong in (
            beside_client(authority.identity(STRANGER, SERVER), inbound.address),
            # The right one does not take a stranger for the server either.
            beside_client(authority.identity(CLIENT, STRANGER), inbound.address),
        ):
            with running(tmp_path, "stranger", wrong) as outbound, calling(outbound) as images:
                found = refused(partial(images.List, ANY))
                assert found.code is grpc.StatusCode.UNAVAILABLE


def test_only_what_may_be_repeated_is_repeated(
    tmp_path: Path, authority: Authority, start: Starter, lines: LogLines
) -> None:
    server = start()
    server.refuse_new_calls()
    server._health.set_serving(True)
    of_server = authority.identity(SERVER, CLIENT)
    create = image_service_pb2.CreateImageRequest(folder_id="folder", uri="http://127.0.0.1:1/x")
    with (
        running(tmp_path, "server", beside_server(of_server, server.address)) as inbound,
        running(
            tmp_path,
            "client",
            beside_client(authority.identity(CLIENT, SERVER), inbound.address),
        ) as outbound,
        calling(outbound) as images,
    ):
        key = (("idempotency-key", "once"),)
        # The pause that the server asks for is longer than these callers have.
        for call in (
            lambda: images.List(ANY, timeout=2.5),
            lambda: images.Create(create, timeout=2.5, metadata=key),
        ):
            assert refused(call).code is grpc.StatusCode.DEADLINE_EXCEEDED
        told = refused(lambda: images.Create(create, timeout=20))
        assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        served = [str(each["method"]).rpartition("/")[2] for each in lines.calls()]
        assert served.count("List") in (2, 3)
        # Those with the key, and the one without.
        assert served.count("Create") in (3, 4)
        ended = until(partial(refused_creations, outbound), "the line in the log")
        assert [each["attempts"] for each in ended] == [1]


def refused_creations(envoy: Envoy) -> list[dict[str, object]]:
    return [each for each in lines_of(envoy, "Create") if each["code"] == "UNAVAILABLE"]


def lines_of(envoy: Envoy, method: str) -> list[dict[str, object]]:
    found = [json.loads(each) for each in envoy.lines() if each.startswith("{")]
    return [each for each in found if str(each.get("method", "")).endswith(f"/{method}")]
