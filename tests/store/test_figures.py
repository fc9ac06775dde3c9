"""What the store counts for Prometheus."""

from darkroom.domain.content import ContentTotals
from darkroom.domain.operation import DISK_CREATE, IMAGE_CREATE, Backlog, State
from darkroom.storage.port import MetadataStore
from store.rows import NOW_US, a_content, insert_operation


def test_what_is_under_way_is_counted_by_kind_and_state(store: MetadataStore) -> None:
    assert store.backlog() == []
    insert_operation(store, created_at_us=NOW_US - 5)
    assert store.claim("worker") is not None
    insert_operation(store, created_at_us=NOW_US - 3)
    insert_operation(store, created_at_us=NOW_US - 4)
    insert_operation(store, kind=DISK_CREATE)
    insert_operation(store, state=State.DONE, response={})
    assert store.backlog() == [
        Backlog(DISK_CREATE, State.PENDING, 1, NOW_US),
        Backlog(IMAGE_CREATE, State.PENDING, 2, NOW_US - 4),
        Backlog(IMAGE_CREATE, State.RUNNING, 1, NOW_US - 5),
    ]


def test_contents_and_their_bytes_are_summed(store: MetadataStore) -> None:
    assert store.content_totals() == ContentTotals(0, 0)
    for size_bytes in (1 << 62, 1 << 61):
        content = a_content(stored_size_bytes=size_bytes)
        store.write(lambda tx, content=content: tx.insert_content(content))  # type: ignore[misc]
    assert store.content_totals() == ContentTotals(2, (1 << 62) + (1 << 61))
