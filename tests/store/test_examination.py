"""What every store tells an examination of the installation."""

import pytest

from darkroom.domain.content import Content
from darkroom.domain.finding import Finding
from darkroom.domain.image import Image, Status
from darkroom.domain.operation import State
from darkroom.storage.invariants import CHECKS
from darkroom.storage.port import MetadataStore
from store.conftest import Opener
from store.rows import a_content, an_image, insert_image, insert_operation


def found(store: MetadataStore) -> dict[str, str]:
    """Subjects by check."""
    return {each.check: each.subject for each in store.violations()}


def test_a_sound_store_has_no_violations(store: MetadataStore) -> None:
    content = a_content()
    store.write(lambda tx: tx.insert_content(content))
    sizes = {
        "size_bytes": content.virtual_size_bytes,
        "storage_size_bytes": content.stored_size_bytes,
    }
    ready = insert_image(store, name="ready", content_id=content.id, **sizes)
    insert_image(store, name="failed", status=Status.ERROR)
    for state in (State.PENDING, State.RUNNING):
        creating = insert_image(store, name=state.name, status=Status.CREATING)
        insert_operation(store, resource_id=creating.id)
        if state is State.RUNNING:
            assert store.claim("worker") is not None
    done = insert_operation(store, resource_id="gone", state=State.DONE, response={})
    store.write(lambda tx: tx.remember("someone", "key", "hash", done.id))
    # The rows of tests keep a secret whatever their state.
    assert found(store) == {"operation-secret": done.id}
    (finding,) = store.violations()
    assert finding.can_mend and store.mend(finding) and not store.mend(finding)
    assert list(store.violations()) == [] and store.damage() == []
    assert store.get(Image, ready.id) == ready


@pytest.mark.parametrize("name", [name for name, check in CHECKS.items() if check.mend])
def test_mending_what_is_not_wrong_changes_nothing(store: MetadataStore, name: str) -> None:
    image = insert_image(store)
    operation = insert_operation(store, resource_id=image.id)
    for subject in (image.id, operation.id, "nothing"):
        assert not store.mend(Finding(name, subject, "", can_mend=True))
    assert store.get(Image, image.id) == image
    assert store.get_operation(operation.id) == operation


def test_what_nobody_creates_is_found_and_becomes_an_error(store: MetadataStore) -> None:
    image = insert_image(store, status=Status.CREATING)
    (finding,) = store.violations()
    assert (finding.check, finding.subject) == ("resource-creating", image.id)
    assert store.mend(finding)
    mended = store.get(Image, image.id)
    assert mended is not None and mended.status is Status.ERROR
    assert list(store.violations()) == []


def test_what_is_done_to_nothing_is_found(store: MetadataStore) -> None:
    operation = insert_operation(store)
    beside = insert_operation(store, resource_id=operation.resource_id, kind="image.delete")
    insert_operation(store, kind="image.polish")  # a newer version's business
    findings = {(each.check, each.subject) for each in store.violations()}
    assert findings == {
        ("operation-resource", operation.id),
        ("operation-resource", beside.id),
        ("operation-conflict", min(operation.id, beside.id)),
    }


def test_contents_come_in_pages(store: MetadataStore) -> None:
    contents = sorted((a_content() for _ in range(5)), key=lambda each: each.id)
    for content in contents:
        store.write(lambda tx, content=content: tx.insert_content(content))  # type: ignore[misc]
    seen: list[Content] = []
    while page := store.contents(seen[-1].id if seen else "", 2):
        assert len(page) <= 2
        seen += page
    assert seen == contents


def test_a_lease_is_taken_back_only_as_it_was_seen(open_again: Opener) -> None:
    store, observer = open_again(), open_again()
    operation = insert_operation(store)
    store.write(lambda tx: tx.insert_resource(an_image(id=operation.resource_id)))
    (waiting,) = observer.unfinished()
    assert (waiting.id, waiting.state, waiting.owner) == (operation.id, State.PENDING, "")
    assert waiting.sealed == "sealed text"
    assert not observer.take_back(waiting)
    claim = store.claim("one")
    assert claim is not None
    (seen,) = observer.unfinished()
    assert (seen.state, seen.owner, seen.fence) == (State.RUNNING, "one", 1)
    assert store.heartbeat(claim.lease, "fetch", 1, None) is not None
    assert not observer.take_back(seen), "it has shown life since"
    (seen,) = observer.unfinished()
    assert observer.take_back(seen)
    assert store.heartbeat(claim.lease, "fetch", 2, None) is None
    again = store.claim("two")
    assert again is not None and again.lease.fence == 2
    insert_operation(store, state=State.DONE, response={})
    assert [each.id for each in observer.unfinished()] == [operation.id]
