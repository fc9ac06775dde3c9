"""What tests call the server with: generated stubs, raw bytes, and statuses taken apart."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2, image_service_pb2_grpc
from darkroom_pb.yandex.cloud.operation import operation_pb2, operation_service_pb2_grpc

GET = "/yandex.cloud.compute.v1.ImageService/Get"
CREATE = "/yandex.cloud.compute.v1.ImageService/Create"
URI = "https://storage.yandexcloud.net/bucket/disk.qcow2?X-Amz-Signature=c0ffee"

PATIENCE_SECONDS = 20.0

M = TypeVar("M", bound=Message)
T = TypeVar("T")


def connect(address: str, *options: tuple[str, int]) -> Any:
    """A channel whose calls take and give bytes: the type of grpcio's wants to know of what."""
    return grpc.insecure_channel(address, options)


@dataclass
class Refused:
    """How a call failed."""

    code: grpc.StatusCode
    message: str
    headers: dict[str, str]
    trailers: dict[str, Any]
    status: status_pb2.Status

    def detail(self, kind: type[M]) -> M:
        """The one detail of a type; fails the test if there is not exactly one."""
        name = kind.DESCRIPTOR.full_name
        found = [each for each in self.status.details if each.TypeName() == name]
        assert len(found) == 1, f"{name}: {self.status}"
        message = kind()
        assert found[0].Unpack(message)
        return message

    @property
    def reason(self) -> str:
        return self.detail(error_details_pb2.ErrorInfo).reason

    @property
    def fields(self) -> dict[str, str]:
        """Violations by field."""
        bad = self.detail(error_details_pb2.BadRequest)
        return {each.field: each.description for each in bad.field_violations}


def refused(call: Callable[[], object]) -> Refused:
    """Make the call, which must fail, and take its status apart."""
    answer = answered(call)
    assert isinstance(answer, Refused), f"answered {answer}"
    return answer


def answered(call: Callable[[], T]) -> T | Refused:
    """The reply, or how the call failed."""
    try:
        return call()
    except grpc.RpcError as error:
        failed: Any = error
    trailers = dict(failed.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))
    if status.ByteSize():
        assert status.code == failed.code().value[0]
        assert status.message == failed.details()
    headers = dict(failed.initial_metadata() or ())
    return Refused(failed.code(), failed.details(), headers, trailers, status)


class Client:
    """Stubs on one connection."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.images = image_service_pb2_grpc.ImageServiceStub(channel)
        self.operations = operation_service_pb2_grpc.OperationServiceStub(channel)

    def raw(self, path: str, body: bytes, **options: Any) -> bytes:
        """Call any path with any bytes."""
        reply: bytes = self.channel.unary_unary(path)(body, timeout=PATIENCE_SECONDS, **options)
        return reply

    def create(self, **fields: Any) -> operation_pb2.Operation:
        fields = {"folder_id": "folder", "uri": URI, **fields}
        return self.images.Create(image_service_pb2.CreateImageRequest(**fields))

    def get(self, image_id: str = "fd8absent", **options: Any) -> Any:
        request = image_service_pb2.GetImageRequest(image_id=image_id)
        return self.images.Get(request, timeout=PATIENCE_SECONDS, **options)

    def open_without_request(self, path: str, silence: "Silence") -> Any:
        """Begin a call and send nothing; returns its future."""
        return self.channel.stream_unary(path).future(silence.requests())


class Silence:
    """Requests that never come, until it is broken."""

    def __init__(self) -> None:
        self._broken = threading.Event()

    def requests(self) -> Iterator[bytes]:
        self._broken.wait(PATIENCE_SECONDS * 2)
        yield from ()

    def end(self) -> None:
        self._broken.set()


def until(condition: Callable[[], Any], what: str) -> Any:
    """Poll until the condition is true and return its value; fail naming what never came."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.005)
    return value
