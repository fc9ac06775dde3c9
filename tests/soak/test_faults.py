"""Faults as long as real ones: a database gone for half a minute, a storage that stalls.

And that fsck finds none where there is none, with both of them.
"""

import time
from pathlib import Path

import grpc
import pytest

from api.client import Refused, answered
from content_storage import FaultyProxy, Storage, first
from darkroom.cli.main import main
from darkroom_pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2
from database_server import database, database_server
from durability.test_fsck import Fsck, examine_under_load
from durability.test_s3 import assert_clean, imported, settings
from installation import installation, until
from object_server import ObjectServer

GONE_SECONDS = 30.0
IMPORTS = 6


def test_a_database_gone_for_half_a_minute_costs_only_time(
    tmp_path: Path, source: ObjectServer, disk: Path
) -> None:
    with database_server(durable=True) as server, database(server.url()) as url:
        chosen = {"DARKROOM_DATABASE_URL": url, "DARKROOM_WORKERS": "2"}
        with installation(tmp_path, source.origin, **chosen) as darkroom:
            source.bytes_per_second = 1_000_000
            begun = [darkroom.create(source.url(disk.name)).id for _ in range(IMPORTS)]
            workers = set(until(darkroom.workers, "the workers"))
            until(lambda: len(darkroom.scratch()) == 2, "two imports to be under way")
            server.stop()
            request = image_service_pb2.CreateImageRequest(
                folder_id="folder", uri=source.url(disk.name)
            )
            metadata = (("idempotency-key", "sent again and again"),)
            end = time.monotonic() + GONE_SECONDS
            while time.monotonic() < end:
                told = answered(
                    lambda: darkroom.images.Create(request, metadata=metadata, timeout=10)
                )
                assert isinstance(told, Refused), told
                assert told.code is grpc.StatusCode.UNAVAILABLE
                assert told.reason == "STORE_BUSY"
                time.sleep(0.5)
            source.bytes_per_second = 0
            server.start()

            def sent() -> str:
                told = answered(lambda: darkroom.images.Create(request, metadata=metadata))
                return "" if isinstance(told, Refused) else told.id

            begun.append(until(sent, "the call to be answered"))
            for operation_id in begun:
                image = image_pb2.Image()
                operation = darkroom.done(operation_id)
                assert operation.response.Unpack(image), operation
            assert len(darkroom.listed()) == len(begun)
            until(lambda: not darkroom.scratch(), "an empty scratch folder")
            assert set(darkroom.workers()) == workers, "nobody had to be started again"
            place = ["--data-dir", str(darkroom.data), "--database-url", url]
            assert main(["fsck", "--tables", *place]) == 0


def test_a_storage_that_stalls_is_asked_again(
    tmp_path: Path, source: ObjectServer, storage: Storage, prefix: str, disk: Path
) -> None:
    """With the limits that users have: taking nothing for ten seconds counts as a stall."""
    with FaultyProxy(storage).running() as proxy:
        stall = first(lambda request: request.is_part, lambda request: request.stall(1 << 20))
        proxy.begin(stall)
        chosen = settings(storage, prefix, proxy.port)
        with installation(tmp_path, source.origin, **chosen) as darkroom:
            stuck = darkroom.create(source.url(disk.name))
            assert proxy.stalled.wait(30)
            other = darkroom.create(source.url(disk.name))
            assert darkroom.cancel(other.id).done
            operation = until(
                lambda: (seen := darkroom.operation(stuck.id)).done and seen, "its end", 120.0
            )
            imported(operation)
            lines = darkroom.log_lines()
            assert not [line for line in lines if line["event"] == "operation will be retried"]
            assert_clean(darkroom, storage, prefix, 1)


def test_load_is_no_alarm_on_postgresql_and_object_storage(
    tmp_path: Path,
    source: ObjectServer,
    storage: Storage,
    prefix: str,
    disk: Path,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with database(postgres_url) as url:
        chosen = {"DARKROOM_DATABASE_URL": url, **settings(storage, prefix)}
        for name, value in chosen.items():
            monkeypatch.setenv(name, value)
        with installation(tmp_path, source.origin, DARKROOM_WORKERS="2", **chosen) as darkroom:
            examine_under_load(darkroom, source.url(disk.name), Fsck(capsys, darkroom.data))
