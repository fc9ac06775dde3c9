"""`--operation-delay`: operations that could end at once stay open, and can be cancelled."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from api.client import URI, refused
from api.cloud import GIB, PLURALS, ZONE, Cloud, Kind, fresh_folder, unpacked
from darkroom import wiring
from darkroom.config import Settings
from darkroom.domain.disk import Disk
from darkroom.domain.ids import new_id
from darkroom.domain.image import Image
from darkroom.domain.resource import Resource, Status
from darkroom.domain.snapshot import Snapshot
from darkroom.operations.desk import wall_clock_us
from installation import Installation, installation, until

DELAY_SECONDS = 1.2
"""Long enough to look at what is on its way, on a busy machine too."""
ALREADY_EXISTS = grpc.StatusCode.ALREADY_EXISTS
CANCELLED = grpc.StatusCode.CANCELLED.value[0]
BINDING = {"role_id": "viewer", "subject": {"id": "someone", "type": "userAccount"}}
KINDS: dict[str, type[Resource]] = {"images": Image, "disks": Disk, "snapshots": Snapshot}


@contextmanager
def delayed(folder: Path) -> Iterator[tuple[Installation, Cloud]]:
    """A real installation, its worker in a process of its own, and its database."""
    settings = {"DARKROOM_OPERATION_DELAY": str(DELAY_SECONDS)}
    with installation(folder, "http://127.0.0.1:9", **settings) as running:
        assert running.channel is not None
        store = wiring.open_store(Settings(data_dir=running.data))
        try:
            yield running, Cloud(running.channel, store)
        finally:
            store.close()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with delayed(tmp_path_factory.mktemp("delayed")) as (_, served):
        yield served


@pytest.fixture(params=PLURALS)
def kind(cloud: Cloud, request: pytest.FixtureRequest) -> Kind:
    return cloud.kind(request.param)


@pytest.fixture
def folder() -> str:
    return fresh_folder()


def ready(cloud: Cloud, kind: Kind, folder: str, **fields: Any) -> str:
    """The id of a resource that is there without anybody having waited for it."""
    values = {"status": Status.READY, "size_bytes": GIB, **fields}
    if kind.noun == "disk":
        values["zone_id"] = ZONE
    made = KINDS[kind.plural](new_id(), folder, wall_clock_us(), **values)
    cloud.store.write(lambda tx: tx.insert_resource(made))
    return made.id


def begin(cloud: Cloud, kind: Kind, folder: str, **fields: Any) -> Any:
    if kind.noun == "snapshot":
        fields.setdefault("disk_id", ready(cloud, cloud.kind("disks"), fresh_folder()))
    return kind.begin(folder, **fields)


def done(cloud: Cloud, operation: Any) -> Any:
    """The operation once it has ended; until then it is what it was."""
    assert not operation.done and operation.WhichOneof("result") is None

    def ended() -> Any:
        now = cloud.operations.Get(operation_id=operation.id)
        assert now.done or now.WhichOneof("result") is None
        assert now.metadata == operation.metadata
        return now if now.done else None

    return until(ended, "the end of an operation")


def cancel(cloud: Cloud, operation: Any) -> Any:
    """Cancel, and see it end so."""
    cloud.operations.Cancel(operation_id=operation.id)
    ended = done(cloud, operation)
    assert ended.error.code == CANCELLED
    return ended


def error_of(operation: Any) -> tuple[int, str]:
    return operation.error.code, operation.error.message


# --- what waits -----------------------------------------------------------------------------------


def test_a_creation_is_seen_at_once_and_ends_later(cloud: Cloud, kind: Kind, folder: str) -> None:
    operation = begin(cloud, kind, folder, name="slow", labels={"a": "b"})
    made = kind.id_of(operation)
    coming = kind.get(made)
    assert (coming.status, coming.name) == (type(coming).CREATING, "slow")
    conflict = f'conflicting operation "{operation.id}" detected'
    for attempt in (lambda: kind.delete(made), lambda: kind.update(made, "name", name="other")):
        failed = refused(attempt)
        assert (failed.code, failed.message) == (grpc.StatusCode.FAILED_PRECONDITION, conflict)
    taken = refused(lambda: begin(cloud, kind, folder, name="slow"))
    assert taken.code is ALREADY_EXISTS
    if kind.noun == "image":
        assert refused(lambda: kind.begin(folder, image_id=made)).reason == "SOURCE_NOT_READY"
    ended = done(cloud, operation)
    shown = kind.get(made)
    assert shown.status == type(shown).READY
    assert unpacked(ended.response) == shown
    held = ended.modified_at.ToNanoseconds() - ended.created_at.ToNanoseconds()
    assert held >= 0.95 * DELAY_SECONDS * 1e9
    coming.status = shown.status
    assert coming == shown
    assert [each.id for each in kind.stub.ListOperations(**{kind.id_field: made}).operations] == [
        operation.id
    ]


def test_changes_take_effect_when_their_operation_ends(
    cloud: Cloud, kind: Kind, folder: str
) -> None:
    made, bound, doomed = (ready(cloud, kind, folder, name=name) for name in ("m", "b", "d"))
    before = kind.get(made)
    update = kind.update(made, name="renamed", description="new")
    bindings = kind.stub.SetAccessBindings(resource_id=bound, access_bindings=[BINDING])
    deletion = kind.delete(doomed)
    assert kind.get(made) == before
    assert not kind.stub.ListAccessBindings(resource_id=bound).access_bindings
    assert kind.get(doomed).status == type(before).DELETING
    assert unpacked(done(cloud, update).response) == kind.get(made)
    assert (kind.get(made).name, kind.get(made).description) == ("renamed", "new")
    (delta,) = unpacked(done(cloud, bindings).response).effective_deltas
    assert (delta.action, delta.access_binding.role_id) == (1, "viewer")
    assert len(kind.stub.ListAccessBindings(resource_id=bound).access_bindings) == 1
    assert unpacked(done(cloud, deletion).response) == Empty()
    assert refused(lambda: kind.get(doomed)).code is grpc.StatusCode.NOT_FOUND
    # Withdrawing waits as well.
    delta = {"action": "REMOVE", "access_binding": BINDING}
    removal = kind.stub.UpdateAccessBindings(resource_id=bound, access_binding_deltas=[delta])
    assert len(kind.stub.ListAccessBindings(resource_id=bound).access_bindings) == 1
    done(cloud, removal)
    assert not kind.stub.ListAccessBindings(resource_id=bound).access_bindings


def test_a_disk_moves_when_its_operation_ends(cloud: Cloud, folder: str) -> None:
    disks = cloud.kind("disks")
    moving, relocating = (ready(cloud, disks, folder) for _ in range(2))
    elsewhere = fresh_folder()
    move = disks.stub.Move(disk_id=moving, destination_folder_id=elsewhere)
    relocation = disks.stub.Relocate(disk_id=relocating, destination_zone_id="ru-central1-b")
    assert disks.get(moving).folder_id == folder
    assert disks.get(relocating).zone_id == ZONE
    assert unpacked(done(cloud, move).response).folder_id == elsewhere
    assert unpacked(done(cloud, relocation).response).zone_id == "ru-central1-b"
    assert disks.get(moving).folder_id == elsewhere
    assert disks.get(relocating).zone_id == "ru-central1-b"


def test_a_repeat_with_the_key_shows_how_the_operation_stands(cloud: Cloud, folder: str) -> None:
    disks = cloud.kind("disks")
    key = (("idempotency-key", f"key-{folder}"),)
    operation = disks.begin(folder, name="once", metadata=key)
    assert disks.begin(folder, name="once", metadata=key) == operation
    ended = done(cloud, operation)
    assert disks.begin(folder, name="once", metadata=key) == ended


# --- cancelling -----------------------------------------------------------------------------------


def test_a_cancelled_creation_leaves_nothing(cloud: Cloud, kind: Kind, folder: str) -> None:
    operation = begin(cloud, kind, folder, name="undone")
    ended = cancel(cloud, operation)
    assert refused(lambda: kind.get(kind.id_of(operation))).code is grpc.StatusCode.NOT_FOUND
    assert kind.listed(folder) == []
    assert cloud.operations.Cancel(operation_id=operation.id) == ended
    begin(cloud, kind, folder, name="undone")  # the name is free again


def test_a_cancelled_change_leaves_everything_as_it_was(
    cloud: Cloud, kind: Kind, folder: str
) -> None:
    made = ready(cloud, kind, folder, name="steady", labels={"a": "b"})
    before = kind.get(made)
    begin_one: list[Callable[[], Any]] = [
        lambda: kind.update(made, description="no mask"),
        lambda: kind.delete(made),
        lambda: kind.stub.SetAccessBindings(resource_id=made, access_bindings=[BINDING]),
    ]
    if kind.noun == "disk":
        begin_one += [
            lambda: kind.stub.Move(disk_id=made, destination_folder_id=fresh_folder()),
            lambda: kind.stub.Relocate(disk_id=made, destination_zone_id="ru-central1-b"),
            lambda: kind.update(made, "size", size=2 * GIB),
        ]
    for begin_change in begin_one:
        cancel(cloud, begin_change())
        assert kind.get(made) == before
        assert not kind.stub.ListAccessBindings(resource_id=made).access_bindings
    begun = kind.stub.ListOperations(**{kind.id_field: made}).operations
    assert [each.error.code for each in begun] == [CANCELLED] * len(begin_one)


def test_a_cancelled_import_that_waits_leaves_nothing(cloud: Cloud, folder: str) -> None:
    images = cloud.kind("images")
    operation = images.begin(folder, uri=URI)
    cancel(cloud, operation)
    assert images.listed(folder) == []


def test_whoever_wins_the_race_the_resource_agrees_with_its_operation(
    cloud: Cloud, folder: str
) -> None:
    disks = cloud.kind("disks")
    doomed = [ready(cloud, disks, folder) for _ in range(12)]
    began = time.monotonic()
    deletions = [disks.delete(each) for each in doomed]
    creations = [disks.begin(folder) for _ in range(12)]

    def cancel_late(operation: Any, number: int) -> None:
        # Around the moment at which the worker takes them up, one after the other.
        time.sleep(max(0.0, began + DELAY_SECONDS + (number - 6) * 0.02 - time.monotonic()))
        cloud.operations.Cancel(operation_id=operation.id)

    threads = [
        threading.Thread(target=cancel_late, args=(operation, number))
        for batch in (deletions, creations)
        for number, operation in enumerate(batch)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    there = {each.id: each for each in disks.listed(folder)}
    for operations, there_after_success in ((deletions, False), (creations, True)):
        for operation in operations:
            ended = done(cloud, operation)
            succeeded = ended.WhichOneof("result") == "response"
            assert succeeded or ended.error.code == CANCELLED
            there = {each.id: each for each in disks.listed(folder)}
            made = disks.id_of(operation)
            assert (made in there) == (succeeded == there_after_success)
            assert made not in there or there[made].status == type(there[made]).READY


# --- names ----------------------------------------------------------------------------------------


def test_a_name_that_is_taken_is_refused_at_once(cloud: Cloud, kind: Kind, folder: str) -> None:
    ready(cloud, kind, folder, name="taken")
    made = ready(cloud, kind, folder, name="mine")
    before = kind.get(made)
    assert refused(lambda: kind.update(made, "name", name="taken")).code is ALREADY_EXISTS
    assert refused(lambda: begin(cloud, kind, folder, name="taken")).code is ALREADY_EXISTS
    if kind.noun == "disk":
        elsewhere = fresh_folder()
        ready(cloud, kind, elsewhere, name="mine")
        move = lambda: kind.stub.Move(disk_id=made, destination_folder_id=elsewhere)  # noqa: E731
        assert refused(move).code is ALREADY_EXISTS
    assert kind.get(made) == before
    assert not kind.stub.ListOperations(**{kind.id_field: made}).operations


def test_a_name_that_is_taken_meanwhile_ends_the_operation_with_an_error(
    cloud: Cloud, kind: Kind, folder: str
) -> None:
    made = ready(cloud, kind, folder, name="mine")
    before = kind.get(made)
    update = kind.update(made, "name", name="contended")
    ready(cloud, kind, folder, name="contended")
    ended = done(cloud, update)
    noun = kind.noun.capitalize()
    message = f'{noun} with name "contended" already exists'
    assert error_of(ended) == (ALREADY_EXISTS.value[0], message)
    assert kind.get(made) == before
    cancel(cloud, kind.update(made, "name", name="free"))  # nothing is left in the way


def test_a_move_into_a_name_that_is_taken_meanwhile_ends_with_an_error(
    cloud: Cloud, folder: str
) -> None:
    disks = cloud.kind("disks")
    made, elsewhere = ready(cloud, disks, folder, name="mine"), fresh_folder()
    move = disks.stub.Move(disk_id=made, destination_folder_id=elsewhere)
    ready(cloud, disks, elsewhere, name="mine")
    assert done(cloud, move).error.code == ALREADY_EXISTS.value[0]
    assert disks.get(made).folder_id == folder


def test_what_failed_can_be_deleted_after_its_name_was_taken_again(
    cloud: Cloud, folder: str
) -> None:
    images = cloud.kind("images")
    broken = ready(cloud, images, folder, name="mine", status=Status.ERROR)
    before = images.get(broken)
    successor = ready(cloud, images, folder, name="mine")
    cancel(cloud, images.delete(broken))
    assert images.get(broken) == before
    done(cloud, images.delete(broken))
    assert [each.id for each in images.listed(folder)] == [successor]


# --- crashes --------------------------------------------------------------------------------------


def test_what_waits_outlives_the_processes(tmp_path: Path) -> None:
    with delayed(tmp_path) as (running, cloud):
        disks, folder = cloud.kind("disks"), fresh_folder()
        doomed = ready(cloud, disks, folder, name="doomed")
        creation, deletion = disks.begin(folder, name="n"), disks.delete(doomed)
        running.kill()
        running.start()
        assert running.channel is not None
        cloud = Cloud(running.channel, cloud.store)
        done(cloud, deletion)
        made = disks.id_of(done(cloud, creation))
        assert [each.id for each in cloud.kind("disks").listed(folder)] == [made]
