"""What only SnapshotService does: taking them, of a disk as it is at that moment."""

from collections.abc import Iterator

import grpc
import pytest

from api.client import refused
from api.cloud import GIB, MIB, Cloud, Kind, fresh_folder, in_process, unpacked
from darkroom.domain.image import HardwareGeneration, KmsKey
from darkroom_pb.yandex.cloud.compute.v1 import snapshot_pb2


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with in_process(tmp_path_factory.mktemp("cloud")) as served:
        yield served


@pytest.fixture(scope="module")
def snapshots(cloud: Cloud) -> Kind:
    return cloud.kind("snapshots")


@pytest.fixture
def folder() -> str:
    return fresh_folder()


def test_a_snapshot_takes_after_its_disk(cloud: Cloud, snapshots: Kind, folder: str) -> None:
    image_id = cloud.ready_image(
        size_bytes=8 * MIB,
        product_ids=("a", "b"),
        hardware_generation=HardwareGeneration(2),
        kms_key=KmsKey("key", "version"),
    )
    image = cloud.kind("images").get(image_id)
    disk_id = cloud.kind("disks").create(folder, image_id=image_id, size=GIB)
    operation = snapshots.begin(folder, disk_id=disk_id)
    metadata = unpacked(operation.metadata)
    assert metadata.disk_id == disk_id
    snapshot = snapshots.get(metadata.snapshot_id)
    assert operation.done and unpacked(operation.response) == snapshot
    assert snapshot.source_disk_id == disk_id
    assert (snapshot.disk_size, snapshot.storage_size) == (GIB, image.storage_size)
    assert snapshot.status == snapshot_pb2.Snapshot.READY
    for inherited in ("product_ids", "hardware_generation", "kms_key"):
        assert getattr(snapshot, inherited) == getattr(image, inherited)


def test_a_snapshot_keeps_the_size_of_its_moment(
    cloud: Cloud, snapshots: Kind, folder: str
) -> None:
    disks = cloud.kind("disks")
    disk_id = disks.create(folder, size=GIB)
    made = snapshots.create(folder, disk_id=disk_id)
    disks.update(disk_id, "size", size=2 * GIB)
    later = snapshots.create(folder, disk_id=disk_id)
    disks.delete(disk_id)
    assert (snapshots.get(made).disk_size, snapshots.get(later).disk_size) == (GIB, 2 * GIB)
    assert snapshots.get(made).source_disk_id == disk_id
    assert snapshots.get(made).storage_size == 0  # the disk was empty


def test_the_disk_must_be_there(snapshots: Kind, folder: str) -> None:
    failed = refused(lambda: snapshots.begin(folder, disk_id="absent"))
    assert failed.code is grpc.StatusCode.FAILED_PRECONDITION
    assert failed.message == 'Disk "absent" not found'
