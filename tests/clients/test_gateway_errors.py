"""Errors over REST: each is a google.rpc.Status in JSON, whoever found it."""

import http.client
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from clients.gateways import Gateway, Reply, gateway
from darkroom.api.interceptors import Behaviour
from darkroom.api.status import answer, refusal
from darkroom.domain.errors import (
    Code,
    Failure,
    FieldViolation,
    Precondition,
    Quota,
    Resource,
)
from installation import Installation

TYPE = "type.googleapis.com/"
IMAGES = "/compute/v1/images"
READ_ADVICE = (
    "Compare path, query parameters and JSON body with /openapi.json; of fields that exclude each "
    "other send one."
)


@pytest.fixture(scope="module")
def rest(front: Gateway) -> Gateway:
    return front


def info(reason: str, **metadata: str) -> dict[str, Any]:
    """The JSON of google.rpc.ErrorInfo."""
    kind = TYPE + "google.rpc.ErrorInfo"
    return {"@type": kind, "reason": reason, "domain": "darkroom", "metadata": metadata}


def status(reply: Reply, code: int, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    """The whole JSON of a status; the request id at its end is that of the reply's header."""
    request = {"@type": TYPE + "google.rpc.RequestInfo", "requestId": reply.headers["x-request-id"]}
    if "x-server-request-id" in reply.headers:
        request["servingData"] = ""
    return {"code": code, "message": message, "details": [*details, request]}


UNREADABLE: dict[str, tuple[str, str, str | None, str]] = {
    "unknown query parameter": (
        "GET",
        f"{IMAGES}?folderId=home&colour=red",
        None,
        'Could not find field "colour" in the type "yandex.cloud.compute.v1.ListImagesRequest".',
    ),
    "number that is none": (
        "GET",
        f"{IMAGES}?folderId=home&pageSize=many",
        None,
        'page_size: invalid value "many" for type TYPE_INT64',
    ),
    "unfinished JSON": (
        "POST",
        IMAGES,
        '{"folderId": "home"',
        "Unexpected end of string. Expected , or } after key:value pair.\n\n^",
    ),
    "no JSON": ("POST", IMAGES, "folderId=home", "Unexpected token.\nfolderId=home\n^"),
    "no object": ("POST", IMAGES, "[]", ": Root element must be a message."),
    "two sources": (
        "POST",
        IMAGES,
        '{"folderId": "home", "imageId": "fd8a", "uri": "https://storage.example/a"}',
        ": invalid value oneof field 'source' is already set. Cannot set 'uri' for type oneof",
    ),
    "enum in lower case": (
        "POST",
        IMAGES,
        '{"folderId": "home", "os": {"type": "linux"}}',
        f'os.type: invalid value "linux" for type {TYPE}yandex.cloud.compute.v1.Os.Type',
    ),
    "two ids": (
        "PATCH",
        f"{IMAGES}/fd8a",
        '{"image_id": "fd8b"}',
        (
            'The binding value "fd8a" of the field image_id is conflicting with the value "fd8b" '
            "in the body."
        ),
    ),
}


@pytest.mark.parametrize(
    ("method", "path", "body", "problem"), UNREADABLE.values(), ids=list(UNREADABLE)
)
def test_what_cannot_be_read_is_400(
    rest: Gateway, method: str, path: str, body: str | None, problem: str
) -> None:
    reply = rest.call(method, path, body)
    assert reply.status == 400
    assert reply.body == status(
        reply,
        3,
        f"The request cannot be read: {problem}",
        info("HTTP_REQUEST_INVALID", problem=problem, advice=READ_ADVICE),
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/compute/v1/pictures?folderId=home"),
        ("GET", "/compute/v2/images"),
        ("PUT", IMAGES),
        ("POST", f"{IMAGES}/fd8a:explode"),
        ("POST", "/yandex.cloud.compute.v1.ImageService/Get"),
    ],
)
def test_unknown_paths_and_methods_are_404(rest: Gateway, method: str, path: str) -> None:
    reply = rest.call(method, path, "{}" if method != "GET" else None)
    assert reply.status == 404
    advice = "Look the path up in /openapi.json; custom verbs follow a colon."
    assert reply.body == status(
        reply,
        5,
        "Nothing is served under this path with this HTTP method",
        info("HTTP_METHOD_UNKNOWN", advice=advice),
    )


def test_a_page_in_a_browser_may_not_call_unless_its_origin_is_listed(
    rest: Gateway, server: Installation, tmp_path: Path
) -> None:
    refused = rest.call("GET", f"{IMAGES}?folderId=home", origin="https://page.example")
    assert refused.status == 403
    advice = (
        "Call from the page's own server, or ask the operator to list the origin "
        "(--gateway-allow-origin)."
    )
    assert refused.body == status(
        refused,
        7,
        "The gateway takes no calls from pages of this origin",
        info("HTTP_ORIGIN_NOT_ALLOWED", advice=advice),
    )
    with gateway(
        tmp_path, server.address, "--gateway-allow-origin", "https://page.example"
    ) as open_:
        page = {"origin": "https://page.example"}
        asked = {"access_control_request_method": "POST", "access_control_request_headers": "x"}
        code, headers, _ = open_.raw("OPTIONS", IMAGES, **page, **asked)
        assert (code, headers["access-control-allow-origin"]) == (200, "https://page.example")
        assert "idempotency-key" in headers["access-control-allow-headers"]
        answered = open_.call("GET", f"{IMAGES}?folderId=home", **page)
        assert answered.body == {"images": [], "nextPageToken": ""}
        assert answered.headers["access-control-allow-origin"] == "https://page.example"
        assert "x-request-id" in answered.headers["access-control-expose-headers"]
        assert open_.call("GET", "/endpoints", origin="https://other.example").status == 403


def test_the_server_refuses_in_full(rest: Gateway) -> None:
    unknown = rest.call("GET", f"{IMAGES}/fd8a")
    assert unknown.status == 404
    assert unknown.body == status(
        unknown,
        5,
        'Image "fd8a" not found',
        {
            "@type": TYPE + "google.rpc.ResourceInfo",
            "resourceType": "Image",
            "resourceName": "fd8a",
            "owner": "",
            "description": "does not exist",
        },
        info(
            "RESOURCE_NOT_FOUND",
            kind="Image",
            id="fd8a",
            advice="Check the id; a deleted resource is gone for good.",
        ),
    )
    request = {"folderId": "home", "name": "taken", "zoneId": "ru-central1-a", "size": "4194304"}
    assert rest.call("POST", "/compute/v1/disks", request).status == 200
    taken = rest.call("POST", "/compute/v1/disks", request)
    assert (taken.status, taken.body["code"]) == (409, 6)
    invalid = rest.call("POST", IMAGES, {})
    assert (invalid.status, invalid.body["code"]) == (400, 3)
    fields = [each["field"] for each in invalid.body["details"][0]["fieldViolations"]]
    assert sorted(fields) == ["folder_id", "source"]
    source = rest.call("POST", IMAGES, {"folderId": "home", "imageId": "fd8a"})
    assert (source.status, source.body["code"]) == (400, 9)
    absent = rest.call("POST", "/resource-manager/v1/clouds", {"name": "c", "organizationId": "o"})
    assert (absent.status, absent.body["code"]) == (501, 12)


def test_a_body_above_the_limit_is_413(rest: Gateway) -> None:
    reply = rest.call("POST", IMAGES, {"folderId": "home", "name": "x" * (1 << 20)})
    assert reply.status == 413
    advice = "Send less in one request, or ask the operator for a higher limit; the same call fails"
    assert reply.body == status(
        reply,
        8,
        "The body of the request takes more than 1048576 bytes",
        info(
            "HTTP_REQUEST_TOO_LARGE", part="body", limit_bytes="1048576", advice=f"{advice} again."
        ),
    )


def test_a_header_above_the_limit_is_431(rest: Gateway) -> None:
    reply = rest.call("GET", "/endpoints", x_long="x" * 20_000)
    assert reply.status == 431
    assert reply.body["code"] == 8
    assert reply.body["message"] == "The header of the request takes more than 16384 bytes"


@pytest.mark.parametrize(
    "sent", [b"GARBAGE\r\n\r\n", b"GET /endpoints HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"]
)
def test_what_is_no_http_gets_a_status_too(rest: Gateway, sent: bytes) -> None:
    host, _, port = rest.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        body = json.loads(reply.read())
    assert (reply.status, body["code"]) == (400, 3)
    assert body["message"].startswith("The request cannot be read")


def test_an_unreachable_server_is_503_and_unavailable(tmp_path: Path, server: Installation) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound but not listening: nobody else takes it, nobody answers
        with gateway(tmp_path, f"127.0.0.1:{held.getsockname()[1]}") as lonely:
            reply = lonely.call("GET", "/endpoints")
            assert reply.status == 503
            advice = (
                "Repeat the call after the pause that RetryInfo names, with the same "
                "idempotency-key; the operator should see whether the server runs where the "
                "gateway looks for it."
            )
            assert reply.body == status(
                reply,
                14,
                "The gateway cannot reach the server",
                {"@type": TYPE + "google.rpc.RetryInfo", "retryDelay": "1s"},
                info("SERVER_UNREACHABLE", advice=advice),
            )
            with grpc.insecure_channel(lonely.address) as channel:
                call: Any = channel.unary_unary("/yandex.cloud.endpoint.ApiEndpointService/List")
                with pytest.raises(grpc.RpcError) as refused:
                    call(b"", timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert refused.value.details() == "The gateway cannot reach the server"
    assert server.address not in lonely.log_text()


# --- every code and every detail ------------------------------------------------------------------

HTTP_STATUSES = {
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
"""As the cloud documents the codes (cloud docs, error handling)."""

DETAILED = 'everything at once: a message with quotes ", percents %20 %REQ(:path)% and Ü'


class Refusing(grpc.GenericRpcHandler):
    """A gRPC server that answers as Darkroom does, with the code that is asked for as an id."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
            code = Code[request[2:].decode()]
            context.send_initial_metadata((("x-request-id", "its-own"),))
            failure = Failure(
                code,
                "TEST_REASON",
                DETAILED,
                (
                    FieldViolation("labels[a]", "is wrong"),
                    Resource("Image", "fd8a", "gone"),
                    Precondition("STATE", "Image:fd8a", "not READY"),
                    Quota("compute.images.count", 32, 32, 1),
                ),
                metadata={"key": "value"},
                retry_after_seconds=1.5,
            )
            answer(context, refusal(failure, "its-own"))

        behaviour: Behaviour = refuse
        return grpc.unary_unary_rpc_method_handler(behaviour)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    server = grpc.server(ThreadPoolExecutor(2), handlers=[Refusing()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with gateway(tmp_path_factory.mktemp("refusing"), f"127.0.0.1:{port}") as running:
            running.keeps_promises = False
            yield running
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("code", HTTP_STATUSES, ids=lambda code: code.name)
def test_every_code_has_its_http_status_and_every_detail_arrives(
    refusing: Gateway, code: Code
) -> None:
    reply = refusing.call("GET", f"/operations/{code.name}")
    assert reply.status == HTTP_STATUSES[code]
    assert reply.headers["x-request-id"] == "its-own"
    assert reply.body == {
        "code": code.value,
        "message": DETAILED,
        "details": [
            {
                "@type": TYPE + "google.rpc.BadRequest",
                "fieldViolations": [
                    {"field": "labels[a]", "description": "is wrong", "reason": ""}
                ],
            },
            {
                "@type": TYPE + "google.rpc.ResourceInfo",
                "resourceType": "Image",
                "resourceName": "fd8a",
                "owner": "",
                "description": "gone",
            },
            {
                "@type": TYPE + "google.rpc.PreconditionFailure",
                "violations": [
                    {"type": "STATE", "subject": "Image:fd8a", "description": "not READY"}
                ],
            },
            {
                "@type": TYPE + "yandex.cloud.quota.QuotaFailure",
                "violations": [
                    {
                        "metric": {"name": "compute.images.count", "limit": "32", "usage": 32},
                        "required": "1",
                    }
                ],
            },
            {"@type": TYPE + "google.rpc.RetryInfo", "retryDelay": "1.500s"},
            info("TEST_REASON", key="value"),
            {
                "@type": TYPE + "google.rpc.RequestInfo",
                "requestId": "its-own",
                "servingData": "",
            },
        ],
    }
