"""Programs and schemas of different versions on one database, both ways, on every backend."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from darkroom.domain.access import AccessBinding
from darkroom.domain.image import Image
from darkroom.domain.query import Query, parse_filter, parse_order
from darkroom.storage import migrations
from darkroom.storage.port import MetadataStore, SchemaMismatch, Transaction
from store.conftest import Opener
from store.rows import NOW_US, a_content, an_image, an_operation

NEXT = migrations.latest() + 1

EXPAND = f"""
-- What the next version may do while this one runs.
-- oldest program: {NEXT - 1}
CREATE TABLE project (id TEXT PRIMARY KEY, name TEXT NOT NULL);
ALTER TABLE resource ADD COLUMN project_id TEXT REFERENCES project (id);
ALTER TABLE resource ADD COLUMN priority INTEGER NOT NULL DEFAULT 7;
ALTER TABLE operation ADD COLUMN trace TEXT NOT NULL DEFAULT '';
ALTER TABLE content ADD COLUMN tier INTEGER NOT NULL DEFAULT 0;
ALTER TABLE idempotency_key ADD COLUMN expires_at_us BIGINT;
ALTER TABLE access_binding ADD COLUMN condition TEXT NOT NULL DEFAULT '';
CREATE INDEX resource_of_project ON resource (project_id, id);
"""
CONTRACT = "ALTER TABLE operation DROP COLUMN phase;"

Release = Callable[[str], None]


@pytest.fixture
def next_release(empty_again: Opener, monkeypatch: pytest.MonkeyPatch) -> Release:
    """Has a program of the next version, with one script more, migrate the database."""

    def release(script: str) -> None:
        ours = migrations._scripts()
        with monkeypatch.context() as newer:
            newer.setattr(migrations, "_scripts", lambda: (*ours, (NEXT, script)))
            migrations.oldest_program.cache_clear()
            assert empty_again().migrate() == NEXT
        migrations.oldest_program.cache_clear()

    return release


def life(store: MetadataStore) -> None:
    """All that a program does with its rows."""
    content, operation = a_content(), an_operation()
    image = an_image(name="n", family="f", labels={"a": "b"}, content_id=content.id)

    def make(tx: Transaction) -> None:
        tx.insert_content(content)
        tx.insert_resource(image)
        tx.add_binding(image.id, AccessBinding("viewer", "userAccount", "u"))
        assert tx.count_unfinished("folder-a", 10) == 0
        tx.insert_operation(operation, {"answer": 42}, "sealed")
        tx.remember("alice", "key", "hash", operation.id)

    store.write(make)
    assert store.get(Image, image.id) == store.latest_by_family("folder-a", "f") == image
    query = Query("folder-a", parse_filter('labels.a = "b"'), parse_order("name desc"))
    assert store.find(Image, query, 10) == [image]
    claim = store.claim("worker")
    assert claim is not None and claim.payload == {"answer": 42}
    assert store.heartbeat(claim.lease, "fetch", 1, 2) is not None
    assert store.live_attempts([(operation.id, 1)]) == {(operation.id, 1)}
    lease = claim.lease
    assert store.write(lambda tx: tx.finish_leased(lease, NOW_US, response={"id": image.id}))
    assert store.list_operations(operation.resource_id, (0, ""), 10)[0].done
    use = store.write(lambda tx: tx.replay("alice", "key"))
    assert use is not None and use.operation_id == operation.id
    store.write(lambda tx: tx.update_resource(an_image(id=image.id, name="other")))
    assert store.unreferenced_contents(10) == [content.id]
    assert store.delete_content(content.id)
    store.write(lambda tx: tx.delete_resource(image.id))
    assert store.purge_operations(NOW_US + 1, 10) == 1
    assert list(store.violations()) == [] and store.writable()


def test_an_old_program_goes_on_with_a_schema_that_was_expanded(
    empty_again: Opener, next_release: Release
) -> None:
    running = empty_again()
    running.migrate()
    life(running)
    next_release(EXPAND)
    life(running)
    started_again = empty_again()
    started_again.check_schema()
    assert started_again.migrate() == migrations.latest()
    life(started_again)


def test_an_old_program_is_refused_where_its_schema_is_gone(
    empty_again: Opener, next_release: Release
) -> None:
    next_release(CONTRACT)
    old = empty_again()
    for refused in (old.check_schema, old.migrate):
        with pytest.raises(SchemaMismatch, match=f"version {NEXT}, .* newer Darkroom"):
            refused()


def test_what_was_contracted_stays_refused_after_the_next_expansion(
    empty_again: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = migrations._scripts()
    expand = EXPAND.replace(f"oldest program: {NEXT - 1}", f"oldest program: {NEXT}")
    newer = (*ours, (NEXT, CONTRACT), (NEXT + 1, expand))
    with monkeypatch.context() as release:
        release.setattr(migrations, "_scripts", lambda: newer)
        migrations.oldest_program.cache_clear()
        assert empty_again().migrate() == NEXT + 1
    migrations.oldest_program.cache_clear()
    with pytest.raises(SchemaMismatch, match="newer Darkroom"):
        empty_again().check_schema()


@pytest.mark.parametrize("number", range(1, migrations.latest()))
def test_a_new_program_waits_for_an_old_schema_to_be_migrated_and_keeps_its_rows(
    empty_again: Opener, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    ours = migrations._scripts()
    with monkeypatch.context() as older:
        older.setattr(migrations, "_scripts", lambda: ours[:number])
        assert empty_again().migrate() == number
    new = empty_again()
    with pytest.raises(SchemaMismatch, match=f"version {number}, .* run `darkroom migrate`"):
        new.check_schema()
    assert new.migrate() == migrations.latest()
    life(new)


def test_many_processes_may_migrate_at_once(empty_again: Opener) -> None:
    stores = [empty_again() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        versions = [*pool.map(lambda store: store.migrate(), stores)]
    assert versions == [migrations.latest()] * 8
    life(stores[0])


_ADDS = re.compile(
    r"CREATE TABLE \w+ \(.*\)|CREATE INDEX \w+ ON .*|INSERT INTO \w+ .*"
    r"|ALTER TABLE \w+ ADD COLUMN \w+ \w+( NOT NULL DEFAULT [^,]+)?( REFERENCES \w+ \(\w+\))?",
    re.DOTALL,
)


@pytest.mark.parametrize("number", range(2, migrations.latest() + 1))
def test_a_script_that_old_programs_may_live_with_only_adds(number: int) -> None:
    """What else would be safe needs more thought than a pattern; extend this one then."""
    (script,) = [text for each, text in migrations.pending(0) if each == number]
    said = re.search(r"^-- oldest program: (\d+)$", script, re.MULTILINE)
    if said is None or int(said[1]) == number:
        return
    for statement in migrations.statements(script):
        assert _ADDS.fullmatch(statement), statement
