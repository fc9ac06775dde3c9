"""What every store promises about images and contents."""

import threading
from dataclasses import replace

import pytest

from darkroom.domain.errors import Code, Failure
from darkroom.domain.image import HardwareGeneration, Image, KmsKey, Os, OsType, Status
from darkroom.domain.query import Query
from darkroom.storage.port import MetadataStore, Transaction
from store.conftest import Opener
from store.rows import a_content, an_image, insert_image

FULL = {
    "name": "name-1",
    "description": "Ünïcode \N{GRINNING FACE} 'quoted' \"twice\" \\ \n \x00".replace("\x00", ""),
    "labels": {"key": "value", "slash/dot.at@back\\": ""},
    "family": "family-1",
    "size_bytes": 4 << 40,
    "storage_size_bytes": (1 << 62) + 1,
    "min_disk_size_bytes": 4 << 40,
    "product_ids": ("p1", "p2"),
    "os": Os(OsType.WINDOWS, "driver"),
    "pooled": True,
    "hardware_generation": HardwareGeneration(0, True, "template", True),
    "kms_key": KmsKey("key", "version"),
}


def test_an_image_comes_back_as_it_went_in(store: MetadataStore) -> None:
    plain = insert_image(store)
    full = insert_image(store, **FULL)
    assert store.get(Image, plain.id) == plain
    assert store.get(Image, full.id) == full
    assert Image.from_record(full.to_record()) == full


def test_ids_are_case_sensitive_and_missing_ones_are_none(store: MetadataStore) -> None:
    insert_image(store, id="fd8abc")
    assert store.get(Image, "FD8ABC") is None
    assert store.get(Image, "fd8abc ") is None
    assert store.get(Image, "") is None


def test_a_failed_change_leaves_nothing(store: MetadataStore) -> None:
    image = an_image()

    def change(tx: Transaction) -> None:
        tx.insert_resource(image)
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        store.write(change)
    assert store.get(Image, image.id) is None
    insert_image(store)  # and the store goes on working


def test_writes_are_seen_by_other_connections_at_once(
    store: MetadataStore, open_again: Opener
) -> None:
    other = open_again()
    image = insert_image(store)
    assert other.get(Image, image.id) == image


@pytest.mark.parametrize("status", [Status.CREATING, Status.READY, Status.DELETING])
def test_a_name_is_taken_by_a_live_image_of_the_folder(
    store: MetadataStore, status: Status
) -> None:
    insert_image(store, name="taken", status=status)
    with pytest.raises(Failure) as refused:
        insert_image(store, name="taken")
    assert refused.value.code is Code.ALREADY_EXISTS
    assert refused.value.message == 'Image with name "taken" already exists'
    insert_image(store, name="taken", folder_id="folder-b")
    insert_image(store, name="Taken")


def test_empty_names_and_names_of_images_in_error_are_free(store: MetadataStore) -> None:
    insert_image(store, name="")
    insert_image(store, name="")
    insert_image(store, name="again", status=Status.ERROR)
    insert_image(store, name="again", status=Status.ERROR)
    second = insert_image(store, name="again")
    other = insert_image(store, name="other")
    with pytest.raises(Failure) as refused:
        store.write(lambda tx: tx.update_resource(replace(other, name="again")))
    assert refused.value.code is Code.ALREADY_EXISTS
    store.write(lambda tx: tx.update_resource(replace(second, status=Status.ERROR)))
    store.write(lambda tx: tx.update_resource(replace(other, name="again")))


def test_of_concurrent_inserts_of_one_name_one_wins(
    store: MetadataStore, open_again: Opener
) -> None:
    stores = [store, open_again()]
    barrier = threading.Barrier(8)
    outcomes: list[str] = []

    def insert(number: int) -> None:
        barrier.wait()
        try:
            insert_image(stores[number % 2], name="contested")
            outcomes.append("inserted")
        except Failure as failure:
            outcomes.append(failure.reason)

    threads = [threading.Thread(target=insert, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["RESOURCE_ALREADY_EXISTS"] * 7 + ["inserted"]


def test_images_are_listed_by_id_in_byte_order_within_their_folder(store: MetadataStore) -> None:
    ids = ["fd8a", "fd8B", "fd8b", "fd80", "fd8-", "fd8_"]
    for image_id in ids:
        insert_image(store, id=image_id)
    insert_image(store, id="fd8c", folder_id="folder-b")
    listed = [image.id for image in store.find(Image, Query("folder-a"), 100)]
    assert listed == sorted(ids)
    after = Query("folder-a", after=(listed[2],))
    assert [image.id for image in store.find(Image, after, 2)] == listed[3:5]
    assert store.find(Image, Query("nowhere"), 100) == []


def test_a_content_in_use_cannot_be_removed(store: MetadataStore) -> None:
    used, unused = a_content(), a_content()
    for content in (used, unused):
        store.write(lambda tx, content=content: tx.insert_content(content))  # type: ignore[misc]
    first = insert_image(store, content_id=used.id)
    second = insert_image(store, content_id=used.id)
    assert store.unreferenced_contents(10) == [unused.id]
    assert store.contents_in_use([used.id, unused.id, "nothing"]) == {used.id, unused.id}
    assert store.content(used.id) == used
    assert store.content("nothing") is None
    assert not store.delete_content(used.id)
    assert store.delete_content(unused.id)
    store.write(lambda tx: tx.delete_resource(first.id))
    assert not store.delete_content(used.id)
    store.write(lambda tx: tx.delete_resource(second.id))
    assert store.unreferenced_contents(10) == [used.id]
    assert store.delete_content(used.id)
    assert not store.delete_content(used.id)


def test_a_content_is_found_however_its_last_resource_lets_go(store: MetadataStore) -> None:
    """Also after the store has looked at it and found it in use."""
    deleted, replaced, dropped, kept = contents = sorted(
        (a_content() for _ in range(4)), key=lambda content: content.id
    )
    for content in contents:
        store.write(lambda tx, content=content: tx.insert_content(content))  # type: ignore[misc]
    images = [insert_image(store, content_id=content.id) for content in contents]
    insert_image(store, content_id=kept.id)
    assert store.unreferenced_contents(2) == []
    store.write(lambda tx: tx.delete_resource(images[0].id))
    store.write(lambda tx: tx.update_resource(replace(images[1], content_id=kept.id)))
    store.write(lambda tx: tx.update_resource(replace(images[2], content_id=None)))
    store.write(lambda tx: tx.update_resource(replace(images[3], description="the same")))
    store.write(lambda tx: tx.delete_resource(images[3].id))
    assert store.unreferenced_contents(10) == [deleted.id, replaced.id, dropped.id]
    insert_image(store, content_id=deleted.id)  # used again: no harm in having asked
    assert store.unreferenced_contents(10) == [replaced.id, dropped.id]
    assert store.contents_in_use([deleted.id, kept.id]) == {deleted.id, kept.id}


def test_contents_in_use_do_not_hide_one_that_is_not(store: MetadataStore) -> None:
    contents = sorted((a_content() for _ in range(7)), key=lambda content: content.id)
    for content in contents:
        store.write(lambda tx, content=content: tx.insert_content(content))  # type: ignore[misc]
    for content in contents[:-1]:
        insert_image(store, content_id=content.id)
    assert store.unreferenced_contents(2) == [contents[-1].id]


def test_an_image_of_a_content_that_is_not_there_is_refused(store: MetadataStore) -> None:
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        insert_image(store, content_id="gone.1")


def test_concurrent_changes_fail_or_succeed_each_for_itself(
    store: MetadataStore, open_again: Opener
) -> None:
    stores = [store, open_again()]
    images = [an_image(name=f"n{number}") for number in range(40)]
    outcomes: dict[int, str] = {}
    barrier = threading.Barrier(len(images))

    def write(number: int) -> None:
        def change(tx: Transaction) -> str:
            tx.insert_resource(images[number])
            if number % 4 == 0:
                raise RuntimeError(f"on purpose {number}")
            if number % 4 == 1:
                tx.insert_resource(an_image(name="contested"))
            return f"result {number}"

        barrier.wait()
        try:
            outcomes[number] = stores[number % 2].write(change)
        except (RuntimeError, Failure) as error:
            outcomes[number] = str(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    contested = 0
    for number, image in enumerate(images):
        kept = store.get(Image, image.id) is not None
        if number % 4 == 0:
            assert (outcomes[number], kept) == (f"on purpose {number}", False)
        elif number % 4 == 1:
            contested += kept
            assert kept == (outcomes[number] == f"result {number}")
        else:
            assert (outcomes[number], kept) == (f"result {number}", True)
    assert contested == 1
