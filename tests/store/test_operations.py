"""What every store promises about operations, leases and idempotency keys."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from darkroom.domain import errors
from darkroom.domain.access import AccessBinding
from darkroom.domain.image import Image
from darkroom.domain.operation import Claim, Lease, Operation, State
from darkroom.storage.port import MetadataStore, Transaction
from store.conftest import LEASE_SECONDS, Opener
from store.rows import NOW_US, a_content, an_image, an_operation, insert_operation

PATIENCE_SECONDS = 10.0


def claim_within(claim: Callable[[], Claim | None], seconds: float = PATIENCE_SECONDS) -> Claim:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (claimed := claim()) is not None:
            return claimed
        time.sleep(0.01)
    raise AssertionError("nothing became due")


def stored(store: MetadataStore, operation_id: str) -> Operation:
    operation = store.get_operation(operation_id)
    assert operation is not None
    return operation


def test_a_finished_operation_comes_back_as_it_went_in(store: MetadataStore) -> None:
    answered = insert_operation(store, state=State.DONE, response={"id": "x", "nested": {"a": 1}})
    empty = insert_operation(store, state=State.DONE, response={})
    assert store.get_operation(answered.id) == answered
    assert stored(store, empty.id).response == {}
    assert store.get_operation("nothing") is None


def test_an_error_comes_back_whole(store: MetadataStore) -> None:
    error = errors.min_disk_size_too_small(4096)
    operation = insert_operation(store, state=State.DONE, error=error)
    kept = stored(store, operation.id).error
    assert kept is not None
    assert kept.to_record() == error.to_record()


def test_pending_operations_are_claimed_once_oldest_first(store: MetadataStore) -> None:
    second = insert_operation(store, created_at_us=NOW_US + 1)
    first = insert_operation(store, created_at_us=NOW_US)
    insert_operation(store, state=State.DONE, response={})
    claims = [store.claim("one"), store.claim("two"), store.claim("three")]
    assert claims[2] is None
    assert claims[0] is not None and claims[1] is not None
    assert [claims[0].operation.id, claims[1].operation.id] == [first.id, second.id]
    claim = claims[0]
    assert claim.lease == Lease(first.id, "one", 1)
    assert (claim.attempt, claim.payload, claim.sealed) == (1, {"answer": 42}, "sealed text")
    assert claim.operation.state is State.RUNNING


def test_many_claimers_never_share_an_operation(open_again: Opener) -> None:
    # Leases that nobody could lose meanwhile, however slow the machine is: one claim for each.
    stores = [open_again(lease_seconds=600.0) for _ in range(4)]
    operations = {insert_operation(stores[0]).id for _ in range(40)}
    claimed: list[Lease] = []
    start = threading.Barrier(len(stores))

    def claim_all(number: int) -> None:
        start.wait()
        while (claim := stores[number].claim(f"worker-{number}")) is not None:
            claimed.append(claim.lease)

    threads = [threading.Thread(target=claim_all, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while (claim := stores[0].claim("last")) is not None:  # a claimer may stop at a lost race
        claimed.append(claim.lease)
    assert sorted(lease.operation_id for lease in claimed) == sorted(operations)
    assert {lease.fence for lease in claimed} == {1}


def test_a_lease_without_heartbeat_goes_to_the_next_fence(
    store: MetadataStore, open_again: Opener
) -> None:
    operation = insert_operation(store)
    first = store.claim("dead")
    assert first is not None
    other = open_again()
    second = claim_within(lambda: other.claim("alive"))
    assert second.lease == Lease(operation.id, "alive", 2)
    assert second.attempt == 2
    # What the first one still wants to say is not heard.
    assert store.heartbeat(first.lease, "fetch", 1, 2) is None
    assert not store.put_back(first.lease, 0, count_attempt=True)
    assert not store.write(lambda tx: tx.finish_leased(first.lease, NOW_US, response={}))
    assert stored(store, operation.id).fence == 2
    assert store.write(lambda tx: tx.finish_leased(second.lease, NOW_US, response={}))


def test_a_heartbeat_keeps_the_lease_and_records_progress(
    store: MetadataStore, open_again: Opener
) -> None:
    operation = insert_operation(store)
    claim = store.claim("busy")
    assert claim is not None
    other = open_again()
    deadline = time.monotonic() + 4 * LEASE_SECONDS
    while time.monotonic() < deadline:
        beat = store.heartbeat(claim.lease, "fetch", 10, 20)
        assert beat is not None and not beat.cancel_requested
        assert other.claim("thief") is None
        time.sleep(LEASE_SECONDS / 10)
    seen = stored(store, operation.id)
    assert (seen.phase, seen.progress_done_bytes, seen.progress_total_bytes) == ("fetch", 10, 20)


def test_the_end_is_written_once_and_erases_secrets(store: MetadataStore) -> None:
    operation = insert_operation(store)
    claim = store.claim("worker")
    assert claim is not None
    response = {"id": "image"}
    assert store.write(lambda tx: tx.finish_leased(claim.lease, NOW_US + 5, response=response))
    ended = stored(store, operation.id)
    assert ended.done and ended.response == response and ended.error is None
    assert ended.modified_at_us == NOW_US + 5
    assert not store.write(
        lambda tx: tx.finish_leased(claim.lease, NOW_US, error=errors.internal())
    )
    assert store.heartbeat(claim.lease, "", 0, None) is None
    assert store.claim("other") is None
    assert stored(store, operation.id).error is None


def test_a_lease_belongs_to_its_owner(store: MetadataStore) -> None:
    insert_operation(store)
    claim = store.claim("owner")
    assert claim is not None
    forged = replace(claim.lease, owner="somebody else")
    assert store.heartbeat(forged, "", 0, None) is None
    assert not store.write(lambda tx: tx.finish_leased(forged, NOW_US, response={}))


def test_an_acknowledged_cancel_never_ends_in_success(store: MetadataStore) -> None:
    operation = insert_operation(store)
    claim = store.claim("worker")
    assert claim is not None
    store.write(lambda tx: tx.request_cancel(operation.id, NOW_US + 1))
    beat = store.heartbeat(claim.lease, "convert", 0, None)
    assert beat is not None and beat.cancel_requested
    assert not store.write(lambda tx: tx.finish_leased(claim.lease, NOW_US, response={}))
    cancelled = errors.operation_cancelled()
    assert store.write(lambda tx: tx.finish_leased(claim.lease, NOW_US, error=cancelled))
    error = stored(store, operation.id).error
    assert error is not None and error.reason == "OPERATION_CANCELLED"


def test_a_cancel_of_a_finished_operation_changes_nothing(store: MetadataStore) -> None:
    operation = insert_operation(store, state=State.DONE, response={})
    store.write(lambda tx: tx.request_cancel(operation.id, NOW_US + 1))
    store.write(lambda tx: tx.end_operation(replace(operation, error=errors.internal())))
    assert store.get_operation(operation.id) == operation


def test_work_that_was_put_back_is_due_after_its_delay(store: MetadataStore) -> None:
    insert_operation(store)
    claim = store.claim("worker")
    assert claim is not None
    assert store.put_back(claim.lease, 0, count_attempt=False)
    again = store.claim("worker")
    assert again is not None
    assert (again.attempt, again.lease.fence) == (1, 2)
    started = time.monotonic()
    assert store.put_back(again.lease, 300, count_attempt=True)
    third = claim_within(lambda: store.claim("worker"))
    assert time.monotonic() - started >= 0.3
    assert (third.attempt, third.lease.fence) == (2, 3)


def test_everything_a_dead_worker_held_goes_back_at_once(store: MetadataStore) -> None:
    mine, theirs = insert_operation(store), insert_operation(store, created_at_us=NOW_US + 1)
    assert store.claim("dead") is not None
    assert store.claim("alive") is not None
    assert store.put_back_all("dead") == 1
    assert store.put_back_all("dead") == 0
    assert stored(store, mine.id).state is State.PENDING
    assert stored(store, theirs.id).state is State.RUNNING


def test_only_the_current_attempt_is_live(store: MetadataStore) -> None:
    operation = insert_operation(store)
    claim = store.claim("worker")
    assert claim is not None
    attempts = [(operation.id, 1), (operation.id, 2), ("nothing", 1)]
    assert store.live_attempts(attempts) == {(operation.id, 1)}
    store.put_back(claim.lease, 0, count_attempt=True)
    assert store.live_attempts(attempts) == set()


def test_a_cancelled_operation_that_is_put_back_does_not_wait(store: MetadataStore) -> None:
    operation = insert_operation(store)
    first = store.claim("worker")
    assert first is not None
    store.write(lambda tx: tx.request_cancel(operation.id, NOW_US))
    assert store.put_back(first.lease, 60_000, count_attempt=True)
    assert store.claim("worker") is not None


def test_unfinished_operations_are_found_by_resource(store: MetadataStore) -> None:
    operation = insert_operation(store)

    def unfinished() -> str | None:
        return store.write(lambda tx: tx.unfinished_operation_on(operation.resource_id))

    assert unfinished() == operation.id
    store.write(
        lambda tx: tx.end_operation(
            replace(operation, state=State.DONE, error=errors.operation_cancelled())
        )
    )
    assert unfinished() is None


def test_an_idempotency_key_belongs_to_its_subject_and_lives_with_its_operation(
    store: MetadataStore,
) -> None:
    operation = insert_operation(store, state=State.DONE, response={})
    store.write(lambda tx: tx.remember("alice", "key", "hash", operation.id))
    use = store.write(lambda tx: tx.replay("alice", "key"))
    assert use is not None
    assert (use.request_hash, use.operation_id) == ("hash", operation.id)
    assert store.write(lambda tx: tx.replay("bob", "key")) is None
    assert store.write(lambda tx: tx.replay("alice", "KEY")) is None
    assert store.purge_operations(NOW_US, 10) == 0
    assert store.purge_operations(NOW_US + 1, 10) == 1
    assert store.get_operation(operation.id) is None
    assert store.write(lambda tx: tx.replay("alice", "key")) is None


def test_purging_spares_what_is_unfinished_and_goes_by_small_steps(store: MetadataStore) -> None:
    unfinished = an_operation()
    store.write(lambda tx: tx.insert_operation(unfinished))
    for _ in range(5):
        insert_operation(store, state=State.DONE, response={})
    assert store.purge_operations(NOW_US + 1, 3) == 3
    assert store.purge_operations(NOW_US + 1, 3) == 2
    assert store.purge_operations(NOW_US + 1, 3) == 0
    assert store.get_operation(unfinished.id) == unfinished


def test_clearing_leaves_nothing_and_what_was_there_can_be_made_again(
    store: MetadataStore, open_again: Opener
) -> None:
    content = a_content()
    image = an_image(name="one", content_id=content.id)
    operation = an_operation(resource_id=image.id)
    binding = AccessBinding("viewer", "userAccount", "somebody")

    def make(tx: Transaction) -> None:
        tx.insert_content(content)
        tx.insert_resource(image)
        tx.add_binding(image.id, binding)
        tx.insert_operation(operation)
        tx.remember("tester", "key", "hash", operation.id)

    store.write(make)
    other = open_again()
    claimed = other.claim("worker")
    assert claimed is not None
    store.write(lambda tx: tx.clear())
    assert other.get(Image, image.id) is None
    assert other.get_operation(operation.id) is None
    assert other.list_bindings(image.id, None, 10) == []
    assert other.contents_in_use([content.id]) == set()
    assert store.write(lambda tx: tx.replay("tester", "key")) is None
    assert other.heartbeat(claimed.lease, "fetch", 0, None) is None
    assert not other.write(lambda tx: tx.finish_leased(claimed.lease, NOW_US, response={}))
    assert other.claim("worker") is None
    store.write(make)
    assert store.get(Image, image.id) == image


def test_the_schema_can_be_migrated_twice_and_is_checked(store: MetadataStore) -> None:
    assert store.migrate() == store.migrate()
    store.check_schema()
    assert store.writable()


@pytest.mark.parametrize("writers", [8])
def test_concurrent_writers_all_get_through(
    store: MetadataStore, open_again: Opener, writers: int
) -> None:
    stores = [store, open_again()]
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for _ in range(10):
                insert_operation(stores[number % 2], state=State.DONE, response={})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.purge_operations(NOW_US + 1, 1000) == writers * 10


def test_unfinished_operations_of_a_folder_are_counted_up_to_a_bound(store: MetadataStore) -> None:
    for _ in range(3):
        insert_operation(store)
    insert_operation(store, folder_id="folder-b")
    insert_operation(store, state=State.DONE, response={})
    running = store.claim("one")
    assert running is not None
    assert store.write(lambda tx: tx.count_unfinished("folder-a", 10)) == 3
    assert store.write(lambda tx: tx.count_unfinished("folder-a", 2)) == 2
    assert store.write(lambda tx: tx.count_unfinished("nowhere", 10)) == 0


def test_who_counts_before_adding_never_goes_over_the_bound(open_again: Opener) -> None:
    limit, barrier = 3, threading.Barrier(4)
    added: list[bool] = []

    def add(store: MetadataStore) -> None:
        def change(tx: Transaction) -> bool:
            if tx.count_unfinished("folder-a", limit) >= limit:
                return False
            tx.insert_operation(an_operation())
            return True

        barrier.wait()
        added.extend(store.write(change) for _ in range(3))

    threads = [threading.Thread(target=add, args=(open_again(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(added) == 12 and sum(added) == limit


def test_only_who_holds_the_key_that_seals_claims_anything(
    store: MetadataStore, open_again: Opener
) -> None:
    insert_operation(store)
    assert store.secret_key() is None
    store.write(lambda tx: tx.set_secret_key("new"))
    other = open_again()
    assert other.secret_key() == store.write(lambda tx: tx.secret_key()) == "new"
    assert other.claim("wrong", ("old", "older")) is None
    claim = other.claim("right", ("old", "new"))
    assert claim is not None
    time.sleep(2 * LEASE_SECONDS)  # it is free again, but not for everybody
    for _ in range(5):
        assert other.claim("wrong", ("old",)) is None
        time.sleep(LEASE_SECONDS / 4)
    store.write(lambda tx: tx.set_secret_key("old"))
    assert claim_within(lambda: other.claim("wrong", ("old",))).lease.fence == 2
