"""Revocations: kept once for each mark, for as long as they may matter."""

from darkroom.domain.access import Revocation
from darkroom.storage.port import MetadataStore


def test_revocations_are_found_since_a_moment(store: MetadataStore) -> None:
    store.write(lambda tx: tx.revoke("a", 5, 10, 100))
    store.write(lambda tx: tx.revoke("b", 2**63 - 1, 20, 2**63 - 1))
    assert sorted(map(vars_of, store.revocations(0))) == [("a", 5, 10), ("b", 2**63 - 1, 20)]
    assert [each.mark for each in store.revocations(11)] == ["b"]
    assert [each.mark for each in store.revocations(20)] == ["b"]
    assert store.revocations(21) == []


def vars_of(revocation: Revocation) -> tuple[str, int, int]:
    return revocation.mark, revocation.before_us, revocation.at_us


def test_a_mark_covers_what_it_has_ever_covered(store: MetadataStore) -> None:
    store.write(lambda tx: tx.revoke("a", 2**63 - 1, 10, 2**63 - 1))
    store.write(lambda tx: tx.revoke("a", 5, 20, 100))
    assert list(map(vars_of, store.revocations(0))) == [("a", 2**63 - 1, 20)]
    assert store.forget_revocations(101) == 0


def test_what_cannot_matter_any_more_is_forgotten(store: MetadataStore) -> None:
    store.write(lambda tx: tx.revoke("a", 5, 10, 100))
    assert store.forget_revocations(100) == 0
    assert store.forget_revocations(101) == 1
    assert store.revocations(0) == []
