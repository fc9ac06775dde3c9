"""What the collector removes, what it leaves, and what it says about it."""

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from darkroom.domain.content import Content
from darkroom.domain.operation import IMAGE_CREATE, State
from darkroom.imaging.contents import LocalContents
from darkroom.operations.desk import wall_clock_us
from darkroom.storage.sqlite import SqliteStore
from darkroom.worker import collector as collector_module
from darkroom.worker.attempt import LeaseSettings
from darkroom.worker.collector import Collector
from darkroom.worker.worker import Worker
from imaging.watches import ManualWatch
from installation import until
from store.rows import NOW_US, insert_image, insert_operation

RETENTION_SECONDS = 3600
SIZE_BYTES = 100_000


class Place:
    """A store, contents and scratch, and a collector whose clock stands still."""

    def __init__(self, folder: Path) -> None:
        self.store = SqliteStore(folder / "metadata.sqlite")
        self.store.migrate()
        self.folder = folder
        self.contents = LocalContents(folder / "contents")
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.now_us = NOW_US
        self.collector = Collector(
            self.store,
            self.contents,
            self.scratch,
            retention_seconds=RETENTION_SECONDS,
            clock_us=lambda: self.now_us,
        )

    def put(self, content_id: str, *, row: bool) -> None:
        path = self.folder / "made"
        path.write_bytes(os.urandom(SIZE_BYTES))
        self.contents.put(content_id, path, "", ManualWatch())
        if row:
            content = Content(content_id, SIZE_BYTES, SIZE_BYTES, "", "", NOW_US)
            self.store.write(lambda tx: tx.insert_content(content))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.store.close()


def collected(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of what the collector logged, without the time it took."""
    found = [vars(each)["fields"] for each in caplog.records if each.message == "collected"]
    assert all(fields.pop("seconds") >= 0 for fields in found)
    return found


def test_operations_go_when_their_time_is_over_and_keys_go_with_them(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(collector_module, "_BATCH", 2)  # several transactions in a round
    store = place.store
    ended = [
        insert_operation(store, state=State.DONE, response={}, modified_at_us=NOW_US)
        for _ in range(5)
    ]
    later = insert_operation(store, state=State.DONE, response={}, modified_at_us=NOW_US + 1)
    waiting = insert_operation(store, modified_at_us=0)
    store.write(lambda tx: tx.remember("someone", "old", "hash", ended[0].id))
    store.write(lambda tx: tx.remember("someone", "new", "hash", later.id))
    place.now_us = NOW_US + RETENTION_SECONDS * 1_000_000
    place.collector.collect()
    assert collected(caplog) == []
    place.now_us += 1
    place.collector.collect()
    assert collected(caplog) == [{"operations": 5}]
    assert [store.get_operation(each.id) for each in ended] == [None] * 5
    assert store.write(lambda tx: tx.replay("someone", "old")) is None
    kept = store.write(lambda tx: tx.replay("someone", "new"))
    assert kept is not None and kept.operation_id == later.id
    assert store.get_operation(waiting.id) is not None, "what has not ended is kept for ever"


def test_a_round_tells_what_it_removed_and_how_much(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    insert_operation(place.store, id="running")
    assert place.store.claim("worker") is not None
    place.put("used.1", row=True)
    insert_image(place.store, content_id="used.1")
    place.put("unused.1", row=True)
    place.put("crashed.1", row=False)
    place.put("running.1", row=False)
    for name in ("running.1", "crashed.2"):
        (place.scratch / name / "out").mkdir(parents=True)
        (place.scratch / name / "out" / "image").write_bytes(os.urandom(SIZE_BYTES))
    place.collector.collect()
    rows, files = collected(caplog)
    assert rows == {"contents": 1, "contents_bytes": SIZE_BYTES}
    assert files.pop("scratch_bytes") >= SIZE_BYTES
    assert files == {"orphans": 1, "orphans_bytes": SIZE_BYTES, "scratch": 1}
    assert set(place.contents.ids()) == {"used.1", "running.1"}
    assert [each.name for each in place.scratch.iterdir()] == ["running.1"]
    place.collector.collect()
    assert len([each for each in caplog.records if each.message == "collected"]) == 2


class _Slow:
    """Runs an operation by putting the next one into the queue: there is always one."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def run(self, claim: Any, watch: Any) -> Any:
        insert_operation(self._place.store)
        return lambda tx: {}

    def clean(self, claim: Any) -> None: ...

    def fail(self, *_: Any) -> None: ...

    def abandon(self, *_: Any) -> None: ...


def test_a_worker_that_always_has_work_collects_in_between(place: Place) -> None:
    worker = Worker(
        place.store, {IMAGE_CREATE: _Slow(place)}, place.collector, "busy", lease=LeaseSettings()
    )
    insert_operation(place.store)
    place.put("unused.1", row=True)
    place.now_us = wall_clock_us()
    thread = threading.Thread(target=worker.run_forever)
    thread.start()
    try:
        until(lambda: not place.contents.exists("unused.1"), "the content to be collected")
    finally:
        worker.drain()
        thread.join()
