"""Disks that are full: what is refused, what goes on, and that room is all that is needed then."""

import contextlib
import errno
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from api.client import Refused, answered
from campaign.places import sources
from darkroom_pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2
from darkroom_pb.yandex.cloud.operation import operation_pb2
from installation import Installation, until
from object_server import ObjectServer

_MOUNT = 'mount -t tmpfs -o "$0" none "$1" && shift && exec "$@"'
_NAMESPACES = ("unshare", "--map-root-user", "--mount")


@pytest.fixture
def source(tmp_path: Path) -> Iterator[ObjectServer]:
    if subprocess.run([*_NAMESPACES, "true"], check=False, capture_output=True).returncode:
        pytest.skip("a file system of its own needs user namespaces")
    with sources(tmp_path / "objects") as running:
        yield running


class SmallDisk:
    """An installation one folder of which is a small file system of its own."""

    def __init__(self, folder: Path, source: ObjectServer, place: str, options: str) -> None:
        self.darkroom = Installation(folder, source.origin)
        self._source = source
        self._place = self.darkroom.data / place
        self._place.mkdir(parents=True)
        self.darkroom.prefix = [*_NAMESPACES, "sh", "-c", _MOUNT, options, str(self._place)]

    @contextlib.contextmanager
    def running(self) -> Iterator[Installation]:
        try:
            self.darkroom.start()
            yield self.darkroom
        finally:
            self.darkroom.stop()

    def seen(self, path: Path) -> Path:
        """A path inside of its namespace, from outside."""
        assert self.darkroom.process is not None
        return Path(f"/proc/{self.darkroom.process.pid}/root{path}")

    @property
    def _filler(self) -> Path:
        return self.seen(self._place) / "filler"

    def fill(self) -> None:
        with self._filler.open("ab", buffering=0) as file:
            _until_full(lambda: file.write(bytes(64 * 1024)))

    def use_up_names(self) -> None:
        self._filler.mkdir()
        names = map(str, itertools.count())
        _until_full(lambda: (self._filler / next(names)).touch())

    def make_room(self) -> None:
        if self._filler.is_dir():
            for path in self._filler.iterdir():
                path.unlink()
            self._filler.rmdir()
        else:
            self._filler.unlink()

    def begin(self) -> operation_pb2.Operation:
        return self.darkroom.create(self._source.url("first.raw"))

    def imported(self, operation_id: str) -> image_pb2.Image:
        image = image_pb2.Image()
        operation = self.darkroom.done(operation_id)
        assert operation.response.Unpack(image), operation
        assert image.status == image_pb2.Image.READY
        return image

    def assert_sound(self) -> None:
        """Every content is whole, and nothing is left in the scratch folder."""
        data = self.darkroom.data
        scratch = self.seen(data / "contents.scratch")
        until(lambda: not list(scratch.iterdir()), "the scratch folder to be empty")
        assert self.darkroom.process is not None
        inside = ["nsenter", "--target", str(self.darkroom.process.pid), "--user", "--mount"]
        fsck = [sys.executable, "-m", "darkroom", "fsck", "--tables", "--data-dir", str(data)]
        subprocess.run([*inside, "--preserve-credentials", *fsck], check=True)

    def retried(self) -> list[str]:
        """Why attempts were put off so far."""
        lines = self.darkroom.log_lines()
        return [line["reason"] for line in lines if line["event"] == "operation will be retried"]


def _until_full(act: Callable[[], object]) -> None:
    full = False
    while not full:
        try:
            act()
        except OSError as error:
            full = error.errno == errno.ENOSPC


def derived(image_id: str) -> image_service_pb2.CreateImageRequest:
    return image_service_pb2.CreateImageRequest(folder_id="folder", image_id=image_id)


def test_a_full_data_folder_refuses_changes_and_nothing_else(
    tmp_path: Path, source: ObjectServer
) -> None:
    small = SmallDisk(tmp_path, source, "", "size=24m,mode=700")
    with small.running() as darkroom:
        assert darkroom.channel is not None
        health = health_pb2_grpc.HealthStub(darkroom.channel)

        def state() -> int:
            return int(health.Check(health_pb2.HealthCheckRequest()).status)

        first = small.imported(small.begin().id)
        darkroom.arm("import.fetch")
        waiting = small.begin()
        darkroom.wait_hit("import.fetch")
        small.fill()
        made: list[str] = []
        refusals: list[Refused] = []

        def full() -> bool:
            """What the database has of its own it uses up first."""
            answer = answered(lambda: darkroom.images.Create(derived(first.id)))
            if isinstance(answer, Refused):
                refusals.append(answer)
            else:
                made.append(answer.id)
            return bool(state() == health_pb2.HealthCheckResponse.NOT_SERVING)

        until(full, "NOT_SERVING")
        for told in refusals:
            assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_FULL")
            assert told.detail(error_details_pb2.RetryInfo).retry_delay.seconds == 30
        assert refusals
        assert darkroom.image(first.id) == first
        darkroom.let_go("import.fetch")
        worker = darkroom.worker()
        until(lambda: "storage out of reach" in darkroom.log_text(), "the worker to come to it")
        assert not darkroom.operation(waiting.id).done

        small.make_room()
        until(lambda: state() == health_pb2.HealthCheckResponse.SERVING, "SERVING again")
        second = small.imported(waiting.id)
        assert darkroom.worker() == worker
        assert {each.id for each in darkroom.listed()} >= {first.id, second.id}
        assert len(darkroom.listed()) == 2 + len(made)
        assert all(darkroom.operation(each).done for each in made)
        small.assert_sound()


@pytest.mark.parametrize("lack", ["bytes", "names"])
def test_a_full_scratch_folder_puts_imports_off_and_nothing_else(
    tmp_path: Path, source: ObjectServer, lack: str
) -> None:
    # Another file system than that of the contents, so what is published is copied.
    small = SmallDisk(tmp_path, source, "contents.scratch", "size=8m,nr_inodes=100,mode=700")
    with small.running() as darkroom:
        first = small.imported(small.begin().id)
        (small.fill if lack == "bytes" else small.use_up_names)()
        waiting = small.begin()
        until(small.retried, "the attempt to be put off")
        assert small.retried() == ["STORAGE_FULL"]
        assert darkroom.images.Create(derived(first.id)).done
        assert [each.status for each in darkroom.listed()].count(image_pb2.Image.READY) == 2
        small.make_room()
        small.imported(waiting.id)
        small.assert_sound()
        assert "exception" not in darkroom.log_text()
