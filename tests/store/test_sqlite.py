"""What only the SQLite adapter promises."""

import contextlib
import resource
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darkroom.domain import errors
from darkroom.domain.errors import Code, Failure
from darkroom.domain.image import Image
from darkroom.domain.query import Query, parse_filter, parse_order
from darkroom.storage import migrations
from darkroom.storage import sqlite as sqlite_module
from darkroom.storage.listing import list_sql
from darkroom.storage.port import SchemaMismatch
from darkroom.storage.sqlite import DIALECT, SqliteStore
from darkroom.storage.transaction import SqlTransaction
from store.rows import NOW_US, insert_image, insert_operation


def test_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    SqliteStore(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_blocked_writer_is_told_to_come_back_and_readers_go_on(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    store = SqliteStore(path, busy_seconds=0.2)
    store.migrate()
    image = insert_image(store)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(Failure) as refused:
        insert_image(store)
    assert refused.value.code is Code.UNAVAILABLE
    assert refused.value.retry_after_seconds
    assert not store.writable()
    assert store.get(Image, image.id) == image
    blocker.execute("ROLLBACK")
    insert_image(store)
    blocker.close()
    store.close()


def test_a_write_that_the_system_refuses_may_be_repeated(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "metadata.sqlite")
    store.migrate()
    image = insert_image(store)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # What a used-up quota does, too: an error of the write other than a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(Failure) as refused:
            insert_image(store)
        assert store.get(Image, image.id) == image
        assert not store.writable()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.writable()
    assert refused.value.code is Code.UNAVAILABLE
    assert refused.value.retry_after_seconds
    assert str(tmp_path) not in refused.value.message
    insert_image(store)
    store.close()


def test_clearing_forgets_no_table_and_spares_what_migrations_put_there(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    store = SqliteStore(path)
    store.migrate()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        names = [name for (name,) in connection.execute(tables)]

        def rows_by_table() -> dict[str, list[Any]]:
            return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in names}

        fresh = rows_by_table()
        unused = [name for name, rows in fresh.items() if not rows]
        assert len(unused) >= 5
        for name in unused:
            columns = connection.execute(f"PRAGMA table_info({name})").fetchall()
            values = ", ".join("'0'" for _ in columns)
            connection.execute(f"INSERT INTO {name} VALUES ({values})")
        store.write(lambda tx: tx.clear())
        assert rows_by_table() == fresh
    store.close()


@pytest.mark.parametrize(
    ("version", "advice"),
    [(0, "darkroom migrate"), (migrations.latest() + 1, "newer Darkroom")],
)
def test_a_foreign_schema_is_refused_with_advice(tmp_path: Path, version: int, advice: str) -> None:
    store = SqliteStore(tmp_path / "metadata.sqlite")
    connection = sqlite3.connect(tmp_path / "metadata.sqlite")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with pytest.raises(SchemaMismatch, match=advice):
        store.check_schema()
    if version:
        with pytest.raises(SchemaMismatch, match=advice):
            store.migrate()
    store.close()


def test_a_newer_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    store = SqliteStore(path)
    store.migrate()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA user_version = {migrations.latest() + 1}")
        connection.execute(f"UPDATE schema_version SET oldest_program = {migrations.latest() + 1}")
        connection.execute("DELETE FROM sqlite_stat1")
        with pytest.raises(SchemaMismatch):
            store.migrate()
        assert connection.execute("SELECT * FROM sqlite_stat1").fetchall() == []
    store.close()


def test_each_writer_gets_its_own_result_when_more_wait_than_one_batch_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes to the lock first is not always at the head of the queue."""
    monkeypatch.setattr(sqlite_module, "_MAX_BATCH", 1)
    store = SqliteStore(tmp_path / "metadata.sqlite")
    store.migrate()
    wrong: list[object] = []

    def write(writer: int) -> None:
        for turn in range(100):
            expected = (writer, turn)
            result = store.write(lambda _tx, value=expected: value)  # type: ignore[misc]
            if result != expected:
                wrong.append(result)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    assert wrong == []
    store.close()


def test_who_shared_a_transaction_that_sqlite_took_back_is_told_why(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "metadata.sqlite", busy_seconds=10.0)
    store.migrate()
    entered, leave = threading.Event(), threading.Event()
    told: list[BaseException] = []

    def hold(_tx: SqlTransaction) -> None:
        entered.set()
        assert leave.wait(10)

    def fill_the_disk(tx: SqlTransaction) -> None:
        tx._execute("ROLLBACK", ())
        raise errors.store_full()

    def write(change: Callable[[SqlTransaction], None]) -> None:
        try:
            store.write(change)
        except BaseException as error:
            told.append(error)

    holder = threading.Thread(target=write, args=(hold,))
    holder.start()
    assert entered.wait(10)
    changes = (lambda _tx: None, fill_the_disk)
    writers = [threading.Thread(target=write, args=(change,)) for change in changes]
    for thread in writers:
        thread.start()
    deadline = time.monotonic() + 10
    while len(store._queue) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    leave.set()
    for thread in (holder, *writers):
        thread.join()
    assert [getattr(error, "reason", error) for error in told] == ["STORE_FULL"] * 2
    store.close()


@pytest.mark.parametrize("order", ["", "name", "name desc", "createdAt", "createdAt desc"])
@pytest.mark.parametrize(
    ("text", "index", "reached_by"),
    [
        ("", "", "kind=? AND folder_id=?"),
        ('name = "x"', "resource_by_name", "name=?"),
        ('name IN ("x", "y")', "resource_by_name", "name=?"),
        ('id = "x"', "sqlite_autoindex_resource_1", "id=?"),
        ('id IN ("x", "y")', "resource_by_id", "id=?"),
        ('family = "x"', "resource_by_family", "family=?"),
        ('status = "ERROR"', "resource_unready", "status=?"),
    ],
)
@pytest.mark.parametrize("later_page", [False, True])
def test_listings_are_read_from_an_index(
    tmp_path: Path, text: str, index: str, reached_by: str, order: str, later_page: bool
) -> None:
    """A selective filter wins over the order; without one, no page is sorted."""
    store = SqliteStore(tmp_path / "metadata.sqlite")
    store.migrate()
    store.close()
    keys = parse_order(order)
    after = tuple(1 if key.field == "created_at" else "x" for key in keys) if later_page else ()
    sql, values = list_sql("Image", Query("f", parse_filter(text), keys, after), 101, DIALECT.label)
    with contextlib.closing(sqlite3.connect(tmp_path / "metadata.sqlite")) as connection:
        found = connection.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
    steps = [row[3] for row in found]
    assert index in steps[0] and reached_by in steps[0] and steps[0].startswith("SEARCH")
    if not text:
        assert len(steps) == 1
        if later_page:
            assert ">" in steps[0] or "<" in steps[0], "a later page begins where the last ended"


def test_a_lease_is_judged_by_how_long_its_beat_stood_still_here(tmp_path: Path) -> None:
    """No wall clock takes part: only this observer's monotonic time counts."""
    now = [1000.0]
    store = SqliteStore(tmp_path / "metadata.sqlite", lease_seconds=10.0, monotonic=lambda: now[0])
    store.migrate()
    insert_operation(store, created_at_us=NOW_US + 3600 * 1_000_000)
    first = store.claim("one")
    assert first is not None
    assert store.claim("two") is None  # first sight
    now[0] += 9.9
    assert store.claim("two") is None
    assert store.heartbeat(first.lease, "", 0, None) is not None
    now[0] += 9.9
    assert store.claim("two") is None  # the beat moved: the count starts anew
    now[0] += 10.0
    second = store.claim("two")
    assert second is not None
    assert second.lease.fence == 2
    store.close()
