"""What making an image, a disk or a snapshot from 10 GiB costs beside making it from 1 MiB.

One server without workers, whose contents are real files: one of 1 MiB, and one of 10 GiB with
256 MiB of data in it. Calls with either source alternate; each must be done in its first reply.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc

from darkroom.domain.content import Content
from darkroom.domain.disk import Disk
from darkroom.domain.ids import new_id
from darkroom.domain.image import Image, Status
from darkroom.domain.places import DEFAULT_ZONES
from darkroom.domain.resource import Resource
from darkroom.domain.snapshot import Snapshot
from darkroom.storage.port import Transaction
from darkroom.storage.sqlite import SqliteStore
from darkroom_pb.yandex.cloud.compute.v1 import (
    disk_service_pb2,
    disk_service_pb2_grpc,
    image_service_pb2,
    image_service_pb2_grpc,
    snapshot_service_pb2,
    snapshot_service_pb2_grpc,
)
from darkroom_pb.yandex.cloud.operation import operation_pb2
from measure import Ratio, report, running, scratch, server_command

FOLDER = "bench"
MIB = 1 << 20
SMALL_BYTES, LARGE_BYTES = MIB, 10 * 1024 * MIB
LARGE_DATA_BYTES = 256 * MIB
GOAL = 1.2

Sources = dict[type[Resource], Resource]
"""One resource of each kind, all with the same content."""


def make_content(folder: Path, size_bytes: int, data_bytes: int) -> Content:
    """A qcow2 of random bytes, the rest of it a hole."""
    raw, content_id = folder / "raw", f"{new_id()}.1"
    with raw.open("wb") as file:
        for _ in range(data_bytes // MIB):
            file.write(os.urandom(MIB))
        file.truncate(size_bytes)
    path = folder / f"{content_id}.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(path)], check=True)
    raw.unlink()
    stored_bytes = path.stat().st_size
    assert stored_bytes >= data_bytes, "the content must be there: a copy would show"
    return Content(content_id, size_bytes, stored_bytes, "0" * 64, "0" * 64, 0)


def seed(store: SqliteStore, content: Content, disk_bytes: int) -> Sources:
    """An image, a disk and a snapshot of the content, straight into the database."""
    kinds: tuple[type[Resource], ...] = (Image, Disk, Snapshot)
    sources = {
        kind: kind(
            *(new_id(), FOLDER, 1_790_000_000_000_000, Status.READY),
            size_bytes=disk_bytes if kind is Disk else content.virtual_size_bytes,
            storage_size_bytes=content.stored_size_bytes,
            content_id=content.id,
        )
        for kind in kinds
    }

    def change(tx: Transaction) -> None:
        tx.insert_content(content)
        for source in sources.values():
            tx.insert_resource(source)

    store.write(change)
    return sources


class Maker:
    """The calls that are measured, each from either source."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._images = image_service_pb2_grpc.ImageServiceStub(channel)
        self._disks = disk_service_pb2_grpc.DiskServiceStub(channel)
        self._snapshots = snapshot_service_pb2_grpc.SnapshotServiceStub(channel)

    def image_from_image(self, sources: Sources) -> operation_pb2.Operation:
        request = image_service_pb2.CreateImageRequest(folder_id=FOLDER)
        request.image_id = sources[Image].id
        return self._images.Create(request)

    def image_from_disk(self, sources: Sources) -> operation_pb2.Operation:
        request = image_service_pb2.CreateImageRequest(folder_id=FOLDER)
        request.disk_id = sources[Disk].id
        return self._images.Create(request)

    def image_from_snapshot(self, sources: Sources) -> operation_pb2.Operation:
        request = image_service_pb2.CreateImageRequest(folder_id=FOLDER)
        request.snapshot_id = sources[Snapshot].id
        return self._images.Create(request)

    def disk_from_image(self, sources: Sources) -> operation_pb2.Operation:
        request = self._disk_request(sources)
        request.image_id = sources[Image].id
        return self._disks.Create(request)

    def disk_from_snapshot(self, sources: Sources) -> operation_pb2.Operation:
        request = self._disk_request(sources)
        request.snapshot_id = sources[Snapshot].id
        return self._disks.Create(request)

    def _disk_request(self, sources: Sources) -> disk_service_pb2.CreateDiskRequest:
        return disk_service_pb2.CreateDiskRequest(
            folder_id=FOLDER, zone_id=DEFAULT_ZONES[0], size=sources[Disk].size_bytes
        )

    def snapshot_from_disk(self, sources: Sources) -> operation_pb2.Operation:
        request = snapshot_service_pb2.CreateSnapshotRequest(folder_id=FOLDER)
        request.disk_id = sources[Disk].id
        return self._snapshots.Create(request)


def milliseconds(call: Callable[[Sources], operation_pb2.Operation], sources: Sources) -> float:
    """From the call to a reply that says done."""
    started = time.perf_counter()
    operation = call(sources)
    elapsed = time.perf_counter() - started
    assert operation.done and operation.HasField("response"), operation
    return elapsed * 1000


def compare(
    title: str,
    call: Callable[[Sources], operation_pb2.Operation],
    large: Sources,
    small: Sources,
    calls: int,
) -> Ratio:
    """Ratio of the medians of `calls` calls each."""
    figures = []
    for number in range(calls + 10):
        figure = milliseconds(call, large), milliseconds(call, small)
        if number >= 10:  # the first ones warm up
            figures.append(figure)
    ours, theirs = zip(*figures, strict=True)
    ratio = statistics.median(ours) / statistics.median(theirs)
    return Ratio(title, ratio, GOAL, "ms", ours, theirs, at_most=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=300)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch())
        contents = folder / "data" / "contents"
        contents.mkdir(parents=True)
        store = SqliteStore(folder / "data" / "metadata.sqlite")
        store.migrate()
        small_content = make_content(contents, SMALL_BYTES, SMALL_BYTES)
        small = seed(store, small_content, 4 * MIB)
        large_content = make_content(contents, LARGE_BYTES, LARGE_DATA_BYTES)
        large = seed(store, large_content, LARGE_BYTES)
        store.close()
        before = sorted(contents.iterdir())
        server = stack.enter_context(running(server_command(folder / "data"), folder / "log"))
        maker = Maker(stack.enter_context(grpc.insecure_channel(server.address)))
        ratios = [
            compare(f"{title}: 10 GiB / 1 MiB", call, large, small, arguments.calls)
            for title, call in (
                ("Image from image", maker.image_from_image),
                ("Image from disk", maker.image_from_disk),
                ("Image from snapshot", maker.image_from_snapshot),
                ("Disk from image", maker.disk_from_image),
                ("Disk from snapshot", maker.disk_from_snapshot),
                ("Snapshot from disk", maker.snapshot_from_disk),
            )
        ]
        assert sorted(contents.iterdir()) == before, "a content was copied"
        return report(ratios)


if __name__ == "__main__":
    sys.exit(main())
