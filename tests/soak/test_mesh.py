"""Two replicas with their sidecars, killed and rolled under load: nothing is lost."""

import contextlib
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2, image_service_pb2_grpc
from darkroom_pb.yandex.cloud.operation import (
    operation_service_pb2,
    operation_service_pb2_grpc,
)
from database_server import database
from installation import Installation, until
from object_server import ObjectServer
from sidecars import CLIENT, SERVER, Authority, beside_client, beside_server, running

DRAIN_SECONDS = 3.0
"""Health is asked every second, with a second for the answer."""
BETWEEN_SECONDS = 2.0
PAUSE_SECONDS = 0.01
READERS = 2
CREATORS = 2
IMPORTERS = 2


class Load:
    """Callers in threads, none of which repeats a call by itself. Any failure is kept."""

    def __init__(self, channel: grpc.Channel, uri: str) -> None:
        self._images = image_service_pb2_grpc.ImageServiceStub(channel)
        self._operations = operation_service_pb2_grpc.OperationServiceStub(channel)
        self._uri = uri
        self._stop = threading.Event()
        self.failures: list[tuple[float, str, str]] = []
        self.operations: list[str] = []
        self.imports: list[str] = []
        self.names: list[str] = []
        self.calls = 0
        kinds = [self._read] * READERS + [self._create] * CREATORS + [self._import] * IMPORTERS
        self._threads = [threading.Thread(target=self._run, args=(kind,)) for kind in kinds]

    @contextlib.contextmanager
    def running(self) -> Iterator["Load"]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _run(self, step: Callable[[], None]) -> None:
        while not self._stop.wait(PAUSE_SECONDS):
            try:
                step()
            except grpc.RpcError as error:
                self.failures.append((time.monotonic(), error.code().name, str(error.details())))

    def call(self, method: Any, request: Any, key: str = "") -> Any:
        """One call, with a deadline that a restart leaves room for."""
        self.calls += 1
        metadata = (("idempotency-key", key),) if key else ()
        return method(request, metadata=metadata, timeout=30)

    def operation(self, operation_id: str) -> Any:
        wanted = operation_service_pb2.GetOperationRequest(operation_id=operation_id)
        return self.call(self._operations.Get, wanted)

    def ended(self, operation_id: str) -> bool:
        return bool(self.operation(operation_id).done)

    def begin(self, **fields: Any) -> Any:
        name = f"image-{uuid.uuid4()}"
        self.names.append(name)
        request = image_service_pb2.CreateImageRequest(folder_id="folder", name=name, **fields)
        return self.call(self._images.Create, request, key=name)

    def listed(self) -> Iterator[Any]:
        token = ""
        while True:
            request = image_service_pb2.ListImagesRequest(
                folder_id="folder", page_size=1000, page_token=token
            )
            reply = self.call(self._images.List, request)
            yield from reply.images
            if not (token := reply.next_page_token):
                return

    def _read(self) -> None:
        request = image_service_pb2.ListImagesRequest(folder_id="folder", page_size=10)
        for image in self.call(self._images.List, request).images:
            self.call(self._images.Get, image_service_pb2.GetImageRequest(image_id=image.id))

    def _create(self) -> None:
        self.operations.append(self.begin(image_id=self.origin).id)

    def _import(self) -> None:
        operation_id = self.begin(uri=self._uri).id
        self.imports.append(operation_id)
        while not (self._stop.is_set() or self.operation(operation_id).done):
            time.sleep(0.1)

    def prepare(self) -> None:
        """The image that others are made from."""
        operation_id = self.begin(uri=self._uri).id
        until(partial(self.ended, operation_id), "the first import")
        (image,) = self.listed()
        self.origin = image.id


@pytest.mark.timeout(300)
def test_a_kill_and_a_roll_of_both_replicas_lose_no_call_and_no_operation(
    tmp_path: Path, postgres_url: str, disk: Path, source: ObjectServer
) -> None:
    authority = Authority(tmp_path / "authority")
    of_server = authority.identity(SERVER, CLIENT)
    shared = tmp_path / "shared"
    shared.mkdir()
    with contextlib.ExitStack() as stack:
        settings = {
            "DARKROOM_DATABASE_URL": stack.enter_context(database(postgres_url)),
            "DARKROOM_CONTENT_URL": f"file:{shared / 'contents'}",
            "DARKROOM_SECRET_KEY_FILE": str(shared / "secret.key"),
            "DARKROOM_DRAIN_SECONDS": str(DRAIN_SECONDS),
        }
        replicas, inbound = [], []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            replica = Installation(tmp_path / name, source.origin, **settings)
            stack.callback(replica.stop)
            replica.start()
            # It comes back where its sidecar looks for it.
            replica.listen = replica.address
            replicas.append(replica)
            document = beside_server(of_server, replica.address)
            inbound.append(stack.enter_context(running(tmp_path, f"envoy-{name}", document)))
        addresses = [each.address for each in inbound]
        document = beside_client(authority.identity(CLIENT, SERVER), *addresses)
        outbound = stack.enter_context(running(tmp_path, "envoy-client", document))
        channel = grpc.insecure_channel(outbound.address, [("grpc.enable_retries", 0)])
        stack.enter_context(channel)
        grpc.channel_ready_future(channel).result(30)
        load = Load(channel, source.url(disk.name))
        load.prepare()
        with load.running():
            for step, (number, which) in enumerate(
                ((signal.SIGKILL, 0), (signal.SIGTERM, 0), (signal.SIGTERM, 1))
            ):
                time.sleep(BETWEEN_SECONDS)
                before, replica = load.calls, replicas[which]
                if number is signal.SIGKILL:
                    inbound[which].end(number)
                    assert replica.kill(number) == -number
                else:
                    # As in a pod: what stands before the server ends after it.
                    assert replica.kill(number) == 0
                    inbound[which].end(number)
                assert load.calls > before, "the other one was not called"
                replica.start()
                document = beside_server(of_server, replica.address, listen=addresses[which])
                again = running(tmp_path, f"envoy-again-{step}", document)
                inbound[which] = stack.enter_context(again)
            time.sleep(BETWEEN_SECONDS)
        assert load.failures == []
        ids = [*load.operations, *load.imports]
        assert len(load.operations) > 50 and len(load.imports) > 5
        for operation_id in ids:
            until(partial(load.ended, operation_id), "its end")
            assert not load.operation(operation_id).HasField("error"), load.operation(operation_id)
        # Each was made, and once.
        assert sorted(each.name for each in load.listed()) == sorted(load.names)
        print(f"{load.calls} calls, {len(load.operations)} creations, {len(load.imports)} imports")
