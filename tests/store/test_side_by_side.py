"""What holds when many connections change the same rows at the same time.

SQLite lets one writer in at a time, so there it holds by itself; PostgreSQL does not.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest

from darkroom.domain.access import AccessBinding, BindingDelta
from darkroom.domain.disk import Disk
from darkroom.domain.errors import Failure
from darkroom.domain.image import Image, Status
from darkroom.domain.operation import IMAGE_CREATE, KINDS, Operation
from darkroom.operations.changing import Delete, SetBindings, Update, UpdateBindings
from darkroom.operations.delayed import DelayedEnding, EitherEnding
from darkroom.operations.deriving import ResourceSource
from darkroom.operations.desk import Caller, Command, Ending, Operations
from darkroom.operations.disk_create import CreateDisk
from darkroom.operations.image_create import BlankSource, CreateImage, ImageCreateEnding, UriSource
from darkroom.storage.port import MetadataStore, Transaction
from darkroom.storage.transaction import SqlTransaction
from store.conftest import Opener
from store.rows import NOW_US, a_content, an_image, insert_image

T = TypeVar("T")

CALLERS = 6
GIB = 1 << 30


@dataclass
class Replicas:
    """Several API processes' front desks on one database."""

    stores: list[MetadataStore]

    def desks(self, **settings: Any) -> list[Operations]:
        endings: dict[str, Ending] = {
            **dict.fromkeys(KINDS, DelayedEnding()),
            IMAGE_CREATE: EitherEnding(ImageCreateEnding()),
        }
        return [
            Operations(store, endings, lambda _id, text: text, **settings) for store in self.stores
        ]


@pytest.fixture
def replicas(open_again: Opener) -> Replicas:
    return Replicas([open_again() for _ in range(CALLERS)])


def attempted(act: Callable[[], T]) -> T | Failure:
    try:
        return act()
    except Failure as failure:
        return failure


def at_once(acts: list[Callable[[], T]]) -> list[T | Failure]:
    """Run all of them in threads that begin together; what each returned or raised."""
    barrier = threading.Barrier(len(acts))

    def run(act: Callable[[], T]) -> T | Failure:
        barrier.wait()
        return attempted(act)

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts))


def reasons(outcomes: list[Any]) -> list[str]:
    return sorted(each.reason for each in outcomes if isinstance(each, Failure))


def begun(outcomes: list[Any]) -> list[Operation]:
    return [each for each in outcomes if isinstance(each, Operation)]


def ready(store: MetadataStore, **values: Any) -> Image:
    """A READY image over a content of its own."""
    content = a_content()
    store.write(lambda tx: tx.insert_content(content))
    sizes = {
        "size_bytes": content.virtual_size_bytes,
        "storage_size_bytes": content.stored_size_bytes,
    }
    return insert_image(store, content_id=content.id, **{**sizes, **values})


def image_of(name: str) -> CreateImage:
    return CreateImage("folder-a", BlankSource(GIB), name=name)


COMMANDS: dict[str, Callable[[Image], Command]] = {
    "create": lambda _: image_of("raced"),
    "import": lambda _: CreateImage("folder-a", UriSource("https://host/bucket/key"), name="raced"),
    "create with a fixed id": lambda _: replace(image_of("raced"), image_id="fd8fixed"),
    "make a failed one anew": lambda _: replace(image_of("raced"), image_id="fd8failed"),
    "derive": lambda image: CreateImage("folder-a", ResourceSource(Image, image.id), name="raced"),
    "update": lambda image: Update(Image, image.id, {"name": "raced"}),
    "delete": lambda image: Delete(Image, image.id),
    "bind": lambda image: SetBindings(Image, image.id, (AccessBinding("r", "t", "s"),)),
}


@pytest.mark.parametrize("delay_seconds", [0.0, 60.0])
@pytest.mark.parametrize("kind", COMMANDS)
def test_one_key_begins_one_operation_through_whichever_replica(
    replicas: Replicas, kind: str, delay_seconds: float
) -> None:
    store = replicas.stores[0]
    for turn in range(3):
        store.write(lambda tx: tx.clear())
        image = ready(store, name="source")
        insert_image(store, id="fd8failed", status=Status.ERROR)
        # The bound is one that the first of them fills.
        desks = replicas.desks(delay_seconds=delay_seconds, max_active_per_folder=1)
        caller = Caller("alice", f"key-{turn}")
        command = COMMANDS[kind](image)
        outcomes = at_once(
            [lambda desk=desk, each=command, by=caller: desk.begin(each, by) for desk in desks]  # type: ignore[misc]
        )
        assert reasons(outcomes) == []
        ids = {operation.id for operation in begun(outcomes)}
        assert len(ids) == 1
        if kind == "import" or delay_seconds:
            assert [each.id for each in store.unfinished()] == list(ids)


@pytest.mark.parametrize("command", ["update", "delete", "bind"])
def test_one_of_many_operations_on_a_resource_is_begun(replicas: Replicas, command: str) -> None:
    store = replicas.stores[0]
    desks = replicas.desks(delay_seconds=60.0)
    for turn in range(5):
        image = ready(store, name=f"source-{turn}")
        commands = [
            COMMANDS[command](image),
            UpdateBindings(Image, image.id, (BindingDelta(True, AccessBinding("r", "t", "u")),)),
        ]
        outcomes = at_once(
            [
                lambda desk=desk, each=commands[number % 2]: desk.begin(each, Caller("alice"))  # type: ignore[misc]
                for number, desk in enumerate(desks)
            ]
        )
        assert len(begun(outcomes)) == 1
        assert reasons(outcomes) == ["CONFLICTING_OPERATION"] * (CALLERS - 1)


def test_a_name_goes_to_one_of_many(replicas: Replicas) -> None:
    store = replicas.stores[0]
    for turn in range(5):
        name = f"contested-{turn}"
        renamed = insert_image(store)
        commands: list[Command] = [image_of(name) for _ in range(CALLERS - 1)]
        commands.append(Update(Image, renamed.id, {"name": name}))
        outcomes = at_once(
            [
                lambda desk=desk, each=each: desk.begin(each, Caller("alice"))  # type: ignore[misc]
                for desk, each in zip(replicas.desks(), commands, strict=True)
            ]
        )
        assert len(begun(outcomes)) == 1
        assert reasons(outcomes) == ["RESOURCE_ALREADY_EXISTS"] * (CALLERS - 1)


def derive_from(desk: Operations, sources: list[Image]) -> list[str]:
    """A disk from each image that is still there; the ids of the disks."""
    commands = [
        CreateDisk("folder-a", "zone", 2 * GIB, ResourceSource(Image, source.id))
        for source in sources
    ]
    outcomes = [attempted(lambda each=each: desk.begin(each, Caller("a"))) for each in commands]  # type: ignore[misc]
    assert {*reasons(outcomes)} <= {"SOURCE_NOT_FOUND"}
    return [each.resource_id for each in begun(outcomes)]


def collect_until(store: MetadataStore, ended: threading.Event) -> None:
    while not ended.is_set():
        for content_id in store.unreferenced_contents(3):
            store.delete_content(content_id)


def test_a_source_is_derived_from_or_gone(replicas: Replicas) -> None:
    """Derivations, deletions and two collectors: no resource ever loses its content."""
    store, ended = replicas.stores[0], threading.Event()
    desks = replicas.desks()
    sources = [ready(store, name=f"source-{number}") for number in range(20)]
    contents = [str(source.content_id) for source in sources]

    def delete() -> list[str]:
        for source in sources:
            desks[3].begin(Delete(Image, source.id), Caller("a"))
        return []

    with ThreadPoolExecutor(2) as pool:
        collecting = [pool.submit(collect_until, each, ended) for each in replicas.stores[4:]]
        acts = [lambda desk=desk: derive_from(desk, sources) for desk in desks[:3]]
        outcomes = at_once([*acts, delete])
        ended.set()
    assert [each.exception() for each in collecting] == [None, None]
    derived = [each for each in outcomes if isinstance(each, list)]
    assert len(derived) == len(outcomes)
    disks = [store.get(Disk, each) for ids in derived for each in ids]
    kept = {disk.content_id for disk in disks if disk is not None}
    assert None not in disks and None not in kept
    assert store.contents_in_use(contents) >= kept
    assert list(store.violations()) == []
    # And of those that nobody derived from in time, none is forgotten.
    while unused := store.unreferenced_contents(10):
        assert all(store.delete_content(each) for each in unused)
    assert store.contents_in_use(contents) == kept


def test_a_source_stays_until_what_is_made_of_it_is_there(open_again: Opener) -> None:
    deriving, deleting = open_again(), open_again()
    source = ready(deriving)
    derived = an_image(content_id=source.content_id)
    held, gone = threading.Event(), threading.Event()

    def derive(tx: Transaction) -> None:
        assert tx.resource(Image, source.id, shared=True) == source
        held.set()
        gone.wait(0.2)  # until the other one waits for this one, or is past it
        tx.insert_resource(derived)

    thread = threading.Thread(target=deriving.write, args=(derive,))
    thread.start()
    assert held.wait(10)
    (desk,) = Replicas([deleting]).desks()
    desk.begin(Delete(Image, source.id), Caller("alice"))
    unused = deleting.unreferenced_contents(10)
    gone.set()
    thread.join()
    assert unused == []
    assert not deleting.delete_content(str(source.content_id))
    assert deleting.get(Image, derived.id) == derived


def test_a_content_let_go_while_the_collector_looks_is_not_forgotten(open_again: Opener) -> None:
    letting_go, looking = open_again(), open_again()
    for _ in range(3):
        image = ready(letting_go)
        let_go, done = threading.Event(), threading.Event()

        def change(tx: Transaction, image: Image = image) -> None:
            tx.resource(Image, image.id)
            tx.delete_resource(image.id)
            let_go.set()  # noqa: B023
            done.wait(0.2)  # noqa: B023, until the other one waits for this one, or is past it

        thread = threading.Thread(target=letting_go.write, args=(change,))
        thread.start()
        assert let_go.wait(10)
        # It sees the image still there, and waits for the content's row.
        looking.write(lambda tx: tx.contents_checked("", "z"))  # type: ignore[attr-defined]
        done.set()
        thread.join()
        assert looking.unreferenced_contents(10) == [image.content_id]
        assert looking.delete_content(str(image.content_id))


def test_a_key_that_is_purged_between_two_looks_is_a_fresh_one(
    open_again: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_again()
    (desk,) = Replicas([store]).desks()
    caller = Caller("alice", "key")
    first = desk.begin(image_of(""), caller)
    replay = SqlTransaction.replay

    def purged_after(tx: SqlTransaction, subject: str, key: str) -> object:
        use = replay(tx, subject, key)
        monkeypatch.undo()
        tx._execute("DELETE FROM operation WHERE id = ?", (first.id,))
        return use

    monkeypatch.setattr(SqlTransaction, "replay", purged_after)
    second = desk.begin(image_of(""), caller)
    assert second.id != first.id
    assert desk.begin(image_of(""), caller) == second


def test_bindings_set_side_by_side_leave_what_one_of_them_said(replicas: Replicas) -> None:
    store = replicas.stores[0]
    image = ready(store)
    wanted = [
        tuple(AccessBinding("viewer", "userAccount", f"{caller}-{each}") for each in range(3))
        for caller in range(CALLERS)
    ]
    for _ in range(3):
        outcomes = at_once(
            [
                lambda desk=desk, each=each: desk.begin(  # type: ignore[misc]
                    SetBindings(Image, image.id, each), Caller("alice")
                )
                for desk, each in zip(replicas.desks(), wanted, strict=True)
            ]
        )
        assert reasons(outcomes) == []
        assert tuple(store.list_bindings(image.id, None, 100)) in wanted


def test_purges_side_by_side_remove_everything_once(replicas: Replicas) -> None:
    store = replicas.stores[0]
    desk = replicas.desks(clock_us=lambda: NOW_US)[0]
    for _ in range(40):
        desk.begin(image_of(""), Caller("alice"))

    def purge(each: MetadataStore) -> int:
        return sum(each.purge_operations(NOW_US + 1, 7) for _ in range(10))

    outcomes = at_once([lambda each=each: purge(each) for each in replicas.stores])  # type: ignore[misc]
    assert sum(each for each in outcomes if isinstance(each, int)) == 40
    assert store.purge_operations(NOW_US + 1, 100) == 0


def test_a_lease_that_is_taken_over_ends_once(replicas: Replicas) -> None:
    """The old owner ends its operation in the very moment in which another one takes it over."""
    store = replicas.stores[0]
    for _ in range(3):
        (desk, *_) = replicas.desks()
        operation = desk.begin(
            CreateImage("folder-a", UriSource("https://host/bucket/key")), Caller("alice")
        )
        first = store.claim("first")
        assert first is not None

        def end(each: MetadataStore, lease: Any = first.lease) -> bool:
            return each.write(lambda tx: tx.finish_leased(lease, NOW_US, response={}))

        def take_over(each: MetadataStore) -> bool:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                claimed = each.claim("second")
                if claimed is not None:
                    return True
                current = each.get_operation(operation.id)  # noqa: B023
                if current is None or current.done:
                    return False
            raise AssertionError("neither ended nor taken over")

        def end_late(each: MetadataStore) -> bool:
            time.sleep(0.3)
            return end(each)

        outcomes = at_once(
            [
                lambda: end_late(replicas.stores[1]),
                lambda: end_late(replicas.stores[2]),
                lambda: take_over(replicas.stores[3]),
            ]
        )
        assert sum(outcome is True for outcome in outcomes) == 1
        store.write(lambda tx: tx.clear())
