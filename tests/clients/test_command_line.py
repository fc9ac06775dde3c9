"""The commands beside `serve`: wait, migrate, work."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from darkroom.storage import migrations
from installation import Installation, installation, until
from object_server import ObjectServer


def darkroom_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "darkroom", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_wait_returns_once_the_server_serves(darkroom: Installation) -> None:
    assert darkroom_command("wait", "--listen", darkroom.address).returncode == 0
    darkroom.kill()
    refused = darkroom_command("wait", "--listen", darkroom.address, "--timeout", "0.3")
    assert refused.returncode == 1
    assert f"{darkroom.address} is not serving" in refused.stderr


def test_migrate_brings_a_new_database_up_and_refuses_one_from_the_future(tmp_path: Path) -> None:
    first = darkroom_command("migrate", "--data-dir", str(tmp_path))
    told = f"schema version {migrations.latest()}\n"
    assert (first.returncode, first.stdout) == (0, told), first.stderr
    with sqlite3.connect(tmp_path / "metadata.sqlite") as connection:
        connection.execute("PRAGMA user_version = 999")
        connection.execute("UPDATE schema_version SET oldest_program = 999")
    connection.close()
    second = darkroom_command("migrate", "--data-dir", str(tmp_path))
    assert second.returncode == 1
    assert "run a newer Darkroom" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize(
    "command", [["serve"], ["work"], ["migrate"], ["image", "export", "id", "out.qcow2"]]
)
@pytest.mark.parametrize("fault", ["not a database", "database is a folder", "no folder"])
def test_a_database_that_cannot_be_used_is_named_without_a_traceback(
    tmp_path: Path, command: list[str], fault: str
) -> None:
    file = tmp_path / "metadata.sqlite"
    match fault:
        case "not a database":
            file.write_bytes(b"\x7f" * 8192)
        case "database is a folder":
            file.mkdir()
        case "no folder":
            file = tmp_path / "file" / "metadata.sqlite"
            file.parent.write_bytes(b"")
    refused = darkroom_command(*command, "--data-dir", str(file.parent))
    assert refused.returncode == 1
    assert refused.stderr.startswith("darkroom: ") and refused.stderr.count("\n") == 1
    assert str(file.parent) in refused.stderr


def test_export_from_a_mistyped_folder_makes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "mistyped"
    refused = darkroom_command(
        "image", "export", "--data-dir", str(folder), "id", str(tmp_path / "out.qcow2")
    )
    assert refused.returncode == 1
    assert "metadata.sqlite does not exist" in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("port", ["-5", "99999", "s3"])
def test_a_storage_port_that_is_none_is_refused_at_once(tmp_path: Path, port: str) -> None:
    refused = darkroom_command("dev", "--data-dir", str(tmp_path / "dev"), f"--storage-port={port}")
    assert refused.returncode == 2
    assert "--storage-port: must be 0 to 65535" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_worker_of_its_own_works_for_a_server_without_one(
    tmp_path: Path, source: ObjectServer, disk: Path
) -> None:
    with installation(tmp_path, source.origin, DARKROOM_WORKERS="0") as darkroom:
        assert darkroom.workers() == []
        operation_id = darkroom.create(source.url(disk.name)).id
        environment = {
            "DARKROOM_DATA_DIR": str(darkroom.data),
            "DARKROOM_SOURCE_ALLOW": source.origin + "/",
        }
        worker = subprocess.Popen(
            [sys.executable, "-m", "darkroom", "work"],
            env={**os.environ, **environment},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert darkroom.done(operation_id).HasField("response")
        finally:
            worker.send_signal(signal.SIGTERM)
            status = worker.wait(10)
        assert status == 0


def test_draining_is_told_before_the_end_and_running_imports_go_back(
    darkroom: Installation, source: ObjectServer, disk: Path
) -> None:
    assert darkroom.process is not None and darkroom.channel is not None
    watch = health_pb2_grpc.HealthStub(darkroom.channel).Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    source.bytes_per_second = 100_000
    darkroom.create(source.url(disk.name))
    until(darkroom.scratch, "the import to begin")
    darkroom.process.send_signal(signal.SIGTERM)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert darkroom.process.wait(20) == 0
    events = [line["event"] for line in darkroom.log_lines()]
    assert events.index("draining") < events.index("stopped")
    outcomes = [line["outcome"] for line in darkroom.log_lines() if "outcome" in line]
    assert outcomes == ["draining"]
    until(lambda: darkroom.scratch() == [], "the scratch folder to be empty")


def test_help_of_dev_shows_that_it_needs_no_action() -> None:
    shown = darkroom_command("dev", "--help")
    assert shown.returncode == 0
    assert "[ACTION] ..." in shown.stdout.partition("\n\n")[0]
