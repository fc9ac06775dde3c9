"""What every call gets, whatever its method: ids, a log line, a status with details."""

import re
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from api.client import CREATE, GET, URI, Client, connect, refused, until
from api.conftest import LogLines, Starter
from darkroom.api.status import DOMAIN
from darkroom.domain import errors
from darkroom.storage.sqlite import SqliteStore
from darkroom_pb.yandex.cloud.access import access_pb2
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TRACE = re.compile(r"([0-9a-f]{16}):[0-9a-f]{16}:[0-9a-f]{16}:1")
TRAILERS_LIMIT_BYTES = 8192
"""Where clients built on gRPC's C library begin to drop calls for their trailers."""


def list_headers(client: Client, **options: Any) -> dict[str, Any]:
    request = image_service_pb2.ListImagesRequest(folder_id="folder")
    _, call = client.images.List.with_call(request, **options)
    return dict(call.initial_metadata())


# --- ids ------------------------------------------------------------------------------------------


def test_a_reply_has_its_ids_in_initial_metadata(client: Client) -> None:
    first, second = list_headers(client), list_headers(client)
    assert UUID.fullmatch(first["x-request-id"])
    assert first["x-server-request-id"] == first["x-request-id"]
    assert TRACE.fullmatch(first["x-server-trace-id"])
    assert first["x-request-id"] != second["x-request-id"]
    assert first["x-server-trace-id"] != second["x-server-trace-id"]


@pytest.mark.parametrize("header", ["x-request-id", "x-client-request-id"])
def test_a_callers_request_id_is_kept(client: Client, lines: LogLines, header: str) -> None:
    wanted = "~" * 128
    headers = list_headers(client, metadata=[(header, wanted)])
    assert headers["x-request-id"] == wanted
    assert UUID.fullmatch(headers["x-server-request-id"])
    assert lines.calls()[-1]["request_id"] == wanted
    failed = refused(lambda: client.get(metadata=[(header, wanted)]))
    assert failed.headers["x-request-id"] == wanted
    assert failed.detail(error_details_pb2.RequestInfo).request_id == wanted


def test_a_request_id_of_any_length_is_not_kept(client: Client) -> None:
    for value in ("", "~" * 129):
        headers = list_headers(client, metadata=[("x-request-id", value)])
        assert UUID.fullmatch(headers["x-request-id"])


# --- hostile and broken requests ------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"\xff\xff\xff", b"\x0a\x7f", b"\x0a\x02\xff\xfe", b"\x0b"],
    ids=["noise", "cut off", "no UTF-8", "open group"],
)
def test_an_unreadable_request_is_an_invalid_argument(client: Client, body: bytes) -> None:
    failed = refused(lambda: client.raw(GET, body))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.reason == "REQUEST_UNREADABLE"
    assert "GetImageRequest" in failed.message
    request_id = failed.detail(error_details_pb2.RequestInfo).request_id
    assert request_id == failed.headers["x-request-id"]


def test_fields_that_nobody_knows_are_ignored(client: Client) -> None:
    request = image_service_pb2.GetImageRequest(image_id="fd8absent").SerializeToString()
    assert (
        refused(lambda: client.raw(GET, request + b"\xfa\x7f\x01x")).reason == "RESOURCE_NOT_FOUND"
    )


def test_a_call_closed_without_a_request_is_told_so(client: Client) -> None:
    failed = refused(lambda: client.channel.stream_unary(GET)(iter(())))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.reason == "REQUEST_MISSING"


@pytest.mark.parametrize("path", ["/no.such.Service/Get", GET + "More", "/" + "x" * 5000, "/"])
def test_an_unknown_method_is_unimplemented_with_ids(
    client: Client, lines: LogLines, path: str
) -> None:
    failed = refused(lambda: client.raw(path, b""))
    assert failed.code is grpc.StatusCode.UNIMPLEMENTED
    assert failed.reason == "METHOD_UNKNOWN"
    assert UUID.fullmatch(failed.headers["x-request-id"])
    assert failed.detail(error_details_pb2.RequestInfo).request_id == failed.headers["x-request-id"]
    (line,) = lines.calls()
    assert line["code"] == "UNIMPLEMENTED" and len(line["method"]) <= 120


def test_an_oversized_request_is_refused_and_the_connection_lives(client: Client) -> None:
    failed = refused(lambda: client.raw(CREATE, b"\0" * (1024 * 1024 + 1)))
    assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failed.reason == "REQUEST_TOO_LARGE"
    assert failed.message == "The request has 1048577 bytes, at most 1048576 are taken"
    far_too_large = refused(lambda: client.raw(CREATE, b"\0" * (2 * 1024 * 1024 + 1)))
    assert far_too_large.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in far_too_large.message
    assert list_headers(client)


def test_oversized_metadata_is_refused_and_the_connection_lives(
    client: Client, lines: LogLines
) -> None:
    assert list_headers(client, metadata=[("x-much", "y" * 15_000)])
    failed = refused(lambda: client.get(metadata=[("x-much", "y" * 16_500)]))
    assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failed.reason == "METADATA_TOO_LARGE"
    assert failed.message.endswith("at most 16384 are taken")
    assert lines.calls()[-1]["reason"] == "METADATA_TOO_LARGE"
    assert failed.headers["x-request-id"]
    far_too_large = refused(lambda: client.get(metadata=[("x-much", "y" * 33_000)]))
    assert far_too_large.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "metadata size exceeds" in far_too_large.message
    assert list_headers(client)


def test_the_limits_of_sizes_are_settings(start: Starter) -> None:
    server = start(max_request_size=4096, max_metadata_size=4096)
    with connect(server.address) as channel:
        client = Client(channel)
        assert refused(lambda: client.raw(CREATE, b"\0" * 4097)).reason == "REQUEST_TOO_LARGE"
        large = refused(lambda: client.get(metadata=[("x-much", "y" * 4096)]))
        assert large.reason == "METADATA_TOO_LARGE"


def test_every_broken_rule_is_reported_in_one_answer(client: Client) -> None:
    request = image_service_pb2.CreateImageRequest(
        name="-", labels={"Upper": "UPPER"}, description="d" * 257
    )
    failed = refused(lambda: client.images.Create(request))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(failed.fields) == {"folder_id", "name", 'labels["Upper"]', "description", "source"}
    assert failed.message.startswith("Request validation error: ")


def test_paths_lead_into_nested_messages(client: Client) -> None:
    good = access_pb2.AccessBinding(
        role_id="viewer", subject=access_pb2.Subject(id="somebody", type="userAccount")
    )
    bad = access_pb2.AccessBinding(role_id="viewer", subject=access_pb2.Subject(type="userAccount"))
    request = access_pb2.UpdateAccessBindingsRequest(
        resource_id="fd8image",
        access_binding_deltas=[
            access_pb2.AccessBindingDelta(action=access_pb2.ADD, access_binding=good),
            access_pb2.AccessBindingDelta(access_binding=good),
            access_pb2.AccessBindingDelta(action=access_pb2.ADD, access_binding=bad),
        ],
    )
    assert set(refused(lambda: client.images.UpdateAccessBindings(request)).fields) == {
        "access_binding_deltas[1].action",
        "access_binding_deltas[2].access_binding.subject.id",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"product_ids": ["\u2603" * 51] * 5000},
        {"labels": {f"\u2603{'k' * 200}{number}": "UPPER" for number in range(60)}},
        {"image_id": "\u2603" * 300_000, "folder_id": "\n" * 1000},
    ],
    ids=["many", "wide", "long"],
)
def test_the_trailers_stay_small_whatever_is_wrong(client: Client, fields: dict[str, Any]) -> None:
    request = image_service_pb2.CreateImageRequest(**fields)
    failed = refused(lambda: client.images.Create(request))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT and failed.fields
    assert "\u2603" * 20 not in failed.message
    size = 0.0
    for name, value in failed.trailers.items():
        size += len(name) + len(value) * (4 / 3 if name.endswith("-bin") else 1) + 32
    size += len("grpc-message") + 3 * len(failed.message.encode()) + 32
    assert size < TRAILERS_LIMIT_BYTES


# --- failures of the server -----------------------------------------------------------------------


def test_an_unknown_exception_is_logged_whole_and_answered_with_one_sentence(
    client: Client, store: SqliteStore, lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret /path")

    monkeypatch.setattr(type(store), "get", broken)
    failed = refused(lambda: client.get(metadata=[("x-request-id", "mine")]))
    assert failed.code is grpc.StatusCode.INTERNAL
    assert failed.message == errors.internal().message
    assert b"secret" not in failed.status.SerializeToString()
    (record,) = [each for each in lines.records if each.levelname == "ERROR"]
    assert record.exc_info and "secret" in str(record.exc_info[1])
    assert vars(record)["fields"]["request_id"] == "mine"


def test_a_busy_store_says_when_to_come_back(
    client: Client, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise errors.store_busy()

    monkeypatch.setattr(type(store), "write", busy)
    failed = refused(client.create)
    assert failed.code is grpc.StatusCode.UNAVAILABLE
    assert failed.detail(error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 1000
    assert failed.trailers["grpc-retry-pushback-ms"] == "1000"
    assert failed.detail(error_details_pb2.ErrorInfo).domain == DOMAIN


# --- the access log -------------------------------------------------------------------------------


def test_each_call_leaves_one_line(client: Client, lines: LogLines) -> None:
    operation = client.create()
    refused(lambda: client.get("fd8absent"))
    refused(lambda: client.raw(GET, b"\xff"))
    created, absent, unreadable = until(
        lambda: len(lines.calls()) == 3 and lines.calls(), "three lines"
    )
    assert created["method"] == CREATE and created["code"] == "OK"
    assert created["operation_id"] == operation.id
    assert created["resource_id"].startswith("fd8")
    assert created["subject"] == "anonymous"
    assert created["peer"].startswith("ipv4:127.0.0.1:")
    assert 0 < created["duration_ms"] < 10_000
    assert created["user_agent"].startswith("grpc-python/")
    assert (absent["code"], absent["reason"]) == ("NOT_FOUND", "RESOURCE_NOT_FOUND")
    assert absent["resource_id"] == "fd8absent"
    assert (unreadable["code"], unreadable["reason"]) == ("INVALID_ARGUMENT", "REQUEST_UNREADABLE")


def test_no_line_holds_a_url(client: Client, lines: LogLines) -> None:
    client.create(uri=URI)
    refused(lambda: client.create(uri=URI, folder_id=""))
    refused(lambda: client.create(uri=URI, folder_id="\0" * 51))
    assert len(lines.calls()) == 3
    assert "c0ffee" not in str([vars(each) for each in lines.records])


def test_the_listeners_address_can_be_taken_only_once(start: Starter) -> None:
    address = start().address
    with pytest.raises(OSError, match="cannot be bound"):
        start(listen=address)
