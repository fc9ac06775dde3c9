"""One port for everything: each REST path, gRPC and gRPC-Web, files; and the process behind it."""

import base64
import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

import darkroom_pb
from clients.gateways import Gateway, gateway
from darkroom.cli.gateway import gateway as to_run
from darkroom.cli.main import parser
from darkroom.config import SettingError, Settings, load
from darkroom.gateway.envoy import configuration
from darkroom_pb.yandex.cloud.compute.v1 import disk_service_pb2, disk_service_pb2_grpc
from darkroom_pb.yandex.cloud.endpoint import api_endpoint_pb2, api_endpoint_service_pb2
from installation import PATIENCE_SECONDS, Installation, alive, until

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(darkroom_pb.__file__).parent
DISCOVERY = "/yandex.cloud.endpoint.ApiEndpointService"


def bindings() -> Iterator[tuple[str, str, str]]:
    """Method, HTTP method and path of every binding in the published descriptor set."""
    published = (PACKAGE / "descriptors.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(published).file:
        for service in file.service:
            for method in service.method:
                rule = method.options.Extensions[annotations_pb2.http]
                for each in (rule, *rule.additional_bindings):
                    if verb := each.WhichOneof("pattern"):
                        yield f"{service.name}.{method.name}", verb.upper(), getattr(each, verb)


@pytest.mark.parametrize(
    ("verb", "path"),
    [pytest.param(verb, path, id=f"{name}-{verb}") for name, verb, path in bindings()],
)
def test_every_binding_reaches_the_server(front: Gateway, verb: str, path: str) -> None:
    reply = front.call(verb, re.sub(r"\{\w+\}", "abc", path), "{}" if verb != "GET" else None)
    assert "x-server-request-id" in reply.headers, reply
    if reply.status != 200:
        assert reply.body["details"][-2]["reason"] != "METHOD_UNKNOWN"


def test_what_a_header_says_is_heard_and_answered(front: Gateway) -> None:
    token = front.call("POST", "/iam/v1/tokens", {"yandexPassportOauthToken": "y0_secret"}).body
    request = {"folderId": "headers", "zoneId": "ru-central1-a", "size": "4194304"}
    headers = {
        "authorization": f"Bearer {token['iamToken']}",
        "idempotency_key": "a1b2",
        "x_client_request_id": "call-1",
        "content_type": "application/json",
    }
    first = front.call("POST", "/compute/v1/disks", request, **headers)
    again = front.call("POST", "/compute/v1/disks", request, **headers)
    assert first.body["createdBy"].startswith("oauth-")
    assert again.body == first.body
    assert first.headers["x-request-id"] == "call-1"
    assert re.fullmatch(
        r"[0-9a-f]{16}:[0-9a-f]{16}:[0-9a-f]{16}:1", first.headers["x-server-trace-id"]
    )
    both = front.call("GET", "/endpoints", x_request_id="call-2", x_client_request_id="call-1")
    assert both.headers["x-request-id"] == "call-2"
    assert front.call("GET", "/nowhere", x_client_request_id="call-3").headers["x-request-id"] == (
        "call-3"
    )


@pytest.mark.parametrize(
    "header",
    [
        *("!odd: name", "trace-bin: no base64", "grpc-timeout: soon", "grpc-encoding: none such"),
        *("grpc-previous-rpc-attempts: many", "grpc-status: 13"),
    ],
)
def test_headers_that_are_nothing_in_rest_do_no_harm(front: Gateway, header: str) -> None:
    name, _, value = header.partition(": ")
    assert front.call("GET", "/endpoints/compute", **{name: value}).status == 200


@pytest.mark.parametrize("parameters", ["folderId=q&pageSize=1", "folder_id=q&page_size=1"])
def test_query_parameters_go_by_either_name(front: Gateway, parameters: str) -> None:
    assert front.call("GET", f"/compute/v1/images?{parameters}").body == {
        "images": [],
        "nextPageToken": "",
    }


def test_json_is_read_in_every_form_that_its_mapping_knows(front: Gateway) -> None:
    request = {"folder_id": "q", "zone_id": "ru-central1-a", "size": 8 << 20, "name": None}
    features = {"legacyFeatures": {"pciTopology": 2}}
    reply = front.call("POST", "/compute/v1/disks", request | {"hardwareGeneration": features})
    disk = reply.body["response"]
    assert (disk["size"], disk["name"]) == (str(8 << 20), "")
    assert disk["hardwareGeneration"] == {"legacyFeatures": {"pciTopology": "PCI_TOPOLOGY_V2"}}


def test_unknown_fields_of_a_body_are_ignored(front: Gateway) -> None:
    request = {
        "folderId": "extra",
        "zoneId": "ru-central1-a",
        "size": "4194304",
        "os.type": "LINUX",
    }
    assert front.call("POST", "/compute/v1/disks", request).body["done"] is True


def test_a_long_page_arrives_whole(front: Gateway, server: Installation) -> None:
    labels = {f"key-{number:02}".ljust(63, "k"): "v" * 63 for number in range(64)}
    assert server.channel is not None
    disks = disk_service_pb2_grpc.DiskServiceStub(server.channel)
    for _ in range(200):
        disks.Create(
            disk_service_pb2.CreateDiskRequest(
                folder_id="long", zone_id="ru-central1-a", size=4 << 20, labels=labels
            )
        )
    path = "/compute/v1/disks?folderId=long&pageSize=1000"
    status, _, content = front.raw("GET", path)
    assert status == 200
    assert len(content) > 1 << 20
    assert [disk["labels"] for disk in json.loads(content)["disks"]] == [labels] * 200


@pytest.mark.parametrize(
    ("name", "content_type"),
    [("descriptors.binpb", "application/x-protobuf"), ("openapi.json", "application/json")],
)
def test_the_schema_is_served(front: Gateway, name: str, content_type: str) -> None:
    status, headers, content = front.raw("GET", f"/{name}")
    assert (status, headers["content-type"]) == (200, content_type)
    assert content == (PACKAGE / name).read_bytes()


def test_discovery_names_the_gateway_to_rest_and_to_grpc(front: Gateway) -> None:
    listed = front.call("GET", "/endpoints").body["endpoints"]
    assert {each["address"] for each in listed} == {front.address}
    address = f"localhost:{front.address.rpartition(':')[2]}"
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(
            f"{DISCOVERY}/List",
            response_deserializer=api_endpoint_service_pb2.ListApiEndpointsResponse.FromString,
        )
        assert {each.address for each in call(b"", timeout=10).endpoints} == {address}


@pytest.mark.client("grpcurl", "1.8.6", "reflection, calls and errors through the gateway", "ran")
def test_grpcurl_finds_and_calls_through_the_gateway(front: Gateway) -> None:
    grpcurl = [str(Path(sys.executable).with_name("grpcurl")), "-plaintext"]

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [*grpcurl, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    service = "yandex.cloud.compute.v1.ImageService"
    assert service in run(front.address, "list").stdout.splitlines()
    found = run("-d", '{"folder_id": "none"}', front.address, f"{service}/List")
    assert json.loads(found.stdout) == {}
    missing = run("-d", '{"image_id": "fd8a"}', front.address, f"{service}/Get")
    assert 'Message: Image "fd8a" not found' in missing.stderr
    assert "google.rpc.ResourceInfo" in missing.stderr


def frames(content: bytes) -> list[tuple[int, bytes]]:
    """The frames of a gRPC-Web reply: flags and content of each."""
    found = []
    while content:
        flags, size = content[0], int.from_bytes(content[1:5], "big")
        found.append((flags, content[5 : 5 + size]))
        content = content[5 + size :]
    return found


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_grpc_web_passes(front: Gateway, text: bool) -> None:
    content_type = "application/grpc-web-text" if text else "application/grpc-web+proto"
    request = api_endpoint_service_pb2.GetApiEndpointRequest(api_endpoint_id="compute")
    body = b"\0" + request.ByteSize().to_bytes(4, "big") + request.SerializeToString()
    sent = base64.b64encode(body) if text else body
    headers = {"content_type": content_type, "accept": content_type, "x_grpc_web": "1"}
    status, received, content = front.raw("POST", f"{DISCOVERY}/Get", sent, **headers)
    assert status == 200
    assert received["content-type"].startswith("application/grpc-web")
    if text:
        # Each frame is encoded for itself, with padding.
        content = b"".join(map(base64.b64decode, re.findall(rb"[^=]+=*", content)))
    message, trailers = frames(content)
    endpoint = api_endpoint_pb2.ApiEndpoint(id="compute", address=front.address)
    assert message == (0, endpoint.SerializeToString())
    assert trailers[0] == 0x80
    assert b"grpc-status:0\r\n" in trailers[1]


# --- the process ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_on_a_signal_and_has_logged_no_query(
    tmp_path: Path, server: Installation, number: signal.Signals
) -> None:
    with gateway(tmp_path, server.address) as running:
        for path in ("/compute/v1/images", "/nowhere", "/descriptors.binpb"):
            running.raw(
                "GET",
                f"{path}?folderId=secret-in-query",
                x_request_id="call-4",
                x_envoy_original_path="/forged",
            )
        assert running.stop(number) == 0
    lines = [json.loads(line) for line in running.log_text().splitlines()]
    assert (lines[0]["event"], lines[0]["upstream"]) == ("gateway", server.address)
    shown = [
        (line["method"], line["path"], line["status"], line["request_id"])
        for line in lines
        if line["event"] == "http"
    ]
    assert shown == [
        ("GET", "/compute/v1/images", 200, "call-4"),
        ("GET", "/nowhere", 404, "call-4"),
        ("GET", "/descriptors.binpb", 200, "call-4"),
    ]
    assert "secret-in-query" not in running.log_text()


class Slow(grpc.GenericRpcHandler):
    """Answers every call, but not before it is let go."""

    def __init__(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, _request: bytes, _context: grpc.ServicerContext) -> bytes:
        self.asked.set()
        assert self.go.wait(PATIENCE_SECONDS)
        return b""


@contextlib.contextmanager
def slow_server() -> Iterator[tuple[Slow, str]]:
    slow = Slow()
    server = grpc.server(ThreadPoolExecutor(2), handlers=[slow])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield slow, address
    slow.go.set()
    server.stop(None)


def test_what_is_under_way_at_its_end_is_finished(tmp_path: Path) -> None:
    with (
        slow_server() as (slow, address),
        gateway(tmp_path, address) as running,
        ThreadPoolExecutor(1) as beside,
    ):
        reply = beside.submit(running.raw, "GET", "/compute/v1/images/fd8absent")
        assert slow.asked.wait(PATIENCE_SECONDS)
        running.send(signal.SIGTERM)
        host, _, port = running.address.rpartition(":")

        def refused() -> bool:
            try:
                socket.create_connection((host, int(port)), 1).close()
            except ConnectionRefusedError:
                return True
            return False

        until(refused, "it to take no more")
        assert not reply.done()
        slow.go.set()
        assert reply.result(PATIENCE_SECONDS)[0] == 200
        assert running.ended() == 0
    assert '"draining"' in running.log_text()


def test_what_takes_longer_than_the_grace_is_cut_off(tmp_path: Path) -> None:
    with (
        slow_server() as (slow, address),
        gateway(tmp_path, address, "--grace-seconds", "0.2") as running,
        ThreadPoolExecutor(1) as beside,
    ):
        reply = beside.submit(running.raw, "GET", "/compute/v1/images/fd8absent")
        assert slow.asked.wait(PATIENCE_SECONDS)
        assert running.stop() == 0
        with pytest.raises((OSError, http.client.HTTPException)):
            reply.result(PATIENCE_SECONDS)
    assert "calls are cut off" in running.log_text()


def test_envoy_does_not_outlive_it(tmp_path: Path, server: Installation) -> None:
    with gateway(tmp_path, server.address) as running:
        envoy = running.envoy()
        sockets = {Path(str(each.laddr)) for each in envoy.net_connections("unix")}
        (administration,) = (each for each in sockets if each.name == "admin")
        assert administration.parent.stat().st_mode & 0o777 == 0o700
        assert running.stop(signal.SIGKILL) == -signal.SIGKILL
        until(lambda: not alive(envoy.pid), "Envoy to end")
    # The next one tidies up.
    with gateway(tmp_path, server.address):
        assert not administration.exists()


def test_it_ends_when_envoy_does(tmp_path: Path, server: Installation) -> None:
    with gateway(tmp_path, server.address) as running:
        running.envoy().kill()
        assert running.ended() == 128 + signal.SIGKILL


def test_its_configuration_is_not_on_its_command_line(front: Gateway) -> None:
    shown = front.envoy().cmdline()
    assert shown[0] == "envoy"
    assert len(" ".join(shown)) < 200, shown


def command_line(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "darkroom", "gateway", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_a_taken_port_is_named(front: Gateway) -> None:
    second = command_line("--gateway-listen", front.address)
    assert second.returncode != 0
    assert "Address already in use" in second.stderr
    assert front.address in second.stderr


def test_the_rendered_configuration_follows_the_settings() -> None:
    rendered = command_line("--render", "--gateway-admin-listen", "127.0.0.1:9901").stdout
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 9901}}
    assert yaml.safe_load(rendered)["admin"] == {"address": address}
    # Off unless asked for: whoever reaches it can stop the gateway.
    assert "admin" not in configuration(to_run(Settings()))


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--gateway-listen", ""),
        ("--gateway-listen", "localhost:8080"),
        ("--gateway-admin-listen", "localhost:9901"),
        ("--gateway-allow-origin", "page.example"),
    ],
)
def test_a_setting_that_envoy_could_not_use_is_named(flag: str, value: str) -> None:
    arguments = parser(["gateway"]).parse_args(["gateway", flag, value])
    with pytest.raises(SettingError, match=flag.strip("-").replace("-", "_")):
        to_run(load(arguments, {}))


def test_a_missing_envoy_is_named_with_its_remedy() -> None:
    code = "import sys; sys.modules['envoy'] = None\nfrom darkroom.cli.main import main\n"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}sys.exit(main(['gateway']))"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert "pip install darkroom-images[gateway]" in result.stderr


def test_an_envoy_of_a_mesh_takes_the_configuration_of_deploy(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "envoy" / "envoy.yaml").read_text()
    assert text.count("/etc/envoy/") == 3
    file = tmp_path / "envoy.yaml"
    file.write_text(text.replace("/etc/envoy/", f"{PACKAGE}/"))
    envoy = str(Path(sys.executable).with_name("envoy"))
    command = [envoy, "--mode", "validate", "--disable-hot-restart", "-c", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 0, result.stderr
    assert "OK" in result.stdout + result.stderr
