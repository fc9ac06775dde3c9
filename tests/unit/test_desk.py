"""Operations begin once: idempotency keys, concurrent calls, conflicts, creation from an image."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.domain.content import Content
from darkroom.domain.disk import Disk
from darkroom.domain.errors import Code, Failure
from darkroom.domain.image import HardwareGeneration, Image, KmsKey, Os, OsType, Status
from darkroom.domain.operation import IMAGE_CREATE, Operation, State
from darkroom.domain.query import Query
from darkroom.domain.snapshot import Snapshot
from darkroom.operations.changing import Delete
from darkroom.operations.deriving import ResourceSource
from darkroom.operations.desk import Caller, Operations
from darkroom.operations.image_create import CreateImage, ImageCreateEnding, UriSource
from darkroom.storage.sqlite import SqliteStore

ALICE = Caller("alice", "11111111-1111-4111-8111-111111111111")
OBJECT = "https://storage.yandexcloud.net/bucket/disk.qcow2"
URL = f"{OBJECT}?X-Amz-Date=20260101T000000Z&X-Amz-Signature=aaaa"
NO_KEY = Caller("alice")
GIB = 1 << 30


class Desk(Operations):
    """The front desk with its store in reach."""

    def __init__(self, store: SqliteStore) -> None:
        super().__init__(store, {IMAGE_CREATE: ImageCreateEnding()}, lambda _id, text: text[::-1])
        self.store = store

    def ready_image(self, **values: object) -> Image:
        """A READY image of 1 GiB + 1 byte over a content of its own."""
        content = Content(f"op{id(values)}.1", GIB + 1, 100, "", "", 0)
        image = Image("fd8source", "folder", 1, Status.READY, content_id=content.id)
        image = Image(
            **{**image.__dict__, "size_bytes": GIB + 1, "storage_size_bytes": 100, **values}
        )

        def change(tx: object) -> None:
            tx.insert_content(content)  # type: ignore[attr-defined]
            tx.insert_resource(image)  # type: ignore[attr-defined]

        self.store.write(change)
        return image

    def made(self, operation: Operation) -> Image:
        image = self.store.get(Image, operation.resource_id)
        assert image is not None
        return image


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    store = SqliteStore(tmp_path / "metadata.sqlite")
    store.migrate()
    yield Desk(store)
    store.close()


def from_uri(uri: str = URL, **values: object) -> CreateImage:
    return CreateImage("folder", UriSource(uri), **values)  # type: ignore[arg-type]


def test_a_uri_leaves_a_creating_image_and_a_sealed_secret(desk: Desk) -> None:
    operation = desk.begin(from_uri(name="n"), NO_KEY)
    assert operation.state is State.PENDING
    assert operation.created_by == "alice"
    assert operation.created_at_us == operation.modified_at_us
    assert desk.made(operation).status is Status.CREATING
    claim = desk.store.claim("worker")
    assert claim is not None
    assert claim.sealed == URL[::-1]
    assert "Signature" not in str(claim.payload)


def test_a_repeated_key_gives_the_same_operation_for_ever(desk: Desk) -> None:
    first = desk.begin(from_uri(name="n"), ALICE)
    assert desk.begin(from_uri(name="n"), ALICE) == first
    cancelled = desk.cancel(first.id)
    again = desk.begin(from_uri(name="n"), ALICE)
    assert again.id == first.id and again.done
    assert again.error is not None and cancelled.error is not None
    assert again.error.to_record() == cancelled.error.to_record()
    assert desk.store.get(Image, first.resource_id) is None


def test_a_repeat_after_the_image_was_deleted_gives_the_same_operation(desk: Desk) -> None:
    desk.ready_image()
    create = CreateImage("folder", ResourceSource(Image, "fd8source"), name="copy")
    first = desk.begin(create, ALICE)
    deletion = desk.begin(Delete(Image, first.resource_id), Caller("alice", "another"))
    assert desk.begin(create, ALICE) == first
    assert desk.begin(Delete(Image, first.resource_id), Caller("alice", "another")) == deletion
    desk.begin(Delete(Image, "fd8source"), NO_KEY)
    assert desk.begin(create, ALICE) == first


def test_a_url_signed_anew_is_the_same_request(desk: Desk) -> None:
    first = desk.begin(from_uri(), ALICE)
    resigned = f"{OBJECT}?X-Amz-Date=20260202T000000Z&X-Amz-Signature=bbbb"
    assert desk.begin(from_uri(resigned), ALICE).id == first.id


@pytest.mark.parametrize(
    "other",
    [
        from_uri(f"{OBJECT}.other?X-Amz-Signature=aaaa"),
        from_uri(f"{URL}&versionId=2"),
        from_uri(name="other"),
        from_uri(labels={"a": "b"}),
        from_uri(os=Os(OsType.WINDOWS)),
        from_uri(hardware_generation=HardwareGeneration(2)),
        CreateImage("folder", ResourceSource(Image, "x")),
        Delete(Image, "x"),
    ],
)
def test_a_key_with_another_request_is_refused(desk: Desk, other: CreateImage) -> None:
    desk.begin(from_uri(), ALICE)
    with pytest.raises(Failure) as refused:
        desk.begin(other, ALICE)
    assert refused.value.reason == "IDEMPOTENCY_KEY_REUSED"


def test_another_subject_has_other_keys(desk: Desk) -> None:
    first = desk.begin(from_uri(), ALICE)
    assert desk.begin(from_uri(), Caller("bob", ALICE.idempotency_key)).id != first.id


def test_a_refused_request_leaves_its_key_free(desk: Desk) -> None:
    with pytest.raises(Failure):
        desk.begin(CreateImage("folder", ResourceSource(Image, "missing")), ALICE)
    assert desk.begin(from_uri(), ALICE).state is State.PENDING


def test_concurrent_calls_with_one_key_make_one_operation(desk: Desk) -> None:
    barrier = threading.Barrier(8)
    operations: list[Operation] = []

    def begin() -> None:
        barrier.wait()
        operations.append(desk.begin(from_uri(), ALICE))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(operations) == 8
    assert len({operation.id for operation in operations}) == 1
    assert len(desk.store.find(Image, Query("folder"), 100)) == 1


def test_an_image_of_an_image_is_done_at_once_and_shares_the_content(desk: Desk) -> None:
    source = desk.ready_image(
        os=Os(OsType.WINDOWS, "driver"),
        product_ids=("a", "b"),
        hardware_generation=HardwareGeneration(0, True),
        kms_key=KmsKey("key", "1"),
    )
    create = CreateImage(
        "other", ResourceSource(Image, source.id), name="copy", product_ids=("b", "c")
    )
    operation = desk.begin(create, NO_KEY)
    image = desk.made(operation)
    assert operation.done and operation.response == image.to_record()
    assert image.status is Status.READY
    assert (image.content_id, image.size_bytes) == (source.content_id, source.size_bytes)
    assert image.storage_size_bytes == source.storage_size_bytes
    assert (image.os, image.kms_key) == (source.os, source.kms_key)
    assert image.hardware_generation == source.hardware_generation
    assert image.product_ids == ("a", "b", "c")
    assert image.min_disk_size_bytes == GIB + (4 << 20)
    # Deleting the source leaves the copy and the shared content alone.
    desk.begin(Delete(Image, source.id), NO_KEY)
    assert desk.store.unreferenced_contents(10) == []
    desk.begin(Delete(Image, image.id), NO_KEY)
    assert desk.store.unreferenced_contents(10) == [image.content_id]


def test_an_unspecified_os_inherits_and_a_named_one_overrides(desk: Desk) -> None:
    source = desk.ready_image(os=Os(OsType.WINDOWS))
    unsaid = CreateImage("folder", ResourceSource(Image, source.id), os=Os(OsType.UNSPECIFIED))
    said = CreateImage("folder", ResourceSource(Image, source.id), os=Os(OsType.LINUX))
    assert desk.made(desk.begin(unsaid, NO_KEY)).os.type is OsType.WINDOWS
    assert desk.made(desk.begin(said, NO_KEY)).os.type is OsType.LINUX
    assert desk.made(desk.begin(from_uri(), NO_KEY)).os.type is OsType.LINUX


def test_a_minimal_disk_size_below_the_virtual_size_is_refused(desk: Desk) -> None:
    source = desk.ready_image()
    fitting = CreateImage("folder", ResourceSource(Image, source.id), min_disk_size_bytes=GIB + 1)
    assert desk.made(desk.begin(fitting, NO_KEY)).min_disk_size_bytes == GIB + 1
    with pytest.raises(Failure) as refused:
        desk.begin(
            CreateImage("folder", ResourceSource(Image, source.id), min_disk_size_bytes=GIB), NO_KEY
        )
    assert refused.value.reason == "MIN_DISK_SIZE_TOO_SMALL"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (ResourceSource(Image, "nothing"), 'Image "nothing" not found'),
        (ResourceSource(Disk, "nothing"), 'Disk "nothing" not found'),
        (ResourceSource(Snapshot, "nothing"), 'Snapshot "nothing" not found'),
    ],
)
def test_a_missing_source_is_a_failed_precondition(
    desk: Desk, source: ResourceSource, message: str
) -> None:
    with pytest.raises(Failure) as refused:
        desk.begin(CreateImage("folder", source), NO_KEY)
    assert refused.value.code is Code.FAILED_PRECONDITION
    assert refused.value.message == message


def test_an_unfinished_image_is_no_source_and_cannot_be_deleted(desk: Desk) -> None:
    creating = desk.begin(from_uri(), NO_KEY)
    with pytest.raises(Failure) as refused:
        desk.begin(CreateImage("folder", ResourceSource(Image, creating.resource_id)), NO_KEY)
    assert refused.value.reason == "SOURCE_NOT_READY"
    with pytest.raises(Failure, match=f'conflicting operation "{creating.id}" detected'):
        desk.begin(Delete(Image, creating.resource_id), NO_KEY)


def test_deleting_or_cancelling_what_is_not_there_is_not_found(desk: Desk) -> None:
    with pytest.raises(Failure, match='Image "nothing" not found'):
        desk.begin(Delete(Image, "nothing"), NO_KEY)
    with pytest.raises(Failure, match='Operation "nothing" not found'):
        desk.cancel("nothing")
