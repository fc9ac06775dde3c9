"""What only the PostgreSQL adapter promises: other connections, lost ones, wake-ups, clocks."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from darkroom.domain.errors import Code, Failure
from darkroom.domain.image import Image
from darkroom.domain.operation import State
from darkroom.domain.query import Query
from darkroom.operations.desk import Caller, Operations
from darkroom.operations.image_create import BlankSource, CreateImage
from darkroom.storage.port import MetadataStore, Transaction
from darkroom.storage.postgres import PostgresStore
from database_server import database
from store.conftest import LEASE_SECONDS
from store.rows import an_image, insert_image, insert_operation
from tcp_proxy import Proxy

PATIENCE_SECONDS = 20.0
BLANK = CreateImage("folder-a", BlankSource(1 << 30))

Open = Callable[..., PostgresStore]


@pytest.fixture
def open_store(postgres_database: str) -> Iterator[Open]:
    """Opens stores on an empty database, with settings of the test's own."""
    with contextlib.ExitStack() as opened:

        def open_one(url: str = postgres_database, **settings: Any) -> PostgresStore:
            chosen = {"lease_seconds": LEASE_SECONDS, "busy_seconds": 5.0, **settings}
            return opened.enter_context(contextlib.closing(PostgresStore(url, **chosen)))

        open_one().write(lambda tx: tx.clear())
        yield open_one


@pytest.fixture
def proxy(postgres_database: str) -> Iterator[Proxy]:
    with Proxy(postgres_database).running() as running:
        yield running


@contextlib.contextmanager
def beside(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the test's own."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def backends(connection: psycopg.Connection[Any]) -> list[int]:
    """Pids of the server's processes for Darkroom's connections to this database."""
    found = connection.execute(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'darkroom' "
        "AND datname = current_database()"
    ).fetchall()
    return [pid for (pid,) in found]


# --- transactions that others got in the way of ---------------------------------------------------


def test_transactions_that_wait_for_each_other_both_commit(
    open_store: Open, postgres_database: str
) -> None:
    impatient = f"{postgres_database}?options=-c%20deadlock_timeout%3D20ms"
    stores = [open_store(impatient), open_store(impatient)]
    images = [insert_image(stores[0]), insert_image(stores[0])]
    first_runs = threading.Barrier(2)
    runs: list[int] = []

    def rename(number: int) -> None:
        def change(tx: Transaction) -> None:
            runs.append(number)
            for turn, image in enumerate(images if number else reversed(images)):
                assert tx.resource(Image, image.id) is not None
                if turn == 0 and len(runs) <= 2:
                    first_runs.wait(PATIENCE_SECONDS)
            tx.insert_resource(an_image(name=f"by-{number}"))

        stores[number].write(change)

    with ThreadPoolExecutor(2) as pool:
        for outcome in [pool.submit(rename, number) for number in range(2)]:
            outcome.result()
    assert len(runs) == 3, "one of the two was taken back and ran again"
    names = {image.name for image in stores[0].find(Image, Query("folder-a"), 10)}
    assert {"by-0", "by-1"} <= names


@contextlib.contextmanager
def first_commit_refused(url: str, state: str) -> Iterator[None]:
    """The first transaction that inserts a resource ends with that SQLSTATE, at its COMMIT.

    As distributed databases end transactions that others got in the way of.
    """
    refuse = f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('commits') = 1 THEN
            RAISE EXCEPTION 'restart transaction' USING ERRCODE = '{state}';
        END IF;
        RETURN NULL; END $$"""
    refusing = """CREATE CONSTRAINT TRIGGER refusing AFTER INSERT ON resource
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"""
    with beside(url) as connection:
        try:
            for statement in ("CREATE SEQUENCE commits", refuse, refusing):
                connection.execute(statement)
            yield
        finally:
            connection.execute("DROP TRIGGER IF EXISTS refusing ON resource")
            connection.execute("DROP FUNCTION IF EXISTS refuse")
            connection.execute("DROP SEQUENCE IF EXISTS commits")


@pytest.mark.parametrize("state", ["40001", "40003"])
def test_a_transaction_that_is_taken_back_by_its_commit_runs_again(
    open_store: Open, postgres_database: str, state: str
) -> None:
    store, runs, image = open_store(), [], an_image()

    def change(tx: Transaction) -> None:
        runs.append(state)
        tx.insert_resource(image)

    with first_commit_refused(postgres_database, state):
        if state == "40001":
            store.write(change)
        else:  # "statement completion unknown": once more could be twice
            with pytest.raises(Failure) as unknown:
                store.write(change)
            assert unknown.value.reason == "STORE_OUTCOME_UNKNOWN"
    assert len(runs) == (2 if state == "40001" else 1)
    assert (store.get(Image, image.id) is not None) == (state == "40001")


def test_several_may_derive_from_one_source_at_once(open_store: Open) -> None:
    """A popular image must not have its derivations wait for each other's commits."""
    stores = [open_store(), open_store()]
    image = insert_image(stores[0])
    both = threading.Barrier(2)

    def hold(store: MetadataStore) -> None:
        def change(tx: Transaction) -> None:
            assert tx.resource(Image, image.id, shared=True) == image
            both.wait(PATIENCE_SECONDS)

        store.write(change)

    with ThreadPoolExecutor(2) as pool:
        for outcome in [pool.submit(hold, store) for store in stores]:
            outcome.result()


def test_who_waits_too_long_for_a_lock_is_told_to_come_back(open_store: Open) -> None:
    holder, waiter = open_store(), open_store(busy_seconds=0.2)
    image = insert_image(holder)
    held, leave = threading.Event(), threading.Event()

    def hold(tx: Transaction) -> None:
        tx.resource(Image, image.id)
        held.set()
        assert leave.wait(PATIENCE_SECONDS)

    thread = threading.Thread(target=holder.write, args=(hold,))
    thread.start()
    assert held.wait(PATIENCE_SECONDS)
    try:
        with pytest.raises(Failure) as refused:
            waiter.write(lambda tx: tx.resource(Image, image.id))
        assert waiter.get(Image, image.id) == image, "readers wait for nobody"
    finally:
        leave.set()
        thread.join()
    assert refused.value.reason == "STORE_BUSY" and refused.value.retry_after_seconds


def test_a_change_that_goes_on_after_a_failed_statement_is_not_committed(open_store: Open) -> None:
    store = open_store()
    image = an_image()

    def change(tx: Transaction) -> None:
        with contextlib.suppress(psycopg.Error):
            tx.insert_resource(an_image(content_id="gone.1"))

    with pytest.raises(RuntimeError, match="went on"):
        store.write(change)
    store.write(lambda tx: tx.insert_resource(image))
    assert store.get(Image, image.id) == image


# --- lost connections -----------------------------------------------------------------------------


def test_a_transaction_whose_connection_is_lost_runs_again(
    open_store: Open, postgres_database: str
) -> None:
    store = open_store()
    image, runs = an_image(name="once"), []

    def change(tx: Transaction) -> None:
        runs.append(1)
        tx.insert_resource(image)
        if len(runs) == 1:
            with beside(postgres_database) as connection:
                for pid in backends(connection):
                    connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
        tx.unfinished_operation_on(image.id)

    store.write(change)
    assert len(runs) == 2
    assert store.get(Image, image.id) == image


def test_connections_that_died_in_the_pool_are_noticed_by_nobody(
    open_store: Open, proxy: Proxy
) -> None:
    store = open_store(proxy.url)
    with ThreadPoolExecutor(4) as pool:
        for outcome in [pool.submit(insert_image, store) for _ in range(8)]:
            outcome.result()
    proxy.cut()
    image = insert_image(store)
    proxy.cut()
    assert store.get(Image, image.id) == image


def test_when_the_answer_to_a_commit_is_lost_nothing_is_run_again(
    open_store: Open, proxy: Proxy
) -> None:
    direct, store = open_store(), open_store(proxy.url)
    insert_image(store)
    runs: list[int] = []
    image = an_image()

    def change(tx: Transaction) -> None:
        runs.append(1)
        tx.insert_resource(image)

    proxy.cut_after = b"COMMIT\0"
    with pytest.raises(Failure) as unknown:
        store.write(change)
    assert unknown.value.reason == "STORE_OUTCOME_UNKNOWN"
    assert unknown.value.code is Code.UNAVAILABLE and unknown.value.retry_after_seconds
    assert len(runs) == 1
    until(lambda: direct.get(Image, image.id) is not None, "the commit had been received")


def test_an_operation_begun_by_a_commit_without_answer_is_found(
    open_store: Open, proxy: Proxy
) -> None:
    direct, store = open_store(), open_store(proxy.url)
    desk = Operations(store, {}, lambda _id, text: text)
    proxy.cut_after = b"COMMIT\0"
    for key in ("", "key"):
        operation = None
        with contextlib.suppress(Failure):  # it may look before the server has committed
            operation = desk.begin(BLANK, Caller("alice", key))
        if operation is None:
            continue
        assert direct.get_operation(operation.id) == operation
    proxy.cut_after = b""
    again = desk.begin(BLANK, Caller("alice", "key"))
    assert direct.get_operation(again.id) == again
    assert len(direct.find(Image, Query("folder-a"), 10)) == 2


def test_a_database_out_of_reach_is_told_at_once_and_without_secrets(
    open_store: Open, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    url = proxy.url.replace("darkroom@", "darkroom:c0ffee5eed@")
    store = open_store(url)
    image = insert_image(store)
    proxy.accepting = False
    proxy.cut()
    for act in (
        lambda: store.get(Image, image.id),
        lambda: insert_image(store),
        lambda: store.claim("worker"),
        store.check_schema,
        store.migrate,
    ):
        started = time.monotonic()
        with pytest.raises(Failure) as refused:
            act()
        assert refused.value.reason == "STORE_BUSY"
        assert time.monotonic() - started < 5.0
        shown = f"{refused.value} {refused.value.to_record()} {refused.value.__cause__}"
        assert "c0ffee5eed" not in shown
    assert not store.writable()
    assert "c0ffee5eed" not in caplog.text
    outages = [each for each in caplog.records if each.message == "database out of reach"]
    assert len(outages) == 1, "an outage is one line, not one for each call"
    proxy.accepting = True
    assert store.get(Image, image.id) == image
    assert store.writable()


def test_the_next_host_of_the_url_is_tried(open_store: Open, postgres_database: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # does not listen
        port = nobody.getsockname()[1]
        listed = postgres_database.replace("127.0.0.1:", f"127.0.0.1:{port},127.0.0.1:", 1)
        store = open_store(f"{listed}?target_session_attrs=read-write")
        image = insert_image(store)
        assert store.get(Image, image.id) == image


def test_a_server_that_has_become_a_standby_is_left_and_found_again(postgres_url: str) -> None:
    with database(postgres_url) as url, contextlib.closing(PostgresStore(url)) as store:
        store.migrate()
        name = url.rpartition("/")[2]
        image = insert_image(store)
        for read_only in ("on", "off"):
            with beside(postgres_url) as connection:
                connection.execute(
                    f"ALTER DATABASE {name} SET default_transaction_read_only = {read_only}"
                )
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                    (name,),
                )
            if read_only == "on":
                assert store.get(Image, image.id) == image
                assert not store.writable()
                with pytest.raises(Failure) as refused:
                    insert_image(store)
                assert refused.value.reason == "STORE_BUSY"
        assert store.writable()
        insert_image(store)


def test_a_password_is_in_no_message_about_the_url() -> None:
    for url in ("postgresql://u:c0ffee5eed@[::1/x", "postgresql://u:c0ffee5eed%zz@h/x", "x c0ffee"):
        with pytest.raises(ValueError, match="URL") as refused:
            PostgresStore(url)
        assert "c0ffee" not in str(refused.value)
        assert refused.value.__suppress_context__


def test_no_connection_is_left_over(open_store: Open, postgres_database: str) -> None:
    with beside(postgres_database) as connection:
        store = open_store(max_connections=3, busy_seconds=5.0)
        before = len(backends(connection))
        with ThreadPoolExecutor(12) as pool:
            for outcome in [pool.submit(insert_image, store) for _ in range(60)]:
                outcome.result()
        assert len(backends(connection)) - before <= 3
        store.wait_for_work()
        store.close()
        until(lambda: len(backends(connection)) == before, "its connections are closed")


# --- wake-ups -------------------------------------------------------------------------------------


def waits_until_rung(store: PostgresStore, ring: Callable[[], object]) -> None:
    """Whoever waits half a minute comes back as soon as it is rung for."""
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.wait_for_work)
        while not waiting.done():
            ring()
            assert time.monotonic() - started < PATIENCE_SECONDS, "nobody was woken"
            time.sleep(0.05)


def test_workers_are_woken_by_other_processes(open_store: Open) -> None:
    worker, api = open_store(poll_seconds=30.0), open_store()
    worker.wait_for_work()  # the first wait ends when it has begun to listen
    waits_until_rung(worker, lambda: insert_operation(api))
    claim = api.claim("another")
    assert claim is not None
    api.put_back(claim.lease, 0, count_attempt=False)
    worker.wait_for_work()  # whatever else it was rung for
    waits_until_rung(worker, lambda: (api.put_back_all("another"), api.claim("another")))


def test_nobody_is_woken_for_what_is_done_already(open_store: Open, postgres_database: str) -> None:
    store = open_store()
    with beside(postgres_database) as connection:
        connection.execute("LISTEN darkroom_work")
        insert_image(store)
        insert_operation(store, state=State.DONE, response={})
        assert list(connection.notifies(timeout=0.1)) == []
        insert_operation(store)
        assert len(list(connection.notifies(timeout=PATIENCE_SECONDS, stop_after=1))) == 1


def test_listening_is_taken_up_again(open_store: Open, proxy: Proxy) -> None:
    worker, api = open_store(proxy.url, poll_seconds=30.0), open_store()
    worker.wait_for_work()
    proxy.cut()
    waits_until_rung(worker, lambda: insert_operation(api))


def test_without_wake_ups_work_is_looked_for(open_store: Open, proxy: Proxy) -> None:
    worker, api = open_store(proxy.url, poll_seconds=0.05), open_store()
    proxy.cut_after = b"LISTEN"
    insert_operation(api)

    def found() -> object:
        worker.wait_for_work()
        return worker.claim("worker")

    until(found, "the work is found")


# --- leases and clocks ----------------------------------------------------------------------------


@pytest.mark.parametrize("step_us", [3600 * 10**6, -3600 * 10**6])
def test_a_step_of_the_clock_takes_no_work_from_the_living_and_none_stays_with_the_dead(
    open_store: Open, postgres_database: str, step_us: int
) -> None:
    owner, other = open_store(lease_seconds=1.2), open_store(lease_seconds=1.2)
    operation = insert_operation(owner)
    claim = owner.claim("living")
    assert claim is not None
    with beside(postgres_database) as connection:
        # As if the clock had been put forward, or back, since the last sign of life.
        connection.execute("UPDATE operation SET beat = beat - %s", (step_us,))
    deadline = time.monotonic() + 0.8
    while time.monotonic() < deadline:
        assert other.claim("thief") is None
        time.sleep(0.1)
        assert owner.heartbeat(claim.lease, "fetch", 0, None) is not None
    with beside(postgres_database) as connection:
        connection.execute("UPDATE operation SET beat = beat - %s", (step_us,))
    until(lambda: other.claim("heir"), "the lease of the dead is found")
    heir = other.get_operation(operation.id)
    assert heir is not None and heir.fence == 2


def test_a_delay_does_not_outlast_a_clock_that_is_put_back(
    open_store: Open, postgres_database: str
) -> None:
    store = open_store()
    insert_operation(store)
    claim = store.claim("worker")
    assert claim is not None
    store.put_back(claim.lease, 60_000, count_attempt=True)
    assert store.claim("worker") is None
    with beside(postgres_database) as connection:
        connection.execute("UPDATE operation SET beat = beat + 3600000000")
    assert store.claim("worker") is not None


# --- schema ---------------------------------------------------------------------------------------


def test_every_text_is_compared_by_code_point(open_store: Open, postgres_database: str) -> None:
    with beside(postgres_database) as connection:
        found = connection.execute(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = 'public' AND data_type = 'text' "
            "AND collation_name IS DISTINCT FROM 'C'"
        ).fetchall()
    assert found == []


def test_a_database_without_schema_is_told_from_one_out_of_reach(postgres_url: str) -> None:
    with database(postgres_url) as url, contextlib.closing(PostgresStore(url)) as store:
        with pytest.raises(Exception, match="darkroom migrate"):
            store.check_schema()
        assert not store.writable()
        with pytest.raises(Failure) as refused:
            store.get(Image, "fd8")
        assert refused.value.reason == "STORE_BUSY"


def test_who_must_not_make_tables_is_told_so(postgres_url: str) -> None:
    with database(postgres_url) as url, beside(url) as connection:
        connection.execute("CREATE ROLE darkroom_reader LOGIN")
        try:
            reader = url.replace("darkroom@", "darkroom_reader@")
            store = PostgresStore(reader)
            with contextlib.closing(store), pytest.raises(OSError, match="permission denied"):
                store.migrate()
        finally:
            connection.execute("DROP ROLE darkroom_reader")
