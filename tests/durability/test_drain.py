"""What SIGTERM does to calls and to operations under way."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from api.client import refused
from darkroom.api.health import LIVENESS
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2
from installation import PATIENCE_SECONDS, Installation, installation, until
from log_schema import check_all
from object_server import ObjectServer

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
HAND_OVER_SECONDS = 2.0


def events(darkroom: Installation) -> list[str]:
    return [line["event"] for line in darkroom.log_lines()]


@contextlib.contextmanager
def write_lock(darkroom: Installation) -> Iterator[None]:
    """Nobody can write in the block."""
    database = sqlite3.connect(darkroom.data / "metadata.sqlite", isolation_level=None)
    with contextlib.closing(database):
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


def test_a_server_that_ends_first_says_so_then_refuses_then_finishes(tmp_path: Path) -> None:
    with installation(tmp_path, "http://127.0.0.1:1", DARKROOM_DRAIN_SECONDS="2") as darkroom:
        assert darkroom.process is not None and darkroom.channel is not None
        until(lambda: "working" in events(darkroom), "the worker to look for work")
        check = health_pb2_grpc.HealthStub(darkroom.channel).Check
        anything = health_pb2.HealthCheckRequest()
        blank = image_service_pb2.CreateImageRequest(folder_id="folder", uri="http://127.0.0.1:1/x")
        darkroom.process.send_signal(signal.SIGTERM)
        until(lambda: check(anything).status == NOT_SERVING, "health to say so")
        # Whoever has not heard of it yet is served, but the worker begins nothing any more.
        assert darkroom.images.Create(blank).id
        with write_lock(darkroom):
            slow = darkroom.images.Create.future(blank)
            # The connection is in order, so the call above has arrived before this one.
            assert len(darkroom.listed()) == 1
            assert "refusing calls" not in events(darkroom)
            until(lambda: "refusing calls" in events(darkroom), "the wait to be over")
            told = refused(darkroom.listed)
            assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
            assert told.detail(error_details_pb2.RetryInfo).retry_delay.seconds == 1
            assert told.trailers["grpc-retry-pushback-ms"] == "1000"
            assert check(anything).status == NOT_SERVING
            assert check(health_pb2.HealthCheckRequest(service=LIVENESS)).status == SERVING
            assert not slow.done()
        assert slow.result(PATIENCE_SECONDS).id
        assert darkroom.process.wait(PATIENCE_SECONDS) == 0
        order = [each for each in events(darkroom) if each in ("draining", "refusing calls")]
        assert order == ["draining", "refusing calls"]
        assert "operation claimed" not in events(darkroom)


def test_calls_that_outlive_the_grace_are_cut_off(tmp_path: Path) -> None:
    settings = {"DARKROOM_GRACE_SECONDS": "0.2", "DARKROOM_WORKERS": "0"}
    with installation(tmp_path, "http://127.0.0.1:1", **settings) as darkroom:
        assert darkroom.process is not None
        blank = image_service_pb2.CreateImageRequest(folder_id="folder", uri="http://127.0.0.1:1/x")
        with write_lock(darkroom):
            slow = darkroom.images.Create.future(blank)
            # The connection is in order, so the call above has arrived before this one.
            assert darkroom.listed() == []
            assert darkroom.kill(signal.SIGTERM) == 0
        assert slow.exception(PATIENCE_SECONDS) is not None
        (line,) = [each for each in darkroom.log_lines() if each["event"].startswith("calls are")]
        assert line["level"] == "warning"


def test_an_import_goes_to_another_worker_when_its_server_is_told_to_end(
    tmp_path: Path, source: ObjectServer, disk: Path
) -> None:
    # Nothing is handed over by a lease that expires.
    settings = {"DARKROOM_LEASE_SECONDS": "60", "DARKROOM_DRAIN_SECONDS": "0.5"}
    with installation(tmp_path, source.origin, **settings) as darkroom:
        darkroom.worker()
        source.bytes_per_second = 100_000
        operation_id = darkroom.create(source.url(disk.name)).id
        until(lambda: "operation claimed" in events(darkroom), "the import to begin")
        with other_worker(darkroom, source, settings) as log:
            status = darkroom.kill(signal.SIGTERM)
            claimed = until(lambda: claims(log), "the other worker to claim it")[0]
            asked = next(each for each in darkroom.log_lines() if each["event"] == "draining")
            assert status == 0
            assert claimed["operation_id"] == operation_id
            # Handed over is not failed: as many attempts are left as before.
            assert claimed["attempt"] == 1 and claimed["fence"] == 2
            moments = [datetime.fromisoformat(each["time"]) for each in (asked, claimed)]
            assert (moments[1] - moments[0]).total_seconds() < HAND_OVER_SECONDS
            source.bytes_per_second = 0.0
            darkroom.start()
            assert not darkroom.done(operation_id).HasField("error")


@contextlib.contextmanager
def other_worker(
    darkroom: Installation, source: ObjectServer, settings: dict[str, str]
) -> Iterator[Path]:
    """`darkroom work` on the same data; gives its log."""
    log = darkroom.folder / "work.log"
    environment = {
        **os.environ,
        **settings,
        "DARKROOM_DATA_DIR": str(darkroom.data),
        "DARKROOM_SOURCE_ALLOW": f"{source.origin}/",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "darkroom", "work"], env=environment, stderr=output
        )
    try:
        until(lambda: '"working"' in log.read_text(), "the other worker to work")
        yield log
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)
    check_all(log.read_text())


def claims(log: Path) -> list[dict[str, Any]]:
    whole = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in map(json.loads, whole) if line["event"] == "operation claimed"]
