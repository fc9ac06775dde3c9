"""Backups of an installation, at rest, at work and cut short, and what is restored from them."""

import contextlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import grpc
import pytest

from darkroom import wiring
from darkroom.cli.main import main
from darkroom.imaging.contents import LocalContents
from darkroom.storage import migrations
from darkroom.upkeep.backup import Backup
from darkroom_pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2
from house import STORED, UNUSED, URL, House
from installation import installation, same_content, until
from object_server import ObjectServer

MANIFEST = "manifest.json"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "data")
    yield made
    made.close()


class Shell:
    """Runs commands in this process and keeps what they said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.said = ""

    def __call__(self, *arguments: object) -> int:
        self._capsys.readouterr()
        status = main([str(each) for each in arguments])
        output = self._capsys.readouterr()
        self.said = output.out + output.err
        return status


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def rows(database: Path) -> dict[str, list[Any]]:
    """Everything in a database."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        return {
            name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr)
            for (name,) in names
        }


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# --- at rest --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [[], ["--hard-links"]], ids=["copied", "linked"])
def test_what_is_restored_is_what_was_backed_up(
    house: House, shell: Shell, tmp_path: Path, how: list[str]
) -> None:
    backup, restored = tmp_path / "backup", tmp_path / "restored"
    house.settings.certificate_folder.mkdir()
    (house.settings.certificate_folder / "ca.pem").write_text("authority")
    house.settings.access_folder.mkdir()
    (house.settings.access_folder / "ci.yaml").write_text("account")
    (house.settings.access_folder / ".al.yaml.1").write_text("half")
    before = rows(house.settings.sqlite_path)
    assert shell("backup", backup, "--data-dir", house.data, *how) == 0
    assert "1 contents" in shell.said and "holds the secret key" in shell.said
    content = f"contents/{STORED}.qcow2"
    copied = ("secret.key", "tls/ca.pem", "access/ci.yaml", content)
    assert files(backup) == {MANIFEST, "metadata.sqlite", *copied}
    assert shell("restore", backup, "--data-dir", restored) == 0, shell.said
    assert rows(restored / "metadata.sqlite") == before
    for name in copied:
        assert (restored / name).read_bytes() == (house.data / name).read_bytes()
    modes = {each: stat.S_IMODE((restored / each).stat().st_mode) for each in files(restored)}
    assert modes.pop(content) == 0o400 and set(modes.values()) == {0o600}
    assert stat.S_IMODE(restored.stat().st_mode) == stat.S_IMODE(backup.stat().st_mode) == 0o700
    assert shell("fsck", "--tables", "--data-dir", restored) == 0, shell.said
    again = wiring.open_deployment(replace(house.settings, data_dir=restored))
    claim = again.store.claim("worker")
    assert claim is not None
    assert again.keyring.open(claim.operation.id, claim.sealed) == URL
    again.close()


def test_leases_stay_behind(house: House, shell: Shell, tmp_path: Path) -> None:
    house.leave_a_lease()
    assert shell("backup", tmp_path / "backup", "--data-dir", house.data) == 0
    assert shell("restore", tmp_path / "backup", "--data-dir", tmp_path / "restored") == 0
    assert shell("fsck", "--data-dir", tmp_path / "restored") == 0, shell.said
    (seen,) = house.store.unfinished()
    assert seen.owner == "ghost", "the installation itself is left alone"


def test_what_was_erased_is_not_in_a_backup(house: House, shell: Shell, tmp_path: Path) -> None:
    ((sealed,),) = house.sql("SELECT sealed FROM operation WHERE state = 0")
    wiring.operations(house.deployment).cancel(house.waiting_id)
    house.store.close()  # its file may still hold the secret, in a page that is free
    assert shell("backup", tmp_path / "backup", "--data-dir", house.data) == 0
    assert sealed.encode() not in (tmp_path / "backup" / "metadata.sqlite").read_bytes()


def test_secrets_can_be_left_out_and_the_operator_is_told(
    house: House, shell: Shell, tmp_path: Path
) -> None:
    backup, restored = tmp_path / "backup", tmp_path / "restored"
    assert shell("backup", backup, "--data-dir", house.data, "--leave-out-secrets") == 0
    assert "NOT in the backup" in shell.said
    assert files(backup) == {MANIFEST, "metadata.sqlite", f"contents/{STORED}.qcow2"}
    assert shell("restore", backup, "--data-dir", restored) == 0
    assert str(restored / "secret.key") in shell.said
    assert not (restored / "secret.key").exists()


def test_a_key_file_of_its_own_place_goes_there(house: House, shell: Shell, tmp_path: Path) -> None:
    backup, key = tmp_path / "backup", tmp_path / "keys"
    assert shell("backup", backup, "--data-dir", house.data) == 0

    def restore(name: str) -> int:
        place = ("--data-dir", tmp_path / name, "--secret-key-file", key)
        return shell("restore", backup, *place)

    assert restore("one") == 0, shell.said
    assert restore("two") == 0, "the key is in place already"
    key.write_text("another")
    assert restore("three") == 1
    assert "exists and is not the backup's" in shell.said


# --- what changes meanwhile -----------------------------------------------------------------------


class Deleting(LocalContents):
    """Something is deleted while a content is read."""

    def __init__(self, root: Path, act: Callable[[str], None]) -> None:
        super().__init__(root)
        self._act = act

    def open(self, content_id: str) -> BinaryIO:
        file = super().open(content_id)
        self._act(content_id)
        return file


def test_a_content_that_is_deleted_meanwhile_is_in_neither_part(
    house: House, shell: Shell, tmp_path: Path
) -> None:
    house.put_unused()
    backup, deleted = tmp_path / "backup", threading.Event()

    def delete_the_other(content_id: str) -> None:
        if content_id == STORED and not deleted.is_set():
            deleted.set()
            assert house.store.delete_content(UNUSED)
            house.deployment.contents.delete(UNUSED)

    made = Backup(
        wiring.places(house.settings),
        Deleting(house.settings.contents_path, delete_the_other),
        lambda target: wiring.snapshot(house.settings, target),
        lambda path: wiring.open_store(replace(house.settings, database_url=f"sqlite:{path}")),
        backup,
    ).make(secrets=True, hard_links=False)
    assert deleted.is_set() and made.contents == 1
    assert shell("restore", backup, "--data-dir", tmp_path / "restored") == 0, shell.said
    assert shell("fsck", "--checksums", "--data-dir", tmp_path / "restored") == 0, shell.said


def test_a_backup_of_a_running_installation_is_of_one_moment(
    tmp_path: Path, source: ObjectServer, disk: Path, shell: Shell
) -> None:
    with installation(tmp_path, source.origin, DARKROOM_WORKERS="2") as darkroom:
        url, stop = source.url(disk.name), threading.Event()
        kept = darkroom.done(darkroom.create(url, name="kept").id)

        def work() -> None:
            while not stop.is_set():
                with contextlib.suppress(grpc.RpcError):
                    created = darkroom.create(url)
                    image = image_pb2.Image()
                    darkroom.done(created.id).response.Unpack(image)
                    darkroom.images.Delete(image_service_pb2.DeleteImageRequest(image_id=image.id))

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for number, how in enumerate(([], ["--hard-links"])):
                place = tmp_path / f"backup{number}"
                assert shell("backup", place, "--data-dir", darkroom.data, *how) == 0, shell.said
                time.sleep(0.3)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    for number in range(2):
        restored = tmp_path / f"restored{number}"
        assert shell("restore", tmp_path / f"backup{number}", "--data-dir", restored) == 0
        assert shell("fsck", "--checksums", "--data-dir", restored) == 0, shell.said
    second = tmp_path / "second"
    second.mkdir()
    (tmp_path / "restored1").rename(second / "data")
    with installation(second, source.origin) as darkroom:
        creating = image_pb2.Image.CREATING
        until(lambda: creating not in [each.status for each in darkroom.listed()], "all to end")
        (image,) = [each for each in darkroom.listed() if each.name == "kept"]
        assert darkroom.operation(kept.id) == kept
        darkroom.export(image.id, tmp_path / "exported.qcow2")
    assert same_content(disk, "qcow2", tmp_path / "exported.qcow2", "qcow2")
    assert shell("fsck", "--checksums", "--data-dir", second / "data") == 0, shell.said


# --- cut short, damaged, refused ------------------------------------------------------------------


def killed_at(failpoint: str, folder: Path, *arguments: object) -> None:
    """Run a command and kill it where it stands still."""
    folder.mkdir()
    (folder / f"{failpoint}.arm").touch()
    command = [sys.executable, "-m", "darkroom", *map(str, arguments)]
    process = subprocess.Popen(command, env={**os.environ, "DARKROOM_FAILPOINTS": str(folder)})
    try:
        until((folder / f"{failpoint}.hit").exists, failpoint)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("failpoint", ["backup.content", "backup.copied"])
def test_a_backup_that_was_cut_short_is_none(
    house: House, shell: Shell, tmp_path: Path, failpoint: str
) -> None:
    backup = tmp_path / "backup"
    killed_at(failpoint, tmp_path / "points", "backup", backup, "--data-dir", house.data)
    assert shell("restore", backup, "--data-dir", tmp_path / "restored") == 1
    assert "no complete backup" in shell.said
    assert not (tmp_path / "restored").exists()
    assert shell("backup", backup, "--data-dir", house.data) == 1
    assert "is not empty" in shell.said


def test_nothing_starts_where_a_restore_was_cut_short(
    house: House, shell: Shell, tmp_path: Path
) -> None:
    backup, restored = tmp_path / "backup", tmp_path / "restored"
    assert shell("backup", backup, "--data-dir", house.data) == 0
    killed_at("restore.file", tmp_path / "points", "restore", backup, "--data-dir", restored)
    for command in ("serve", "work"):
        assert shell(command, "--data-dir", restored, "--listen", "127.0.0.1:0") == 1
        assert "did not come to its end" in shell.said
    assert shell("restore", backup, "--data-dir", restored) == 1
    assert "is not empty" in shell.said


def changed(path: Path, change: Callable[[bytearray], None]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.chmod(0o600)
    path.write_bytes(data)


def edit_manifest(backup: Path, **values: Any) -> None:
    record = json.loads((backup / MANIFEST).read_text())
    (backup / MANIFEST).write_text(json.dumps({**record, **values}))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file that is gone": (lambda backup: (backup / "secret.key").unlink(), "is missing"),
    "a byte that changed": (
        lambda backup: changed(backup / "metadata.sqlite", lambda data: data.__setitem__(50, 1)),
        "has other bytes",
    ),
    "an end that is gone": (
        lambda backup: changed(
            backup / "contents" / f"{STORED}.qcow2", lambda data: data.__delitem__(slice(9, None))
        ),
        "has other bytes",
    ),
    "a manifest cut off": (
        lambda backup: changed(backup / MANIFEST, lambda data: data.__delitem__(slice(99, None))),
        "cannot be read",
    ),
    "a later format": (lambda backup: edit_manifest(backup, format=2), "newer Darkroom"),
    "a later schema": (
        lambda backup: edit_manifest(backup, schema_version=migrations.latest() + 1),
        "newer Darkroom",
    ),
    "a way out": (
        lambda backup: edit_manifest(
            backup, files={"contents/../../stray": {"size_bytes": 1, "sha256": ""}}
        ),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_backup_is_not_restored(
    house: House, shell: Shell, tmp_path: Path, name: str
) -> None:
    damage, words = FAULTS[name]
    backup = tmp_path / "backup"
    assert shell("backup", backup, "--data-dir", house.data) == 0
    damage(backup)
    assert shell("restore", backup, "--data-dir", tmp_path / "restored") == 1
    assert words in shell.said
    restored = tmp_path / "restored"
    assert not restored.exists() or (restored / "restore.incomplete").exists()
    assert not (tmp_path / "stray").exists()


@pytest.mark.parametrize("kept", ["data", "database", "contents"])
def test_nothing_is_restored_over_anything(
    house: House, shell: Shell, tmp_path: Path, kept: str
) -> None:
    backup, place = tmp_path / "backup", tmp_path / "place"
    assert shell("backup", backup, "--data-dir", house.data) == 0
    place.mkdir()
    (place / "mine").write_text("precious")
    options: list[object] = ["--data-dir", tmp_path / "restored"]
    if kept == "data":
        options = ["--data-dir", place]
    elif kept == "database":
        options += ["--database-url", f"sqlite:{place / 'mine'}"]
    else:
        options += ["--content-url", f"file:{place}"]
    assert shell("restore", backup, *options) == 1
    assert "is not empty" in shell.said or "exists" in shell.said
    assert files(place) == {"mine"} and (place / "mine").read_text() == "precious"


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_what_is_damaged_is_not_backed_up(
    house: House, shell: Shell, tmp_path: Path, damage: str
) -> None:
    if damage == "missing":
        house.file.unlink()
    else:
        house.rewrite(lambda data: data.__setitem__(-1, data[-1] ^ 1))
    assert shell("backup", tmp_path / "backup", "--data-dir", house.data) == 1
    assert STORED in shell.said and "darkroom fsck" in shell.said
    assert not (tmp_path / "backup" / MANIFEST).exists()


@pytest.mark.parametrize(
    "other",
    [("--content-url", "s3://bucket/prefix"), ("--database-url", "postgresql://user@host/name")],
    ids=["s3", "postgres"],
)
def test_other_stores_are_backed_up_by_their_own_means(
    house: House, shell: Shell, tmp_path: Path, other: tuple[str, str]
) -> None:
    options = ("--data-dir", house.data, *other)
    for command in ("backup", "restore"):
        assert shell(command, tmp_path / "backup", *options) == 2
        assert "docs/operations.md" in shell.said
    assert not (tmp_path / "backup").exists()


def test_there_must_be_something_to_back_up(shell: Shell, tmp_path: Path) -> None:
    assert shell("backup", tmp_path / "backup", "--data-dir", tmp_path / "nothing") == 1
    assert "there is no installation" in shell.said
    assert not (tmp_path / "backup").exists() and not (tmp_path / "nothing").exists()
