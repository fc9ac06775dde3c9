"""The yardstick: the same grpcio, the same threads, handlers that do next to nothing.

Get and List answer an empty message. Create commits the rows that Darkroom commits, with the
same statements on the same file system, and answers an empty Operation.
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path

import grpc

from darkroom.config import Settings
from darkroom.domain.audit import AuditEntry
from darkroom.domain.ids import new_id
from darkroom.domain.image import Image, Status
from darkroom.domain.operation import IMAGE_CREATE, Operation, State
from darkroom.storage import rows
from darkroom.storage.sqlite import DIALECT, SqliteStore
from darkroom_pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2, image_service_pb2_grpc
from darkroom_pb.yandex.cloud.operation import operation_pb2
from measure import scratch


class Bare(image_service_pb2_grpc.ImageServiceServicer):
    """No validation, no metadata, no log line, no permission, no conversion."""

    def __init__(self, folder: Path) -> None:
        store = SqliteStore(folder / "bare.sqlite")
        store.migrate()
        self._connection = store._connect()
        self._lock = threading.Lock()
        image = Image("", "bench", 1, Status.READY, size_bytes=1 << 30)
        self._image = (*rows.resource_row(image), image.NOUN)
        operation = Operation(
            "", IMAGE_CREATE, "bench", "", 1, "nobody", 1, State.DONE, response=image.to_record()
        )
        self._operation = (*rows.operation_row(operation), 0, "", "")
        self._audit = astuple(AuditEntry(1, "userAccount", "nobody", IMAGE_CREATE, "OK"))[:-1]

    def Get(self, request: object, context: object) -> image_pb2.Image:
        return image_pb2.Image()

    def List(self, request: object, context: object) -> image_service_pb2.ListImagesResponse:
        return image_service_pb2.ListImagesResponse()

    def Create(self, request: object, context: object) -> operation_pb2.Operation:
        with self._lock:
            execute = self._connection.execute
            execute("BEGIN IMMEDIATE")
            execute(rows.INSERT_RESOURCE, (new_id(), *self._image[1:]))
            execute(DIALECT.insert_operation, (new_id(), *self._operation[1:]))
            execute(rows.INSERT_AUDIT, (*self._audit, new_id()))
            execute("COMMIT")
        return operation_pb2.Operation()


def main() -> None:
    with scratch() as folder:
        server = grpc.server(
            ThreadPoolExecutor(Settings().rpc_threads),
            options=[("grpc.max_concurrent_streams", 100), ("grpc.so_reuseport", 0)],
        )
        bare = Bare(folder)  # type: ignore[abstract]  # the others are not measured
        image_service_pb2_grpc.add_ImageServiceServicer_to_server(bare, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        print(f"127.0.0.1:{port}", flush=True)
        sys.stdin.read()
        server.stop(None).wait()


if __name__ == "__main__":
    main()
