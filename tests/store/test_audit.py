"""The audit log: entries are added, listed in order, and removed when they are old."""

import pytest

from darkroom.domain.audit import AuditEntry
from darkroom.storage.port import MetadataStore


def entry(at_us: int, **values: str) -> AuditEntry:
    known = {"subject_type": "userAccount", "subject_id": "alice", "action": "image.delete"}
    return AuditEntry(at_us, **{**known, "result": "OK", **values})


def test_entries_are_listed_oldest_first_and_by_what_they_are_about(store: MetadataStore) -> None:
    entries = [
        entry(30, resource_id="one"),
        entry(10, resource_id="two", folder_id="f", operation_id="o", request_id="r"),
        entry(20, resource_id="one", subject_id="bob", result="ABORTED", reason="WHY"),
    ]
    for each in entries:
        store.write(lambda tx, each=each: tx.record(each))  # type: ignore[misc]
    third, first, second = entries
    assert store.list_audit((0, ""), 10) == [first, second, third]
    assert store.list_audit((0, ""), 2) == [first, second]
    assert store.list_audit((20, second.id), 10) == [third]
    assert store.list_audit((20, ""), 10) == [second, third]
    assert store.list_audit((0, ""), 10, subject_id="alice") == [first, third]
    assert store.list_audit((0, ""), 10, resource_id="one") == [second, third]
    assert store.list_audit((0, ""), 10, resource_id="one", subject_id="bob") == [second]


def test_an_entry_is_there_only_if_its_change_is(store: MetadataStore) -> None:
    def change(tx: object) -> None:
        tx.record(entry(1))  # type: ignore[attr-defined]
        raise KeyError

    with pytest.raises(KeyError):
        store.write(change)
    assert store.list_audit((0, ""), 10) == []


def test_old_entries_are_removed_a_few_at_a_time(store: MetadataStore) -> None:
    for number in range(5):
        store.write(lambda tx, number=number: tx.record(entry(number)))  # type: ignore[misc]
    assert store.purge_audit(4, 3) == 3
    assert store.purge_audit(4, 3) == 1
    assert store.purge_audit(4, 3) == 0
    assert [each.at_us for each in store.list_audit((0, ""), 10)] == [4]
