"""Workers and servers killed, frozen and cancelled at every step of an import."""

import os
import signal
from pathlib import Path

import grpc
import pytest

from darkroom_pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2
from darkroom_pb.yandex.cloud.operation import operation_pb2
from installation import Installation, alive, descendants, same_content, until
from object_server import ObjectServer

PHASES = ("import.fetch", "import.inspect", "import.convert", "import.publish", "import.published")
POINTS = (*PHASES, "operation.finish", "operation.finished")
READY = image_pb2.Image.READY


def image_id_of(operation: operation_pb2.Operation) -> str:
    metadata = image_service_pb2.CreateImageMetadata()
    assert operation.metadata.Unpack(metadata)
    return metadata.image_id


def assert_imported_once(
    darkroom: Installation, operation: operation_pb2.Operation, disk: Path, tmp_path: Path
) -> None:
    """READY with the right bytes, and nothing else left in the data folder."""
    image = image_pb2.Image()
    assert operation.response.Unpack(image), operation
    assert image.status == READY
    assert [each.id for each in darkroom.listed()] == [image.id]
    until(lambda: darkroom.scratch() == [], "the scratch folder to be empty")
    until(lambda: len(darkroom.contents()) == 1, "exactly one content")
    exported = tmp_path / "exported.qcow2"
    darkroom.export(image.id, exported)
    assert same_content(disk, "qcow2", exported, "qcow2")


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_killed_at_any_step_is_replaced_and_the_import_ends_once(
    darkroom: Installation, source: ObjectServer, disk: Path, tmp_path: Path, point: str
) -> None:
    darkroom.arm(point)
    operation_id = darkroom.create(source.url(disk.name)).id
    darkroom.wait_hit(point)
    victim = darkroom.worker()
    below = descendants(victim)
    os.kill(victim, signal.SIGKILL)
    operation = darkroom.done(operation_id)
    assert_imported_once(darkroom, operation, disk, tmp_path)
    assert not [pid for pid in (victim, *below) if alive(pid)]
    assert darkroom.operation(operation_id) == operation


@pytest.mark.parametrize("point", [*PHASES, "operation.finish"])
def test_a_cancel_at_any_step_removes_the_image(
    darkroom: Installation, source: ObjectServer, disk: Path, point: str
) -> None:
    darkroom.arm(point)
    created = darkroom.create(source.url(disk.name))
    darkroom.wait_hit(point)
    darkroom.cancel(created.id)
    darkroom.let_go(point)
    operation = darkroom.done(created.id)
    assert operation.error.code == grpc.StatusCode.CANCELLED.value[0]
    with pytest.raises(grpc.RpcError) as gone:
        darkroom.image(image_id_of(created))
    assert gone.value.code() is grpc.StatusCode.NOT_FOUND
    assert darkroom.listed() == []
    until(lambda: darkroom.scratch() == [], "the scratch folder to be empty")
    until(lambda: darkroom.contents() == [], "no content")


def test_a_cancel_stops_a_slow_download_and_a_running_conversion(
    darkroom: Installation, source: ObjectServer, disk: Path
) -> None:
    source.bytes_per_second = 100_000
    created = darkroom.create(source.url(disk.name))
    until(
        lambda: any(
            path.name == "source" for each in darkroom.scratch() for path in each.iterdir()
        ),
        "the download to begin",
    )
    assert not darkroom.cancel(created.id).done
    operation = until(
        lambda: (ended := darkroom.operation(created.id)).done and ended, "the end", seconds=5.0
    )
    assert operation.error.code == grpc.StatusCode.CANCELLED.value[0]
    assert descendants(darkroom.worker()) == []


def test_serve_killed_leaves_no_process_and_loses_no_operation(
    darkroom: Installation, source: ObjectServer, disk: Path, tmp_path: Path
) -> None:
    assert darkroom.process is not None
    darkroom.arm("import.convert")
    operation_id = darkroom.create(source.url(disk.name)).id
    darkroom.wait_hit("import.convert")
    below = descendants(darkroom.process.pid)
    assert below
    darkroom.kill()
    until(lambda: not [pid for pid in below if alive(pid)], "the worker to die with it", 5.0)
    darkroom.start()
    assert_imported_once(darkroom, darkroom.done(operation_id), disk, tmp_path)


def test_serve_killed_takes_a_frozen_worker_with_it(darkroom: Installation) -> None:
    worker = darkroom.worker()
    until(lambda: "working" in [line["event"] for line in darkroom.log_lines()], "the worker")
    os.kill(worker, signal.SIGSTOP)
    darkroom.kill()
    until(lambda: not alive(worker), "the frozen worker to die", 5.0)


def test_a_frozen_worker_is_replaced_and_its_work_goes_on(
    darkroom: Installation, source: ObjectServer, disk: Path, tmp_path: Path
) -> None:
    darkroom.arm("import.inspect")
    operation_id = darkroom.create(source.url(disk.name)).id
    darkroom.wait_hit("import.inspect")
    frozen = darkroom.worker()
    os.kill(frozen, signal.SIGSTOP)
    operation = darkroom.done(operation_id)
    assert not alive(frozen)
    assert_imported_once(darkroom, operation, disk, tmp_path)


def test_a_worker_that_dies_idle_is_replaced(
    darkroom: Installation, source: ObjectServer, disk: Path, tmp_path: Path
) -> None:
    os.kill(darkroom.worker(), signal.SIGKILL)
    operation = darkroom.done(darkroom.create(source.url(disk.name)).id)
    assert_imported_once(darkroom, operation, disk, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_in_order_and_the_import_goes_on_after_a_restart(
    darkroom: Installation,
    source: ObjectServer,
    disk: Path,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    assert darkroom.process is not None
    source.bytes_per_second = 100_000
    operation_id = darkroom.create(source.url(disk.name)).id
    until(darkroom.scratch, "the import to begin")
    below = descendants(darkroom.process.pid)
    assert darkroom.kill(number) == 0
    assert not [pid for pid in below if alive(pid)]
    assert darkroom.scratch() == []
    source.bytes_per_second = 0
    darkroom.start()
    # Given back, not expired: nobody had to wait for the lease.
    assert_imported_once(darkroom, darkroom.done(operation_id), disk, tmp_path)


def test_an_import_whose_url_was_sealed_with_a_lost_key_ends_with_advice(
    darkroom: Installation, source: ObjectServer, disk: Path
) -> None:
    source.bytes_per_second = 100_000
    created = darkroom.create(source.url(disk.name))
    until(darkroom.scratch, "the import to begin")
    darkroom.kill()
    (key,) = darkroom.folder.rglob("secret.key")
    key.unlink()  # the next start makes a fresh one
    darkroom.start()
    operation = darkroom.done(created.id)
    assert operation.error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert "key" in operation.error.message
    assert darkroom.image(image_id_of(created)).status == image_pb2.Image.ERROR
