"""A whole installation on PostgreSQL, whose server is late, dies, freezes and comes back."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from api.client import refused
from darkroom.domain.errors import Failure
from darkroom.domain.image import Image
from darkroom.storage.postgres import PostgresStore
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2, image_service_pb2_grpc
from database_server import DatabaseServer, database, database_server
from durability.test_kill import assert_imported_once
from installation import Installation, installation, until
from log_schema import check_all
from object_server import ObjectServer

PASSWORD = "c0ffee5eed"


@pytest.fixture(scope="module")
def server() -> Iterator[DatabaseServer]:
    """A server that keeps what it acknowledged when it is killed."""
    with database_server(durable=True) as running:
        yield running


@pytest.fixture
def url(server: DatabaseServer) -> Iterator[str]:
    """A database on it; nobody is asked for the password, but it must be seen nowhere."""
    with database(server.url()) as made:
        yield made.replace("darkroom@", f"darkroom:{PASSWORD}@")


def assert_unavailable(act: Callable[[], object]) -> None:
    """A call is refused, with details that say when to repeat it."""
    failed = refused(act)
    assert failed.code is grpc.StatusCode.UNAVAILABLE
    assert failed.detail(error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
    assert PASSWORD not in str(failed)


def arguments_of_everybody() -> str:
    """What `ps` shows of every process."""
    shown = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            shown += path.read_bytes()
    return shown.decode(errors="replace")


def test_an_import_outlives_the_death_of_the_database(
    server: DatabaseServer, url: str, source: ObjectServer, disk: Path, tmp_path: Path
) -> None:
    with installation(tmp_path, source.origin, DARKROOM_DATABASE_URL=url) as darkroom:
        source.bytes_per_second = 2_000_000
        created = darkroom.create(source.url(disk.name), metadata=(("idempotency-key", "k"),))
        until(darkroom.scratch, "the import to begin")
        assert PASSWORD not in arguments_of_everybody()
        server.kill()
        started = time.monotonic()
        assert_unavailable(lambda: darkroom.operation(created.id))
        assert_unavailable(lambda: darkroom.create(source.url(disk.name), name="other"))
        assert time.monotonic() - started < 5.0, "told at once, not after a time limit"
        source.bytes_per_second = 0
        server.start()
        again = darkroom.create(source.url(disk.name), metadata=(("idempotency-key", "k"),))
        assert again.id == created.id
        assert_imported_once(darkroom, darkroom.done(created.id), disk, tmp_path)
        assert darkroom.kill(signal.SIGTERM) == 0
        assert PASSWORD not in darkroom.log_text()
    with psycopg.connect(url) as connection:
        held = "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'darkroom'"
        (count,) = connection.execute(held).fetchone() or (None,)
    assert count == 0


def test_a_server_starts_before_its_database(
    server: DatabaseServer, url: str, source: ObjectServer, disk: Path, tmp_path: Path
) -> None:
    server.kill()
    darkroom = Installation(tmp_path, source.origin, DARKROOM_DATABASE_URL=url)

    def listening() -> str:
        lines = darkroom.log_lines() if darkroom.log_path.exists() else []
        return next((str(each["listen"]) for each in lines if each["event"] == "listening"), "")

    with ThreadPoolExecutor(1) as pool:
        try:
            started = pool.submit(darkroom.start)
            with grpc.insecure_channel(until(listening, "the listener")) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                images = image_service_pb2_grpc.ImageServiceStub(channel)
                state = health.Check(health_pb2.HealthCheckRequest()).status
                assert state == health_pb2.HealthCheckResponse.NOT_SERVING
                get = image_service_pb2.GetImageRequest(image_id="fd8image")
                assert_unavailable(lambda: images.Get(get))
        finally:
            server.start()
        started.result()
    try:
        operation = darkroom.done(darkroom.create(source.url(disk.name)).id)
        assert_imported_once(darkroom, operation, disk, tmp_path)
    finally:
        darkroom.stop()


def test_a_worker_with_another_key_claims_nothing_and_says_why(
    url: str, source: ObjectServer, disk: Path, tmp_path: Path
) -> None:
    settings = {"DARKROOM_DATABASE_URL": url, "DARKROOM_WORKERS": "0"}
    with installation(tmp_path, source.origin, **settings) as darkroom:
        created = darkroom.create(source.url(disk.name))
        stranger = Worker(tmp_path / "stranger", url, source.origin)
        with stranger.running():
            until(lambda: "does not hold the key" in stranger.log_text(), "the reason")
            assert not darkroom.operation(created.id).done
            assert "operation claimed" not in stranger.log_text()
            # With the right file another one does the work, beside it.
            key = tmp_path / "data" / "secret.key"
            with Worker(tmp_path / "data", url, source.origin, key).running():
                operation = darkroom.done(created.id)
            assert "operation claimed" not in stranger.log_text()
        assert_imported_once(darkroom, operation, disk, tmp_path)
    # And an API process that would seal with another key does not start.
    ended = subprocess.run(
        [sys.executable, "-m", "darkroom", "serve", "--listen", "127.0.0.1:0"],
        env=stranger.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "the secret key file does not hold key" in ended.stderr


class Worker:
    """`darkroom work` in a data folder, with a log of its own."""

    def __init__(self, data: Path, url: str, origin: str, key: Path | None = None) -> None:
        data.mkdir(exist_ok=True)
        self.log = data.with_name(f"{data.name}.worker.log")
        self.environment = {
            **os.environ,
            "DARKROOM_DATA_DIR": str(data),
            "DARKROOM_DATABASE_URL": url,
            "DARKROOM_SECRET_KEY_FILE": str(key or data / "secret.key"),
            "DARKROOM_SOURCE_ALLOW": origin + "/",
            "DARKROOM_TLS_LISTEN": "",
        }

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "darkroom", "work"], env=self.environment, stderr=log
            )
        try:
            yield
        finally:
            process.terminate()
            assert process.wait(30) == 0
        check_all(self.log_text())


def test_a_frozen_database_stops_nobody_for_long(server: DatabaseServer, url: str) -> None:
    with contextlib.closing(
        PostgresStore(url, busy_seconds=1.0, patience_seconds=1.0, max_connections=4)
    ) as store:
        store.migrate()
        store.wait_for_work()
        server.freeze()
        try:
            # Those that ask first wait for their patience, those that come then for nobody.
            asked = [threading.Thread(target=_asked, args=(store,)) for _ in range(8)]
            for thread in asked:
                thread.start()
            for thread in asked:
                thread.join(20)
                assert not thread.is_alive()
            busy = threading.Thread(target=_asked, args=(store,))
            busy.start()
            for _ in range(3):
                started = time.monotonic()
                _asked(store)
                assert time.monotonic() - started < 5.0
            busy.join()
        finally:
            server.thaw()
        until(store.writable, "the store to answer again")
        assert store.get(Image, "fd8") is None


def _asked(store: PostgresStore) -> None:
    with pytest.raises(Failure) as told:
        store.get(Image, "fd8")
    assert told.value.reason == "STORE_BUSY"
