"""An installation damaged in every way: each is found, some are mended, load is no alarm."""

import contextlib
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from content_storage import BUCKET, Storage
from darkroom.cli.main import main
from darkroom.domain.image import Image
from darkroom.domain.resource import Status
from darkroom.storage import migrations
from darkroom_pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2
from database_server import database
from house import STORED, UNUSED, House
from installation import PATIENCE_SECONDS, Installation, installation
from object_server import ObjectServer


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "data")
    yield made
    made.close()


class Fsck:
    """`darkroom fsck --json` and what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str], data: Path) -> None:
        self._capsys = capsys
        self._data = data

    def __call__(self, *more: str, patience: float = 0.3) -> tuple[int, dict[str, Any]]:
        self._capsys.readouterr()
        place = ("--data-dir", str(self._data), "--patience", str(patience))
        status = main(["fsck", "--json", *place, *more])
        output = self._capsys.readouterr()
        return status, json.loads(output.out) if output.out else {"error": output.err}

    def checks(self, *more: str) -> set[str]:
        """The names of the checks that found something."""
        status, report = self(*more)
        assert status == int(not report["sound"])
        return {each["check"] for each in report["findings"] if not each["mended"]}


@pytest.fixture
def fsck(capsys: pytest.CaptureFixture[str], house: House) -> Fsck:
    return Fsck(capsys, house.data)


Damage = Callable[[House], object]


def sql(statement: str) -> Damage:
    return lambda house: house.sql(statement)


DAMAGES: dict[str, tuple[Damage, set[str], set[str]]] = {
    # What is done, which checks notice, and which still do when all was mended that can be.
    "a status nobody knows": (
        sql("UPDATE resource SET status = 9 WHERE name = 'empty'"),
        {"resource-kind", "resource-unreadable"},
        {"resource-kind", "resource-unreadable"},
    ),
    "a kind nobody knows": (
        sql("UPDATE resource SET kind = 'Server' WHERE name = 'empty'"),
        {"resource-kind"},
        {"resource-kind"},
    ),
    "a name twice": (
        lambda house: (
            house.sql("DROP INDEX resource_unique_name"),
            house.sql("UPDATE resource SET name = 'same' WHERE kind = 'Disk'"),
        ),
        {"resource-name"},
        {"resource-name"},
    ),
    "a content's row gone": (
        sql("DELETE FROM content"),
        {"resource-content", "content-orphaned"},
        {"resource-content", "content-orphaned"},
    ),
    "a content forgotten": (
        sql("UPDATE resource SET content_id = NULL WHERE name = 'image'"),
        {"resource-bytes"},
        {"resource-bytes"},
    ),
    "a disk smaller than its content": (
        sql("UPDATE resource SET size_bytes = 512 WHERE kind = 'Disk'"),
        {"resource-size"},
        {"resource-size"},
    ),
    "another stored size": (
        sql("UPDATE resource SET storage_size_bytes = 1 WHERE kind = 'Snapshot'"),
        {"resource-size"},
        {"resource-size"},
    ),
    "creating without an operation": (
        sql("DELETE FROM operation WHERE state = 0"),
        {"resource-creating", "key-orphaned"},
        set(),
    ),
    "deleting without an operation": (
        sql("UPDATE resource SET status = 4 WHERE name = 'image'"),
        {"resource-deleting"},
        set(),
    ),
    "ready before its operation ended": (
        sql("UPDATE resource SET status = 2 WHERE name = 'waits'"),
        {"resource-ready"},
        {"resource-ready"},
    ),
    "bindings of nothing": (
        sql("UPDATE access_binding SET resource_id = 'nothing'"),
        {"binding-orphaned"},
        set(),
    ),
    "a content the collector overlooks": (House.put_unused, {"content-forgotten"}, set()),
    "a state nobody knows": (
        sql("UPDATE operation SET state = -1 WHERE state = 0"),
        {"operation-state", "operation-unreadable"},
        {"operation-state", "operation-unreadable"},
    ),
    "running under no lease": (
        sql("UPDATE operation SET state = 1 WHERE state = 0"),
        {"operation-state", "lease-expired"},
        set(),
    ),
    "an owner of what waits": (
        sql("UPDATE operation SET owner = 'somebody' WHERE state = 0"),
        {"operation-owner"},
        set(),
    ),
    "ended without a result": (
        sql("UPDATE operation SET response = '' WHERE state = 2"),
        {"operation-result"},
        {"operation-result"},
    ),
    "ended with two results": (
        sql("UPDATE operation SET error = '{}' WHERE state = 2"),
        {"operation-result", "operation-unreadable"},
        {"operation-result", "operation-unreadable"},
    ),
    "a result too early": (
        sql("UPDATE operation SET response = '{}' WHERE state = 0"),
        {"operation-early"},
        {"operation-early"},
    ),
    "a cancel that was ignored": (
        sql("UPDATE operation SET cancel_requested = 1 WHERE state = 2"),
        {"operation-cancelled"},
        {"operation-cancelled"},
    ),
    "a secret that is still kept": (
        sql("UPDATE operation SET sealed = 'secret' WHERE state = 2"),
        {"operation-secret"},
        set(),
    ),
    "an operation on nothing": (
        sql("DELETE FROM resource WHERE name = 'waits'"),
        {"operation-resource"},
        {"operation-resource"},
    ),
    "two operations at once": (
        lambda house: house.sql(
            "UPDATE operation SET state = 0, response = '', resource_id = ? "
            "WHERE kind = 'image.set_bindings'",
            house.waits_id,
        ),
        {"operation-conflict"},
        {"operation-conflict"},
    ),
    "a key of nothing": (
        sql("UPDATE idempotency_key SET operation_id = 'nothing'"),
        {"key-orphaned"},
        set(),
    ),
    "an operation that is no JSON": (
        sql("UPDATE operation SET payload = '{' WHERE state = 0"),
        {"operation-unreadable"},
        {"operation-unreadable"},
    ),
    "a resource that is no JSON": (
        sql("UPDATE resource SET labels = '{' WHERE name = 'image'"),
        {"resource-unreadable"},
        {"resource-unreadable"},
    ),
    "a lost key": (House.lose_key, {"operation-sealed"}, {"operation-sealed"}),
    "a worker that is gone": (House.leave_a_lease, {"lease-expired"}, set()),
    "a file gone": (lambda house: house.file.unlink(), {"content-missing"}, {"content-missing"}),
    "a file cut off": (
        lambda house: house.rewrite(lambda data: data.__delitem__(slice(1000, None))),
        {"content-size"},
        {"content-size"},
    ),
    "files that crashes left": (
        House.leave_files,
        {"content-orphaned", "scratch-abandoned"},
        set(),
    ),
    "a broken database": (House.damage_database, {"database-damaged"}, {"database-damaged"}),
}


def test_a_sound_installation_has_nothing_wrong(house: House, fsck: Fsck) -> None:
    assert fsck("--tables") == (0, {"sound": True, "contents": 1, "findings": []})


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_mended_where_that_loses_nothing(
    house: House, fsck: Fsck, name: str
) -> None:
    damage, checks, left = DAMAGES[name]
    damage(house)
    assert fsck.checks() == checks
    assert left <= fsck.checks("--mend") <= checks
    assert fsck.checks() == left


def test_bytes_are_compared_where_that_is_asked_for(house: House, fsck: Fsck) -> None:
    house.rewrite(lambda data: data.__setitem__(-1, data[-1] ^ 1))
    assert fsck.checks() == set()
    assert fsck.checks("--checksums") == fsck.checks("--tables") == {"content-damaged"}
    house.damage_tables()
    assert fsck.checks("--checksums") == set()
    assert fsck.checks("--tables") == {"content-tables"}


def test_what_is_mended_works_again(house: House, fsck: Fsck) -> None:
    house.sql("UPDATE resource SET status = 4 WHERE name = 'image'")
    house.leave_a_lease()
    house.put_unused()
    assert fsck("--mend")[0] == 0
    image = house.store.get(Image, "fd8image")
    assert image is not None and image.status is Status.READY
    claim = house.store.claim("another")
    assert claim is not None and claim.lease.fence == 2
    assert house.store.unreferenced_contents(10) == [UNUSED]
    house.sql("DELETE FROM operation WHERE state = 1")
    assert fsck("--mend")[0] == 0
    abandoned = house.store.get(Image, house.waits_id)
    assert abandoned is not None and abandoned.status is Status.ERROR


def test_a_lease_that_lives_is_left_alone(house: House, fsck: Fsck) -> None:
    claim = house.store.claim("alive")
    assert claim is not None
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.05):
            house.store.heartbeat(claim.lease, "fetch", 0, None)

    thread = threading.Thread(target=beat)
    thread.start()
    (house.scratch / f"{house.waiting_id}.1").mkdir()
    assert fsck("--mend", patience=1.0)[0] == 0
    ended.set()
    thread.join()
    assert house.store.heartbeat(claim.lease, "fetch", 0, None) is not None
    assert (house.scratch / f"{house.waiting_id}.1").is_dir()


@pytest.mark.parametrize("prepare", ["nothing", "newer", "no database"])
def test_what_cannot_be_examined_is_no_verdict(
    house: House, fsck: Fsck, prepare: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    house.close()
    if prepare == "nothing":
        fsck = Fsck(capsys, tmp_path / "elsewhere")
    elif prepare == "newer":
        house.sql(f"PRAGMA user_version = {migrations.latest() + 1}")
        house.sql(f"UPDATE schema_version SET oldest_program = {migrations.latest() + 1}")
    else:
        house.settings.sqlite_path.write_bytes(b"not a database, but long enough" * 100)
    status, said = fsck()
    assert status == 2
    assert "cannot examine" in said["error"]
    assert not (tmp_path / "elsewhere").exists()


def test_findings_are_told_in_words(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    house.file.unlink()
    house.sql("UPDATE access_binding SET resource_id = 'nothing'")
    assert main(["fsck", "--data-dir", str(house.data)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "binding-orphaned: nothing has access bindings, but does not exist (--mend sets it right)",
        f"content-missing: {STORED} has a row but no file",
        "1 contents looked at: 2 wrong, 0 mended",
    ]


def test_contents_in_object_storage_are_examined_too(
    storage: Storage,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in storage.environment().items():
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/{prefix}"
    house, client = House(tmp_path / "data", content_url=url), storage.client
    fsck = Fsck(capsys, house.data)
    assert fsck("--tables", "--content-url", url)[0] == 0
    left = {"Bucket": BUCKET, "Key": f"{prefix}/crashed.1.qcow2"}
    client.create_multipart_upload(**left)
    assert fsck.checks("--content-url", url) == {"content-orphaned"}
    assert fsck("--mend", "--content-url", url)[0] == 0
    assert storage.uploads(prefix) == []
    stored = {"Bucket": BUCKET, "Key": f"{prefix}/{STORED}.qcow2"}
    size_bytes = house.deployment.contents.size_bytes(STORED)
    client.put_object(**stored, Body=b"x" * size_bytes)
    assert fsck.checks("--content-url", url) == set()
    assert fsck.checks("--checksums", "--content-url", url) == {"content-damaged"}
    client.delete_object(**stored)
    assert fsck.checks("--content-url", url) == {"content-missing"}
    house.close()


def test_metadata_in_postgresql_is_examined_too(
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with database(postgres_url) as url:
        monkeypatch.setenv("DARKROOM_DATABASE_URL", url)
        fsck = Fsck(capsys, tmp_path / "data")
        assert fsck()[0] == 2, "there is no schema yet"
        house = House(tmp_path / "data", database_url=url)
        assert fsck("--tables")[0] == 0
        house.leave_a_lease()
        assert fsck.checks("--lease-seconds", "1") == {"lease-expired"}
        assert fsck("--mend", "--lease-seconds", "1")[0] == 0
        claim = house.store.claim("another")
        assert claim is not None and claim.lease.fence == 2
        house.store.write(lambda tx: tx.delete_resource(house.waits_id))
        house.file.unlink()
        found = {"operation-resource", "content-missing", "lease-expired"}
        assert fsck.checks() == found
        house.close()


# --- while everything happens ---------------------------------------------------------------------


def call_until(
    stop: threading.Event, act: Callable[[], object], done: Counter[str]
) -> threading.Thread:
    """Do it again and again in a thread; what is refused meanwhile is part of it."""

    def repeat() -> None:
        while not stop.is_set():
            with contextlib.suppress(grpc.RpcError):
                act()
                done[act.__name__] += 1

    thread = threading.Thread(target=repeat)
    thread.start()
    return thread


def test_load_is_no_alarm(
    tmp_path: Path, source: ObjectServer, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with installation(tmp_path, source.origin, DARKROOM_WORKERS="2") as darkroom:
        examine_under_load(darkroom, source.url(disk.name), Fsck(capsys, darkroom.data))


def examine_under_load(darkroom: Installation, url: str, fsck: Fsck) -> None:
    """Examine again and again while images come and go; `url` is what is imported."""
    stop = threading.Event()

    def import_and_delete() -> None:
        image = image_pb2.Image()
        assert darkroom.done(darkroom.create(url).id).response.Unpack(image)
        request = image_service_pb2.CreateImageRequest(folder_id="other", image_id=image.id)
        darkroom.images.Create(request)
        darkroom.images.Delete(image_service_pb2.DeleteImageRequest(image_id=image.id))

    def begin_and_cancel() -> None:
        created = darkroom.create(url)
        time.sleep(0.05)
        darkroom.cancel(created.id)
        darkroom.done(created.id)

    def delete_the_rest() -> None:
        request = image_service_pb2.ListImagesRequest(folder_id="other")
        for image in darkroom.images.List(request).images:
            darkroom.images.Delete(image_service_pb2.DeleteImageRequest(image_id=image.id))
        time.sleep(0.05)

    acts = (import_and_delete, import_and_delete, begin_and_cancel, delete_the_rest)
    done: Counter[str] = Counter()
    threads = [call_until(stop, act, done) for act in acts]
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        for options in itertools.cycle(([], ["--checksums"], ["--mend"])):
            status, report = fsck(*options, patience=4.0)
            assert (status, report["findings"]) == (0, [])
            if all(done[act.__name__] > 2 for act in acts):
                break
            assert time.monotonic() < deadline, f"too little happened: {done}"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert fsck("--tables", patience=4.0)[0] == 0
