"""The collector and uploads that are under way at the same moment."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from content_storage import FaultyProxy, Request, Storage, first
from darkroom.domain.content import Content, content_id
from darkroom.domain.errors import Failure
from darkroom.domain.operation import Claim, State
from darkroom.imaging.contents import ContentStore
from darkroom.imaging.s3_calls import CallLimits, Calls
from darkroom.imaging.s3_contents import S3Contents
from darkroom.imaging.s3_upload import UploadLimits
from darkroom.storage.sqlite import SqliteStore
from darkroom.worker.collector import Collector
from imaging.watches import ManualWatch
from installation import PATIENCE_SECONDS
from store.rows import NOW_US, insert_image, insert_operation

DATA = os.urandom(200_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


class Attempt:
    """An operation that is running and, in a thread, its upload, held at its only part."""

    def __init__(self, place: "Place") -> None:
        self.claim = place.claim()
        self.name = content_id(self.claim.lease.operation_id, self.claim.lease.fence)
        self.outcome: BaseException | None = None
        self.reached, self._go_on = threading.Event(), threading.Event()
        path = place.folder / self.name
        path.write_bytes(DATA)
        contents = place.behind(self._hold)

        def put() -> None:
            try:
                contents.put(self.name, path, DIGEST, ManualWatch())
            except BaseException as error:
                self.outcome = error

        self._thread = threading.Thread(target=put)
        self._thread.start()
        assert self.reached.wait(PATIENCE_SECONDS)

    def _hold(self, request: Request) -> None:
        self.reached.set()
        assert self._go_on.wait(PATIENCE_SECONDS)
        request.forward()

    def finish(self) -> BaseException | None:
        """Let it go on to its end; what it raised."""
        self._go_on.set()
        self._thread.join()
        return self.outcome


class Place:
    """Metadata in SQLite, contents in object storage, and a collector."""

    def __init__(self, folder: Path, proxy: FaultyProxy, calls: Calls, prefix: str) -> None:
        self.folder, self.proxy, self.prefix = folder, proxy, prefix
        self.store = SqliteStore(folder / "metadata.sqlite", lease_seconds=3600)
        self.store.migrate()
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.contents = S3Contents(calls, prefix)
        self.collector = self.collector_of(self.contents)

    def collector_of(self, contents: ContentStore) -> Collector:
        return Collector(self.store, contents, self.scratch)

    def claim(self) -> Claim:
        claim = self.store.claim("worker")
        assert claim is not None
        return claim

    def behind(self, hold: Callable[[Request], None]) -> S3Contents:
        self.proxy.begin(first(lambda request: request.is_part, hold))
        limits = CallLimits(silence_seconds=PATIENCE_SECONDS)
        return S3Contents(self.proxy.storage.calls(self.proxy.port, limits), self.prefix)

    def uploads(self) -> list[str]:
        return self.proxy.storage.uploads(self.prefix)

    def stored(self, name: str) -> bytes:
        with self.contents.open(name) as file:
            return file.read()


@pytest.fixture
def place(tmp_path: Path, storage: Storage, calls: Calls, prefix: str) -> Iterator[Place]:
    with FaultyProxy(storage).running() as proxy:
        made = Place(tmp_path, proxy, calls, prefix)
        yield made
        made.store.close()


def test_what_a_live_attempt_uploads_is_left_alone(place: Place) -> None:
    insert_operation(place.store)
    attempt = Attempt(place)
    place.collector.collect()
    assert len(place.uploads()) == 1
    assert attempt.finish() is None
    place.collector.collect()
    assert place.stored(attempt.name) == DATA


def test_an_attempt_that_lost_its_lease_loses_its_upload_and_cannot_touch_its_successors(
    place: Place,
) -> None:
    """What a worker does that was frozen while it uploaded, and continues after all is over."""
    insert_operation(place.store)
    frozen = Attempt(place)
    assert place.store.put_back(frozen.claim.lease, 0, count_attempt=True)
    successor = Attempt(place)
    place.collector.collect()
    (left,) = place.uploads()
    assert successor.name in left
    assert successor.finish() is None
    outcome = frozen.finish()
    assert isinstance(outcome, Failure) and outcome.reason == "CONTENT_STORE_UNAVAILABLE"
    assert "lost an upload" in outcome.message
    place.collector.collect()
    assert list(place.contents.ids()) == [successor.name]
    assert place.stored(successor.name) == DATA
    assert place.uploads() == []


def test_a_late_publication_is_an_orphan_and_goes(place: Place) -> None:
    insert_operation(place.store)
    frozen = Attempt(place)
    assert place.store.put_back(frozen.claim.lease, 0, count_attempt=True)
    successor = Attempt(place)
    assert frozen.finish() is None  # before anybody collected
    assert successor.finish() is None
    assert sorted(place.contents.ids()) == sorted([frozen.name, successor.name])
    place.collector.collect()
    assert list(place.contents.ids()) == [successor.name]


def test_what_is_published_while_the_collector_looks_stays(place: Place) -> None:
    """Listed as an upload of a live attempt; by the time it is judged, a finished operation's."""
    insert_operation(place.store)
    attempt = Attempt(place)

    class Meanwhile(S3Contents):
        def ids(self) -> Iterator[str]:
            listed = list(super().ids())
            assert attempt.finish() is None
            content = Content(attempt.name, 1 << 20, len(DATA), DIGEST, "", NOW_US)
            place.store.write(lambda tx: tx.insert_content(content))
            image = insert_image(place.store, content_id=content.id)
            assert place.store.write(
                lambda tx: tx.finish_leased(attempt.claim.lease, NOW_US, response=image.to_record())
            )
            return iter(listed)

    with place.proxy.storage.in_environment():
        contents = Meanwhile(Calls("contents"), place.prefix)
    place.collector_of(contents).collect()
    assert place.stored(attempt.name) == DATA


def test_with_the_storage_away_the_rest_is_collected_and_contents_later(
    place: Place, prefix: str
) -> None:
    path = place.folder / "made"
    path.write_bytes(DATA)
    place.contents.put("unused.1", path, DIGEST, ManualWatch())
    content = Content("unused.1", 1 << 20, len(DATA), DIGEST, "", NOW_US)
    place.store.write(lambda tx: tx.insert_content(content))
    ended = insert_operation(place.store, state=State.DONE, response={}, modified_at_us=0)
    (place.scratch / "dead.1").mkdir()
    away = first(lambda request: True, lambda request: request.refuse(503, "SlowDown"), times=999)
    place.proxy.begin(away)
    limits = CallLimits(attempts=1)
    calls = place.proxy.storage.calls(place.proxy.port, limits)
    collector = place.collector_of(S3Contents(calls, prefix, UploadLimits()))
    for _ in range(2):
        with pytest.raises(Failure, match="it answers"):
            collector.collect()
    assert place.store.get_operation(ended.id) is None
    assert place.contents.exists("unused.1")
    with pytest.raises(Failure, match="it answers"):
        collector.collect_if_due()
    assert list(place.scratch.iterdir()) == []
    place.collector.collect()
    assert list(place.contents.ids()) == []
