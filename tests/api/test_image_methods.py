"""What only ImageService does: sources, inheritance, minimal disk sizes, families."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from api.client import URI, refused
from api.cloud import GIB, MIB, Cloud, Kind, fresh_folder, in_process, unpacked
from darkroom.domain.ids import new_id
from darkroom.domain.image import HardwareGeneration, Image, KmsKey, Os, OsType
from darkroom.domain.resource import Status
from darkroom.operations.desk import wall_clock_us
from darkroom_pb.yandex.cloud.compute.v1 import image_pb2

INVALID = grpc.StatusCode.INVALID_ARGUMENT
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with in_process(tmp_path_factory.mktemp("cloud")) as served:
        yield served


@pytest.fixture(scope="module")
def images(cloud: Cloud) -> Kind:
    return cloud.kind("images")


@pytest.fixture
def folder() -> str:
    return fresh_folder()


def rich_image(cloud: Cloud) -> str:
    """An image with something in every field that is inherited."""
    return cloud.ready_image(
        size_bytes=GIB + 1,
        min_disk_size_bytes=2 * GIB,
        os=Os(OsType.WINDOWS, "driver 1"),
        product_ids=("a", "b"),
        hardware_generation=HardwareGeneration(2, True, "template", True),
        kms_key=KmsKey("key", "version"),
        family="rich",
        pooled=True,
    )


def chain(cloud: Cloud, image_id: str) -> dict[str, str]:
    """A disk of the image and a snapshot of the disk, by the field of a source."""
    folder = fresh_folder()
    disk_id = cloud.kind("disks").create(folder, image_id=image_id, size=4 * GIB)
    snapshot_id = cloud.kind("snapshots").create(folder, disk_id=disk_id)
    return {"image_id": image_id, "disk_id": disk_id, "snapshot_id": snapshot_id}


# --- sources --------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["image_id", "disk_id", "snapshot_id"])
def test_an_image_takes_after_its_source(
    cloud: Cloud, images: Kind, folder: str, field: str
) -> None:
    source_id = rich_image(cloud)
    source = images.get(source_id)
    operation = images.begin(folder, **{field: chain(cloud, source_id)[field]})
    assert operation.done
    image = images.get(images.id_of(operation))
    assert image.status == image_pb2.Image.READY
    for inherited in ("os", "product_ids", "hardware_generation", "kms_key", "storage_size"):
        assert getattr(image, inherited) == getattr(source, inherited), inherited
    # The size is that of the disk, which is larger than its content.
    assert image.size == (source.size if field == "image_id" else 4 * GIB)
    assert image.min_disk_size == (GIB + 4 * MIB if field == "image_id" else 4 * GIB)
    assert (image.family, image.pooled) == ("", False)


def test_what_the_request_says_goes_before_what_is_inherited(
    cloud: Cloud, images: Kind, folder: str
) -> None:
    image = images.get(
        images.create(
            folder,
            image_id=rich_image(cloud),
            os={"type": "LINUX"},
            product_ids=["b", "c"],
            hardware_generation={"legacy_features": {}},
            family="own",
            pooled=True,
            min_disk_size=3 * GIB,
        )
    )
    assert (image.os.type, image.os.HasField("nvidia")) == (image_pb2.Os.LINUX, False)
    assert list(image.product_ids) == ["a", "b", "c"]
    assert image.hardware_generation.legacy_features.pci_topology == 1
    assert (image.family, image.pooled, image.min_disk_size) == ("own", True, 3 * GIB)


def test_an_os_without_a_type_is_inherited(cloud: Cloud, images: Kind, folder: str) -> None:
    # What Terraform sends when the user says nothing.
    unsaid = {"type": "TYPE_UNSPECIFIED"}
    copy = images.get(images.create(folder, image_id=rich_image(cloud), os=unsaid))
    assert (copy.os.type, copy.os.nvidia.driver) == (image_pb2.Os.WINDOWS, "driver 1")
    driver = {**unsaid, "nvidia": {"driver": "driver 2"}}
    copy = images.get(images.create(folder, image_id=rich_image(cloud), os=driver))
    assert (copy.os.type, copy.os.nvidia.driver) == (image_pb2.Os.WINDOWS, "driver 2")
    imported = images.get(images.create(folder, uri=URI, os=unsaid))
    assert imported.os.type == image_pb2.Os.LINUX


def test_os_is_always_in_a_reply(images: Kind, folder: str) -> None:
    made = images.create(folder)
    (listed,) = images.listed(folder)
    updated = unpacked(images.update(made, "name", name="n").response)
    for image in (images.get(made), listed, updated, images.get(images.create(folder, uri=URI))):
        assert image.HasField("os") and image.os.type == image_pb2.Os.LINUX
        assert image.HasField("hardware_generation")


def test_a_source_must_be_there_and_ready(cloud: Cloud, images: Kind, folder: str) -> None:
    creating = images.create(folder, uri=URI)
    failed = refused(lambda: images.begin(folder, image_id=creating))
    assert (failed.code, failed.reason) == (FAILED_PRECONDITION, "SOURCE_NOT_READY")
    disk = cloud.kind("disks").create(folder)
    for field, wrong in (("image_id", disk), ("disk_id", creating), ("snapshot_id", "absent")):
        failed = refused(lambda f=field, w=wrong: images.begin(folder, **{f: w}))  # type: ignore[misc]
        assert failed.code is FAILED_PRECONDITION
        assert failed.message.endswith(f'"{wrong}" not found')
    failed = refused(lambda: cloud.images.Create(folder_id=folder))
    assert (failed.code, [*failed.fields]) == (INVALID, ["source"])


def test_deleting_a_source_leaves_what_was_made_of_it(
    cloud: Cloud, images: Kind, folder: str
) -> None:
    sources = chain(cloud, rich_image(cloud))
    made = images.create(folder, snapshot_id=sources["snapshot_id"])
    before = images.get(made)
    cloud.kind("images").delete(sources["image_id"])
    cloud.kind("disks").delete(sources["disk_id"])
    cloud.kind("snapshots").delete(sources["snapshot_id"])
    assert images.get(made) == before
    images.create(folder, image_id=made)


# --- an image that is not READY -------------------------------------------------------------------


def test_an_image_in_creating_is_in_conflict_with_its_creation(images: Kind, folder: str) -> None:
    operation = images.begin(folder, uri=URI, name="busy")
    made = images.id_of(operation)
    stub = images.stub
    binding = {"role_id": "r", "subject": {"id": "s", "type": "t"}}
    delta = {"action": "ADD", "access_binding": binding}
    for attempt in (
        lambda: images.update(made, "name", name="other"),
        lambda: images.delete(made),
        lambda: stub.SetAccessBindings(resource_id=made),
        lambda: stub.UpdateAccessBindings(resource_id=made, access_binding_deltas=[delta]),
    ):
        failed = refused(attempt)
        assert failed.code is FAILED_PRECONDITION
        # The text that a Terraform provider looks for; it then waits for the operation.
        assert failed.message == f'conflicting operation "{operation.id}" detected'
    assert images.get(made).status == image_pb2.Image.CREATING
    assert images.stub.ListOperations(image_id=made).operations == [operation]


def failed_import(cloud: Cloud, folder: str, **fields: Any) -> str:
    """What a worker leaves of an image whose import failed."""
    image = Image(new_id(), folder, wall_clock_us(), Status.ERROR, **fields)
    cloud.store.write(lambda tx: tx.insert_resource(image))
    return image.id


def test_an_image_in_error_keeps_its_row_frees_its_name_and_can_only_be_deleted(
    cloud: Cloud, images: Kind, folder: str
) -> None:
    broken = failed_import(cloud, folder, name="mine", family="fam")
    assert images.get(broken).status == image_pb2.Image.ERROR
    successor = images.create(folder, name="mine")
    failed = refused(lambda: images.update(broken, "name", name="other"))
    assert (failed.code, failed.reason) == (FAILED_PRECONDITION, "RESOURCE_NOT_READY")
    failed = refused(lambda: images.begin(folder, image_id=broken))
    assert (failed.code, failed.reason) == (FAILED_PRECONDITION, "SOURCE_NOT_READY")
    assert refused(lambda: latest(images, folder, "fam")).code is grpc.StatusCode.NOT_FOUND
    assert [each.id for each in images.listed(folder, filter='status = "ERROR"')] == [broken]
    assert images.delete(broken).done
    assert [each.id for each in images.listed(folder)] == [successor]


# --- min_disk_size --------------------------------------------------------------------------------


def test_min_disk_size_has_its_mask_default_and_bounds(
    cloud: Cloud, images: Kind, folder: str
) -> None:
    source = cloud.ready_image(size_bytes=GIB + 1)
    made = images.create(folder, image_id=source, name="n", min_disk_size=2 * GIB)
    assert images.get(made).min_disk_size == 2 * GIB
    images.update(made, "min_disk_size", name="ignored", min_disk_size=GIB + 1)
    assert (images.get(made).min_disk_size, images.get(made).name) == (GIB + 1, "n")
    images.update(made, "min_disk_size")
    assert images.get(made).min_disk_size == GIB + 4 * MIB
    images.update(made, name="n", min_disk_size=3 * GIB)
    images.update(made, name="n")  # no mask: reset
    assert images.get(made).min_disk_size == GIB + 4 * MIB
    for attempt in (
        lambda: images.update(made, "min_disk_size", min_disk_size=GIB),
        lambda: images.begin(folder, image_id=source, min_disk_size=GIB),
    ):
        failed = refused(attempt)
        assert (failed.code, [*failed.fields]) == (INVALID, ["min_disk_size"])
        text = f"Minimal disk size should be greater or equal than {GIB + 1}"
        assert failed.message == text
    for wrong in (4 * MIB - 1, 4096 * GIB + 1, -1):
        failed = refused(lambda w=wrong: images.begin(folder, min_disk_size=w))  # type: ignore[misc]
        assert (failed.code, [*failed.fields]) == (INVALID, ["min_disk_size"])


# --- families -------------------------------------------------------------------------------------


def latest(images: Kind, folder: str, family: str) -> Any:
    return images.stub.GetLatestByFamily(folder_id=folder, family=family)


def test_the_latest_of_a_family_is_the_newest_ready_one(
    cloud: Cloud, images: Kind, folder: str
) -> None:
    first = images.create(folder, family="fam")
    assert latest(images, folder, "fam").id == first
    second = images.create(folder, family="fam")
    images.create(folder, family="fam", uri=URI)
    images.create(folder, family="other")
    images.create(fresh_folder(), family="fam")
    failed_import(cloud, folder, family="fam")
    assert latest(images, folder, "fam") == images.get(second)
    images.delete(second)
    assert latest(images, folder, "fam").id == first


def test_a_family_without_an_image_is_not_found(images: Kind, folder: str) -> None:
    images.create(folder)
    for family in ("centos-8", ""):
        failed = refused(lambda f=family: latest(images, folder, f))  # type: ignore[misc]
        assert failed.code is grpc.StatusCode.NOT_FOUND
        assert failed.message == f'Image "{family}" not found'
    for wrong in ("UPPER", "ab", "a" * 64, "-ab", "ab-", "a_b"):
        failed = refused(lambda f=wrong: latest(images, folder, f))  # type: ignore[misc]
        assert (failed.code, [*failed.fields]) == (INVALID, ["family"])
        failed = refused(lambda f=wrong: images.begin(folder, family=f))  # type: ignore[misc]
        assert (failed.code, [*failed.fields]) == (INVALID, ["family"])


# --- uri ------------------------------------------------------------------------------------------


def test_an_empty_url_is_no_source(images: Kind, folder: str) -> None:
    failed = refused(lambda: images.begin(folder, uri=""))
    assert (failed.code, [*failed.fields]) == (INVALID, ["uri"])
    assert images.listed(folder) == []


def test_an_image_that_is_being_made_has_no_size_yet(images: Kind, folder: str) -> None:
    image = images.get(images.create(folder, uri=URI, min_disk_size=GIB))
    assert (image.size, image.storage_size, image.min_disk_size) == (0, 0, GIB)
    assert image.status == image_pb2.Image.CREATING
