"""What only DiskService does: sizes, blocks, types, zones, placement, moving."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from api.client import URI, refused
from api.cloud import GIB, MIB, ZONE, Cloud, Kind, fresh_folder, in_process, unpacked
from darkroom.domain.image import HardwareGeneration, KmsKey
from darkroom_pb.yandex.cloud.compute.v1 import disk_pb2

INVALID = grpc.StatusCode.INVALID_ARGUMENT
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
KIB = 1 << 10
TIB = 1 << 40


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with in_process(tmp_path_factory.mktemp("cloud")) as served:
        yield served


@pytest.fixture(scope="module")
def disks(cloud: Cloud) -> Kind:
    return cloud.kind("disks")


@pytest.fixture
def folder() -> str:
    return fresh_folder()


# --- Create ---------------------------------------------------------------------------------------


def test_an_empty_disk_has_the_defaults(disks: Kind, folder: str) -> None:
    disk = disks.get(disks.create(folder, size=GIB))
    assert (disk.type_id, disk.zone_id, disk.block_size) == ("network-hdd", ZONE, 4096)
    assert (disk.size, disk.status) == (GIB, disk_pb2.Disk.READY)
    assert disk.WhichOneof("source") is None
    assert not disk.instance_ids and not disk.product_ids
    assert disk.HasField("disk_placement_policy")
    assert disk.disk_placement_policy == disk_pb2.DiskPlacementPolicy()


def test_a_disk_keeps_what_the_request_says(disks: Kind, folder: str) -> None:
    disk = disks.get(
        disks.create(
            folder,
            type_id="network-ssd",
            zone_id="ru-central1-b",
            block_size=8192,
            disk_placement_policy={"placement_group_id": "g", "placement_group_partition": 3},
            kms_key_id="key",
        )
    )
    assert (disk.type_id, disk.zone_id, disk.block_size) == ("network-ssd", "ru-central1-b", 8192)
    policy = disk.disk_placement_policy
    assert (policy.placement_group_id, policy.placement_group_partition) == ("g", 3)
    assert (disk.kms_key.key_id, disk.kms_key.version_id) == ("key", "")
    assert disk.id.startswith("epd")


def test_a_disk_takes_after_its_source(cloud: Cloud, disks: Kind, folder: str) -> None:
    image_id = cloud.ready_image(
        size_bytes=8 * MIB,
        product_ids=("a", "b"),
        hardware_generation=HardwareGeneration(2),
        kms_key=KmsKey("key", "version"),
    )
    image = cloud.kind("images").get(image_id)
    of_image = disks.get(disks.create(folder, image_id=image_id, size=GIB))
    snapshot_id = cloud.kind("snapshots").create(folder, disk_id=of_image.id)
    of_snapshot = disks.get(disks.create(folder, snapshot_id=snapshot_id, size=2 * GIB))
    for disk, size in ((of_image, GIB), (of_snapshot, 2 * GIB)):
        for inherited in ("product_ids", "hardware_generation", "kms_key"):
            assert getattr(disk, inherited) == getattr(image, inherited)
        assert disk.size == size
    assert of_image.source_image_id == image_id
    assert of_snapshot.source_snapshot_id == snapshot_id
    assert of_snapshot.WhichOneof("source") == "source_snapshot_id"


def test_a_disk_is_not_smaller_than_its_source_needs(
    cloud: Cloud, disks: Kind, folder: str
) -> None:
    image_id = cloud.ready_image(size_bytes=8 * MIB, min_disk_size_bytes=16 * MIB)
    disk_id = disks.create(folder, image_id=image_id, size=16 * MIB)
    snapshot_id = cloud.kind("snapshots").create(folder, disk_id=disk_id)
    for source in ({"image_id": image_id}, {"snapshot_id": snapshot_id}):
        failed = refused(lambda s=source: disks.begin(folder, size=12 * MIB, **s))  # type: ignore[misc]
        assert (failed.code, [*failed.fields]) == (INVALID, ["size"])
        text = f"Minimal disk size should be greater or equal than {16 * MIB}"
        assert failed.message == text
        disks.create(folder, size=16 * MIB, **source)


def test_a_source_must_be_there_and_ready(cloud: Cloud, disks: Kind, folder: str) -> None:
    for field, noun in (("image_id", "Image"), ("snapshot_id", "Snapshot")):
        failed = refused(lambda f=field: disks.begin(folder, **{f: "absent"}))  # type: ignore[misc]
        assert failed.code is FAILED_PRECONDITION
        assert failed.message == f'{noun} "absent" not found'
    creating = cloud.kind("images").create(folder, uri=URI)
    failed = refused(lambda: disks.begin(folder, image_id=creating))
    assert (failed.code, failed.reason) == (FAILED_PRECONDITION, "SOURCE_NOT_READY")


@pytest.mark.parametrize(
    ("size", "block_size", "field"),
    [
        (0, 0, "size"),
        (4 * MIB - 1, 0, "size"),
        (4 * MIB + 1, 0, "size"),
        (6 * MIB, 0, "size"),
        (26 * TIB + 4 * MIB, 128 * KIB, "size"),
        (8 * TIB + 4 * MIB, 0, "size"),
        (16 * TIB + 4 * MIB, 8192, "size"),
        (GIB, 2048, "block_size"),
        (GIB, 4097, "block_size"),
        (GIB, 12288, "block_size"),
        (GIB, 256 * KIB, "block_size"),
        (GIB, -4096, "block_size"),
    ],
)
def test_a_size_or_block_size_that_cannot_be_is_refused(
    disks: Kind, folder: str, size: int, block_size: int, field: str
) -> None:
    failed = refused(lambda: disks.begin(folder, size=size, block_size=block_size))
    assert (failed.code, [*failed.fields]) == (INVALID, [field])


@pytest.mark.parametrize(
    ("size", "block_size"),
    [(4 * MIB, 4096), (8 * TIB, 4096), (16 * TIB, 8192), (26 * TIB, 128 * KIB)],
)
def test_the_extremes_of_sizes_are_fine(
    disks: Kind, folder: str, size: int, block_size: int
) -> None:
    disk = disks.get(disks.create(folder, size=size, block_size=block_size))
    assert (disk.size, disk.block_size) == (size, block_size)


def test_places_and_schedules_that_are_not_here_are_refused(disks: Kind, folder: str) -> None:
    for field, wrong, message in (
        ("zone_id", "ru-central1-x", 'Zone "ru-central1-x" not found'),
        ("type_id", "floppy", 'Disk type "floppy" not found'),
    ):
        failed = refused(lambda f=field, w=wrong: disks.begin(folder, **{f: w}))  # type: ignore[misc]
        assert (failed.code, failed.message) == (FAILED_PRECONDITION, message)
    failed = refused(lambda: disks.begin(folder, snapshot_schedule_ids=["s"]))
    assert (failed.code, [*failed.fields]) == (INVALID, ["snapshot_schedule_ids"])


def test_a_repeat_is_answered_where_the_place_is_no_longer_offered(tmp_path: Path) -> None:
    key = {"metadata": (("idempotency-key", "once"),)}
    moved = {"metadata": (("idempotency-key", "moved"),)}
    elsewhere = {"destination_zone_id": "ru-central1-d"}
    with in_process(tmp_path, disk_type=("network-hdd", "network-ssd")) as cloud:
        disks = cloud.kind("disks")
        first = disks.begin("folder", type_id="network-ssd", **key)
        disk_id = disks.id_of(first)
        relocated = cloud.disks.Relocate(disk_id=disk_id, **elsewhere, **moved)
    with in_process(tmp_path, disk_type=("network-hdd",), zone=("ru-central1-b",)) as cloud:
        assert cloud.kind("disks").begin("folder", type_id="network-ssd", **key) == first
        assert cloud.disks.Relocate(disk_id=disk_id, **elsewhere, **moved) == relocated
        failed = refused(lambda: cloud.disks.Relocate(disk_id=disk_id, **elsewhere))
        assert (failed.code, failed.reason) == (FAILED_PRECONDITION, "UNKNOWN_CHOICE")


# --- Update ---------------------------------------------------------------------------------------


def test_a_disk_only_grows(disks: Kind, folder: str) -> None:
    made = disks.create(folder, size=GIB, name="n")
    operation = disks.update(made, "size", size=2 * GIB, name="ignored")
    assert unpacked(operation.response) == disks.get(made)
    assert (disks.get(made).size, disks.get(made).name) == (2 * GIB, "n")
    disks.update(made, "size", size=2 * GIB)
    disks.update(made, "size")  # left out: it stays
    disks.update(made, name="n")  # without a mask too
    assert disks.get(made).size == 2 * GIB
    for wrong in (GIB, 2 * GIB + 1, 4 * MIB - 1, 4 * TIB + 4 * MIB):
        for paths in (("size",), ()):
            failed = refused(lambda p=paths, w=wrong: disks.update(made, *p, size=w))  # type: ignore[misc]
            assert (failed.code, [*failed.fields]) == (INVALID, ["size"])
    assert (disks.get(made).size, disks.get(made).name) == (2 * GIB, "n")


def test_one_field_of_the_placement_leaves_the_other(disks: Kind, folder: str) -> None:
    both = {"placement_group_id": "g", "placement_group_partition": 3}
    other = {"placement_group_id": "h", "placement_group_partition": 4}
    made = disks.create(folder, disk_placement_policy=both)

    def placement() -> tuple[str, int]:
        policy = disks.get(made).disk_placement_policy
        return policy.placement_group_id, policy.placement_group_partition

    # The mask that Terraform sends.
    group = "disk_placement_policy.placement_group_id"
    disks.update(made, group, disk_placement_policy=other)
    assert placement() == ("h", 3)
    partition = "disk_placement_policy.placement_group_partition"
    disks.update(made, partition, disk_placement_policy=other)
    assert placement() == ("h", 4)
    disks.update(made, group)
    assert placement() == ("", 4)
    disks.update(made, group, partition, disk_placement_policy=both)
    assert placement() == ("g", 3)
    disks.update(made, partition, "disk_placement_policy", disk_placement_policy=other)
    assert placement() == ("h", 4)
    disks.update(made, description="no mask")
    assert placement() == ("", 0)
    assert disks.get(made).HasField("disk_placement_policy")


def test_the_placement_policy_is_always_in_a_reply(disks: Kind, folder: str) -> None:
    operation = disks.begin(folder)
    made = disks.id_of(operation)
    (listed,) = disks.listed(folder)
    updated = unpacked(disks.update(made, "name", name="n").response)
    for disk in (unpacked(operation.response), disks.get(made), listed, updated):
        assert disk.HasField("disk_placement_policy")
        assert disk.HasField("hardware_generation")


# --- Move, Relocate, ListSnapshotSchedules --------------------------------------------------------


def test_a_disk_moves_to_another_folder(disks: Kind, folder: str) -> None:
    other = fresh_folder()
    made = disks.create(folder, name="n")
    before = disks.get(made)
    operation = disks.stub.Move(disk_id=made, destination_folder_id=other)
    metadata = unpacked(operation.metadata)
    assert (metadata.disk_id, metadata.source_folder_id) == (made, folder)
    assert metadata.destination_folder_id == other
    moved = unpacked(operation.response)
    assert moved == disks.get(made)
    before.folder_id = other
    assert moved == before
    assert disks.listed(folder) == [] and disks.listed(other) == [moved]


def test_a_move_to_where_the_name_is_taken_is_refused(disks: Kind, folder: str) -> None:
    other = fresh_folder()
    made = disks.create(folder, name="n")
    disks.create(other, name="n")
    failed = refused(lambda: disks.stub.Move(disk_id=made, destination_folder_id=other))
    assert failed.code is grpc.StatusCode.ALREADY_EXISTS
    assert failed.message == 'Disk with name "n" already exists'
    assert disks.get(made).folder_id == folder
    disks.stub.Move(disk_id=made, destination_folder_id=folder)  # its own name is not in its way


def test_a_disk_relocates_to_another_zone(disks: Kind, folder: str) -> None:
    made = disks.create(folder, disk_placement_policy={"placement_group_id": "g"})
    operation = disks.stub.Relocate(
        disk_id=made,
        destination_zone_id="ru-central1-d",
        disk_placement_policy={"placement_group_id": "h", "placement_group_partition": 2},
    )
    metadata = unpacked(operation.metadata)
    assert (metadata.disk_id, metadata.source_zone_id) == (made, ZONE)
    assert metadata.destination_zone_id == "ru-central1-d"
    disk = disks.get(made)
    assert unpacked(operation.response) == disk
    assert disk.zone_id == "ru-central1-d"
    policy = disk.disk_placement_policy
    assert (policy.placement_group_id, policy.placement_group_partition) == ("h", 2)
    disks.stub.Relocate(disk_id=made, destination_zone_id="ru-central1-b")
    assert disks.get(made).disk_placement_policy == disk_pb2.DiskPlacementPolicy()
    failed = refused(lambda: disks.stub.Relocate(disk_id=made, destination_zone_id="mars"))
    assert (failed.code, failed.message) == (FAILED_PRECONDITION, 'Zone "mars" not found')


def test_a_disk_is_under_no_snapshot_schedule(disks: Kind, folder: str) -> None:
    made = disks.create(folder)
    reply = disks.stub.ListSnapshotSchedules(disk_id=made, page_size=5, page_token="whatever")
    assert not reply.snapshot_schedules and not reply.next_page_token
