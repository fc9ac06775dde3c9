"""Image, disk, snapshot, image: round and round through the API without copying a byte."""

import hashlib
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from darkroom_pb.yandex.cloud.compute.v1 import (
    hardware_generation_pb2 as hardware_pb2,
)
from darkroom_pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2, kek_pb2
from deriving import Deriving, Made
from installation import Installation, same_content, until
from object_server import ObjectServer

MIB = 1 << 20
STEP = 4 * MIB
IMAGE_BYTES = 24 * MIB
ROUNDS = 4

LEGACY_V1 = hardware_pb2.HardwareGeneration(
    legacy_features=hardware_pb2.LegacyHardwareFeatures(pci_topology=hardware_pb2.PCI_TOPOLOGY_V1)
)
LEGACY_V2 = hardware_pb2.HardwareGeneration(
    legacy_features=hardware_pb2.LegacyHardwareFeatures(pci_topology=hardware_pb2.PCI_TOPOLOGY_V2)
)
GENERATION_2 = hardware_pb2.HardwareGeneration(
    generation2_features=hardware_pb2.Generation2HardwareFeatures(vtpm_enabled=True)
)
WINDOWS = image_pb2.Os(type=image_pb2.Os.WINDOWS)
LINUX = image_pb2.Os(type=image_pb2.Os.LINUX)


@pytest.fixture
def darkroom(cleared: Installation) -> Installation:
    """Shared: a server of its own for each would take longer than what is tested."""
    return cleared


@pytest.fixture
def source(cleared_source: ObjectServer) -> ObjectServer:
    return cleared_source


@pytest.fixture
def deriving(darkroom: Installation) -> Deriving:
    return Deriving(darkroom)


@pytest.fixture
def first(deriving: Deriving, source: ObjectServer, disk: Path) -> image_pb2.Image:
    """An imported image of 24 MiB, for Windows, with a product."""
    return deriving.imported(source.url(disk.name), os=WINDOWS, product_ids=["first"])


def digests(darkroom: Installation) -> dict[str, tuple[int, int, str]]:
    """What is stored: names, inodes, times and bytes."""
    return {
        path.name: (
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in darkroom.contents()
    }


def virtual_size(path: Path) -> int:
    """As the header of a qcow2 has it."""
    return int.from_bytes(path.read_bytes()[24:32], "big")


def test_round_and_round_without_a_byte_copied(
    darkroom: Installation,
    deriving: Deriving,
    first: image_pb2.Image,
    disk: Path,
    tmp_path: Path,
) -> None:
    stored = digests(darkroom)
    assert len(stored) == 1
    image, size = first, IMAGE_BYTES
    made: list[Made] = [first]
    for _ in range(ROUNDS):
        size += STEP
        new_disk = deriving.disk(image_id=image.id, size=size)
        assert new_disk.source_image_id == image.id and not new_disk.source_snapshot_id
        snapshot = deriving.snapshot(disk_id=new_disk.id)
        assert snapshot.source_disk_id == new_disk.id
        image = deriving.image(snapshot_id=snapshot.id)
        made += [new_disk, snapshot, image]
        assert (new_disk.size, snapshot.disk_size, image.size) == (size, size, size)
        assert image.min_disk_size == size
        assert image.os == WINDOWS
        assert {each.storage_size for each in (snapshot, image)} == {first.storage_size}
        for each in (new_disk, snapshot, image):
            assert list(each.product_ids) == ["first"]
            assert each.hardware_generation == LEGACY_V1
            assert not each.HasField("kms_key")
    # The ways that a round does not take: image of image, image of disk, disk of snapshot.
    copy = deriving.image(image_id=image.id)
    between = deriving.disk(image_id=image.id, size=size)
    latest = deriving.snapshot(disk_id=between.id)
    back = deriving.disk(snapshot_id=latest.id, size=size)
    assert back.source_snapshot_id == latest.id and not back.source_image_id
    last = deriving.image(disk_id=back.id)
    assert digests(darkroom) == stored
    made += [copy, between, latest, back]
    for each in made:
        deriving.delete(each)
    assert digests(darkroom) == stored
    exported = tmp_path / "exported.qcow2"
    darkroom.export(last.id, exported)
    assert virtual_size(exported) == size == last.size
    assert same_content(disk, "qcow2", exported, "qcow2")


def test_a_content_goes_with_the_last_that_refers_to_it(
    darkroom: Installation, deriving: Deriving, first: image_pb2.Image, source: ObjectServer
) -> None:
    stored = digests(darkroom)
    new_disk = deriving.disk(image_id=first.id, size=IMAGE_BYTES)
    snapshot = deriving.snapshot(disk_id=new_disk.id)
    last = deriving.image(snapshot_id=snapshot.id)
    sources: tuple[Made, ...] = (first, new_disk, snapshot)
    for each in sources:
        deriving.delete(each)
        # A content of its own shows that the collector has been round since.
        other = deriving.imported(source.url("disk.qcow2"))
        assert len(digests(darkroom)) == 2
        deriving.delete(other)
        until(lambda: len(darkroom.contents()) == 1, "the other content to be collected")
        assert digests(darkroom) == stored
    deriving.delete(last)
    until(lambda: not darkroom.contents(), "the last content to be collected")


def test_the_system_is_inherited_unless_named(deriving: Deriving, first: image_pb2.Image) -> None:
    driver = image_pb2.Nvidia(driver="535")
    disk = deriving.disk(image_id=first.id, size=IMAGE_BYTES)
    snapshot = deriving.snapshot(disk_id=disk.id)
    sources = ({"image_id": first.id}, {"disk_id": disk.id}, {"snapshot_id": snapshot.id})
    for requested, expected in (
        (None, WINDOWS),
        (image_pb2.Os(), WINDOWS),
        (LINUX, LINUX),
        (image_pb2.Os(nvidia=driver), image_pb2.Os(type=image_pb2.Os.WINDOWS, nvidia=driver)),
    ):
        for given in sources:
            assert deriving.image(os=requested, **given).os == expected


def test_linux_is_the_system_where_nothing_is_said(
    deriving: Deriving, source: ObjectServer
) -> None:
    empty = deriving.disk(size=STEP)
    assert deriving.image(disk_id=empty.id).os == LINUX
    unsaid = deriving.imported(source.url("disk.qcow2"), os=image_pb2.Os())
    assert unsaid.os == LINUX


def test_products_are_inherited_and_added_to(deriving: Deriving, first: image_pb2.Image) -> None:
    second = deriving.image(image_id=first.id, product_ids=["second", "first", "third"])
    assert list(second.product_ids) == ["first", "second", "third"]
    disk = deriving.disk(image_id=second.id, size=IMAGE_BYTES)
    snapshot = deriving.snapshot(disk_id=disk.id)
    third = deriving.image(snapshot_id=snapshot.id, product_ids=["fourth"])
    assert list(disk.product_ids) == list(snapshot.product_ids) == ["first", "second", "third"]
    assert list(third.product_ids) == ["first", "second", "third", "fourth"]


def test_hardware_is_inherited_unless_named(deriving: Deriving, first: image_pb2.Image) -> None:
    assert first.hardware_generation == LEGACY_V1
    disk = deriving.disk(image_id=first.id, size=IMAGE_BYTES, hardware_generation=GENERATION_2)
    snapshot = deriving.snapshot(disk_id=disk.id)
    image = deriving.image(snapshot_id=snapshot.id)
    assert disk.hardware_generation == GENERATION_2
    assert snapshot.hardware_generation == image.hardware_generation == GENERATION_2
    changed = deriving.snapshot(disk_id=disk.id, hardware_generation=LEGACY_V2)
    assert changed.hardware_generation == LEGACY_V2
    image = deriving.image(snapshot_id=changed.id, hardware_generation=LEGACY_V1)
    assert image.hardware_generation == LEGACY_V1
    again = deriving.disk(snapshot_id=changed.id, size=IMAGE_BYTES)
    assert again.hardware_generation == LEGACY_V2


def test_the_key_of_a_disk_is_inherited(deriving: Deriving, first: image_pb2.Image) -> None:
    key = kek_pb2.KMSKey(key_id="key")
    disk = deriving.disk(image_id=first.id, size=IMAGE_BYTES, kms_key_id="key")
    snapshot = deriving.snapshot(disk_id=disk.id)
    image = deriving.image(snapshot_id=snapshot.id)
    again = deriving.disk(image_id=image.id, size=IMAGE_BYTES)
    assert disk.kms_key == snapshot.kms_key == image.kms_key == again.kms_key == key


def refusal(call: grpc.RpcError) -> tuple[grpc.StatusCode, str | None]:
    return call.code(), call.details()


def test_the_smallest_disk(deriving: Deriving, first: image_pb2.Image) -> None:
    assert first.min_disk_size == IMAGE_BYTES
    disk = deriving.disk(image_id=first.id, size=IMAGE_BYTES + STEP)
    for too_small in (STEP, IMAGE_BYTES, IMAGE_BYTES + STEP - 1):
        with pytest.raises(grpc.RpcError) as caught:
            deriving.image(disk_id=disk.id, min_disk_size=too_small)
        assert refusal(caught.value) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            f"Minimal disk size should be greater or equal than {IMAGE_BYTES + STEP}",
        )
    wide = deriving.image(disk_id=disk.id, min_disk_size=2 * IMAGE_BYTES)
    assert (wide.size, wide.min_disk_size) == (IMAGE_BYTES + STEP, 2 * IMAGE_BYTES)
    # The larger minimum counts for its disks, and no image of them inherits it.
    with pytest.raises(grpc.RpcError) as caught:
        deriving.disk(image_id=wide.id, size=2 * IMAGE_BYTES - STEP)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert deriving.image(image_id=wide.id).min_disk_size == IMAGE_BYTES + STEP
    snapshot = deriving.snapshot(disk_id=disk.id)
    with pytest.raises(grpc.RpcError) as caught:
        deriving.disk(snapshot_id=snapshot.id, size=IMAGE_BYTES)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_export_takes_any_kind_at_the_size_of_its_row(
    darkroom: Installation,
    deriving: Deriving,
    first: image_pb2.Image,
    disk: Path,
    tmp_path: Path,
) -> None:
    large = deriving.disk(image_id=first.id, size=3 * IMAGE_BYTES)
    snapshot = deriving.snapshot(disk_id=large.id)
    image = deriving.image(disk_id=large.id)
    for resource_id in (image.id, large.id, snapshot.id):
        exported = tmp_path / f"{resource_id}.qcow2"
        darkroom.export(resource_id, exported)
        assert virtual_size(exported) == 3 * IMAGE_BYTES
        assert same_content(disk, "qcow2", exported, "qcow2")


def test_export_of_an_empty_disk_is_zeros(
    darkroom: Installation, deriving: Deriving, tmp_path: Path
) -> None:
    image = deriving.image(disk_id=deriving.disk(size=IMAGE_BYTES).id)
    assert (image.size, image.storage_size, image.min_disk_size) == (IMAGE_BYTES, 0, IMAGE_BYTES)
    exported, zeros = tmp_path / "exported.qcow2", tmp_path / "zeros.raw"
    darkroom.export(image.id, exported)
    zeros.touch()
    assert virtual_size(exported) == IMAGE_BYTES
    assert same_content(zeros, "raw", exported, "qcow2")
    assert not darkroom.contents()


@pytest.mark.parametrize("case", ["unknown id", "not ready", "taken"])
def test_export_says_why_it_does_not(
    darkroom: Installation,
    deriving: Deriving,
    source: ObjectServer,
    tmp_path: Path,
    case: str,
) -> None:
    target = tmp_path / "exported.qcow2"
    if case == "unknown id":
        image_id, expected = "fd8unknown", 'no image, disk or snapshot "fd8unknown" found'
    elif case == "not ready":
        operation = darkroom.done(darkroom.create(source.url("nothing")).id)
        metadata = image_service_pb2.CreateImageMetadata()
        assert operation.HasField("error") and operation.metadata.Unpack(metadata)
        image_id = metadata.image_id
        expected = f'Image "{image_id}" is in status ERROR'
    else:
        target.write_bytes(b"mine")
        image_id = deriving.image(disk_id=deriving.disk(size=STEP).id).id
        expected = f"{target} exists already"
    result = subprocess.run(
        [
            *(sys.executable, "-m", "darkroom", "image", "export", image_id, str(target)),
            *("--data-dir", str(darkroom.data)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (1, "", f"darkroom: {expected}\n")
    left = target.read_bytes() if target.exists() else None
    assert left == (b"mine" if case == "taken" else None)
