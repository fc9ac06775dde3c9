"""What the server checks about itself before it serves anybody."""

from dataclasses import replace
from typing import Any

import pytest

from api.conftest import Starter
from darkroom.api.authentication import Check, EverythingAllowed, NoAuthentication
from darkroom.api.calls import Call, Method, method_path, methods_of
from darkroom.api.convert import OPERATION_TYPES, OperationTypeError, check_operation_types
from darkroom.api.images import ImageServicer
from darkroom.api.interceptors import Interceptors
from darkroom.api.operations import OperationServicer
from darkroom.api.permissions import PERMISSIONS, PUBLIC, PermissionTableError, Rule, check_table
from darkroom.api.server import ServicerError, implementation
from darkroom.domain.access import Subject
from darkroom.domain.errors import Failure
from darkroom.domain.operation import DESCRIPTIONS, IMAGE_CREATE, IMAGE_DELETE
from darkroom.storage.sqlite import SqliteStore


def test_the_interceptors_stand_in_this_order() -> None:
    interceptors = Interceptors(
        NoAuthentication(), EverythingAllowed(), max_running=1, request_seconds=1
    )
    assert [name for name, _ in interceptors.ordered] == [
        "request id",
        "trace",
        "access log",
        "figures",
        "errors",
        "admission",
        "drain",
        "authentication",
        "load limit",
        "validation",
        "authorisation",
    ]


def test_a_method_without_a_permission_stops_the_start(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/yandex.cloud.compute.v1.ImageService/Get"
    monkeypatch.delitem(PERMISSIONS, path)
    with pytest.raises(PermissionTableError, match=f"no permission is named for {path}"):
        start()


def test_a_permission_of_a_method_that_is_not_served_stops_the_start(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PERMISSIONS, "/no.such.Service/Get", PUBLIC)
    with pytest.raises(PermissionTableError, match=r"/no.such.Service/Get"):
        start()


def test_only_what_comes_before_a_token_is_public() -> None:
    public = {path for path, rule in PERMISSIONS.items() if rule == PUBLIC}
    assert public == {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/yandex.cloud.endpoint.ApiEndpointService/Get",
        "/yandex.cloud.endpoint.ApiEndpointService/List",
        "/yandex.cloud.iam.v1.IamTokenService/Create",
    }


def test_the_table_is_compared_both_ways() -> None:
    check_table(["/a/B"], {"/a/B": "right"})
    with pytest.raises(PermissionTableError, match=r"/a/C.*; .*/a/B"):
        check_table(["/a/C"], {"/a/B": "right"})


def test_methods_know_from_the_proto_file_whether_they_begin_an_operation() -> None:
    begin = {
        each.name
        for each in methods_of(ImageServicer.SERVICE, PERMISSIONS)
        if each.begins_operation
    }
    assert begin == {"Create", "Update", "Delete", "SetAccessBindings", "UpdateAccessBindings"}


def test_a_cancel_writes_and_begins_no_operation() -> None:
    writes = {each.name: each for each in methods_of(OperationServicer.SERVICE, PERMISSIONS)}
    assert writes["Cancel"].writes and not writes["Cancel"].begins_operation
    assert not writes["Get"].writes


def test_what_a_servicer_lacks_is_not_implemented() -> None:
    handlers = implementation(ImageServicer.SERVICE, object())
    assert set(handlers) == {method.name for method in ImageServicer.SERVICE.methods}
    call: Any = None
    with pytest.raises(Failure, match=r"ImageService.Get is not supported") as failed:
        handlers["Get"](call)
    assert failed.value.reason == "METHOD_NOT_IMPLEMENTED"


def test_a_misspelt_method_stops_the_start() -> None:
    class Servicer:
        def Gett(self, call: Call) -> None: ...

    with pytest.raises(ServicerError, match="Gett"):
        implementation(ImageServicer.SERVICE, Servicer())


def test_every_kind_of_operation_has_the_types_that_its_method_promises() -> None:
    check_operation_types(OPERATION_TYPES)
    assert OPERATION_TYPES.keys() >= DESCRIPTIONS.keys()


def test_other_types_than_promised_stop_the_start() -> None:
    create, delete = OPERATION_TYPES[IMAGE_CREATE], OPERATION_TYPES[IMAGE_DELETE]
    for wrong in (
        replace(create, response_type=delete.response_type),
        replace(create, metadata_type=delete.metadata_type),
    ):
        with pytest.raises(OperationTypeError, match=r"^image\.create: "):
            check_operation_types({**OPERATION_TYPES, IMAGE_CREATE: wrong})
    missing = {kind: types for kind, types in OPERATION_TYPES.items() if kind != IMAGE_CREATE}
    with pytest.raises(OperationTypeError, match=r"image.create"):
        check_operation_types(missing)


class Recorder:
    """An authenticator and authorizer that write down what they are asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Rule]] = []

    def authenticate(self, call: Call) -> Subject:
        return Subject("userAccount", "somebody")

    def check_of(self, method: Method) -> Check:
        return lambda call: self.asked.append((call.subject, method.rule))


def test_each_method_asks_for_its_permission(store: SqliteStore) -> None:
    recorder = Recorder()
    interceptors = Interceptors(recorder, recorder, max_running=1, request_seconds=1)
    for method in methods_of(ImageServicer.SERVICE, PERMISSIONS):
        handle = interceptors._authentication(
            method, interceptors._authorisation(method, lambda call: call.subject)
        )
        assert handle(Call(b"", None)) == "somebody"  # type: ignore[arg-type]
    assert recorder.asked == [
        ("somebody", PERMISSIONS[method_path(method)]) for method in ImageServicer.SERVICE.methods
    ]
