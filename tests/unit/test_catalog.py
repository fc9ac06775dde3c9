"""The catalogue: what its file may say, every fault named, and images begun exactly once."""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from darkroom.api import catalog_file
from darkroom.cli.dev import CATALOG
from darkroom.config import Settings
from darkroom.domain import errors
from darkroom.domain.errors import Failure
from darkroom.domain.image import Image, Os, OsType, Status
from darkroom.domain.operation import IMAGE_CREATE, State
from darkroom.domain.work import Interrupted
from darkroom.imaging import local_file
from darkroom.operations import catalog
from darkroom.operations.catalog import CatalogEntry, CatalogError, catalog_id
from darkroom.operations.changing import Delete
from darkroom.operations.desk import Caller, Operations
from darkroom.operations.image_create import (
    BlankSource,
    CreateImage,
    FileSource,
    ImageCreateEnding,
    UriSource,
)
from darkroom.storage.sqlite import SqliteStore
from imaging.watches import ManualWatch

MIB = 1 << 20


def read(folder: Path, text: str) -> list[CatalogEntry]:
    path = folder / "catalog.yaml"
    path.write_text(text, encoding="utf-8")
    return catalog_file.read(Settings(catalog=str(path), max_virtual_size=1 << 40))


def faults(folder: Path, text: str) -> str:
    with pytest.raises(CatalogError) as raised:
        read(folder, text)
    return str(raised.value)


# --- the file -------------------------------------------------------------------------------------


def test_no_catalogue_means_no_entries() -> None:
    assert catalog_file.read(Settings()) == []


def test_every_field_arrives_in_the_command(tmp_path: Path) -> None:
    (entry,) = read(
        tmp_path,
        """
        images:
          - folder: mine
            name: corporate-v1
            family: corporate
            description: Ours
            labels: {team: base}
            os: windows
            product_ids: [f2e1, f2e2]
            min_disk_size: 8 GiB
            blank: 4GiB
        """,
    )
    assert entry.place == "images[0] (corporate-v1)"
    assert entry.command == CreateImage(
        folder_id="mine",
        source=BlankSource(4 << 30),
        name="corporate-v1",
        description="Ours",
        labels={"team": "base"},
        family="corporate",
        min_disk_size_bytes=8 << 30,
        product_ids=("f2e1", "f2e2"),
        os=Os(OsType.WINDOWS),
        image_id=catalog_id("mine", "corporate-v1"),
        bindings=(catalog.READABLE_BY_EVERYONE,),
    )


def test_sources_of_every_kind_and_the_default_folder(tmp_path: Path) -> None:
    entries = read(
        tmp_path,
        """
        images:
          - {name: a, url: "https://storage.yandexcloud.net/bucket/a.qcow2"}
          - {name: b, file: images/b.qcow2}
          - {name: c, file: /images/c.qcow2}
          - {name: d, blank: 4096}
          - {name: e, blank: "4096"}
        """,
    )
    assert [entry.command.source for entry in entries] == [
        UriSource("https://storage.yandexcloud.net/bucket/a.qcow2"),
        FileSource(tmp_path / "images/b.qcow2"),
        FileSource(Path("/images/c.qcow2")),
        BlankSource(4096),
        BlankSource(4096),
    ]
    assert {entry.command.folder_id for entry in entries} == {"standard-images"}


def test_ids_depend_on_folder_and_name_alone() -> None:
    # Written down: installations exist, their ids must not change with the program.
    assert catalog_id("standard-images", "ubuntu") == "fd81igdr0kqqnqlos7jr"
    assert catalog_id("standard-images", "ubuntu") != catalog_id("mine", "ubuntu")
    assert re.fullmatch("fd8[0-9a-v]{17}", catalog_id("mine", "other"))


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("text", "images[0]: must be a mapping"),
        ("{blank: 1}", "images[0]: name: is missing"),
        ("{name: 5, blank: 1}", "images[0]: name: must be text; put it in quotes"),
        ('{name: "", blank: 1}', "images[0] (): name: must not be empty"),
        ("{name: Ubuntu, blank: 1}", "images[0] (Ubuntu): name: must match the pattern"),
        ("{name: a, blank: 1, familly: x}", "images[0] (a): familly: unknown; known are folder,"),
        ("{name: a, blank: 1, family: X}", "images[0] (a): family: must match the pattern"),
        ("{name: a, blank: 1, folder: ''}", "images[0] (a): folder: must not be empty"),
        ("{name: a, blank: 1, folder: " + "f" * 51 + "}", "images[0] (a): folder: must have at"),
        ("{name: a, blank: 1, description: " + "d" * 257 + "}", "(a): description: must have at"),
        ("{name: a, blank: 1, labels: [x]}", "images[0] (a): labels: must be a mapping"),
        ("{name: a, blank: 1, labels: {x: 1}}", "images[0] (a): labels: must be text"),
        ("{name: a, blank: 1, labels: {X: y}}", 'images[0] (a): labels["X"]: must match'),
        ("{name: a, blank: 1, os: beos}", "images[0] (a): os: must be one of linux, windows"),
        ("{name: a, blank: 1, os: [linux]}", "images[0] (a): os: must be one of linux, windows"),
        ("{name: a, blank: 1, product_ids: f2e}", "(a): product_ids: must be a list of texts"),
        ("{name: a, blank: 1, product_ids: [1]}", "(a): product_ids: must be text"),
        ("{name: a, blank: 1, min_disk_size: 1}", "(a): min_disk_size: must be 4194304 to"),
        ("{name: a, blank: 8 MiB, min_disk_size: 4 MiB}", "(a): min_disk_size: must be at least"),
        ("{name: a}", "(a): url: exactly one of url, file, blank must be there"),
        ("{name: a, url: x, file: y}", "(a): file: exactly one of url, file, blank must be there"),
        ("{name: a, url: x}", "(a): url: The URL cannot be used: it must look like"),
        ("{name: a, url: 'https://other/b/k?X-Amz-Signature=s'}", "https://other/b/k is not on an"),
        ("{name: a, file: ''}", "(a): file: must not be empty"),
        ("{name: a, blank: 0}", "(a): blank: must be a size"),
        ("{name: a, blank: -1}", "(a): blank: must be a size"),
        ("{name: a, blank: true}", "(a): blank: must be a size"),
        ("{name: a, blank: 1.5}", "(a): blank: must be a size"),
        ("{name: a, blank: 4 MB}", "(a): blank: must be a size"),
        ("{name: a, blank: 99999999 TiB}", "(a): blank: must be a size"),
        ("{name: a, blank: 2 TiB}", "(a): blank: must be at most 1099511627776 bytes"),
        ("{name: a, ? [b, c] : d, blank: 1}", "is not YAML"),
    ],
)
def test_a_fault_names_the_entry_and_the_field(tmp_path: Path, entry: str, fault: str) -> None:
    text = faults(tmp_path, f"images:\n- {entry}\n")
    assert fault in text
    assert str(tmp_path / "catalog.yaml") in text
    assert "Signature" not in text


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    text = faults(
        tmp_path,
        "images: [{name: a, blank: 1}, {name: B, blank: 1}, {name: a, blank: 2}, {}]\nversion: 1",
    )
    assert [line.strip().partition(" must")[0] for line in text.splitlines()[1:]] == [
        "version: unknown; only `images` stands here",
        "images[1] (B): name:",
        "images[2] (a): name: images[0] (a) has it in this folder already",
        "images[3]: name: is missing",
        "images[3]: url: exactly one of url, file, blank",
    ]


def test_the_same_name_in_two_folders_is_two_images(tmp_path: Path) -> None:
    first, second = read(
        tmp_path, "images: [{name: a, blank: 1}, {name: a, folder: mine, blank: 1}]"
    )
    assert first.command.image_id != second.command.image_id


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "must hold a mapping with the list `images`"),
        ("[]", "must hold a mapping with the list `images`"),
        ("images: {}", "must hold a mapping with the list `images`"),
        ("images: [", "is not YAML"),
        ("images: !!python/object/apply:os.getcwd []", "is not YAML"),
        ("images: [2026-99-99]", "is not YAML"),
        ("[" * 100_000, "is not YAML"),
    ],
)
def test_what_is_no_catalogue_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    assert fault in faults(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        catalog_file.read(Settings(catalog=str(tmp_path / "none.yaml")))


def test_the_development_catalogue_is_of_placeholders_that_say_so() -> None:
    entries = catalog_file.read(Settings(catalog=str(CATALOG)))
    families = {entry.command.family for entry in entries}
    assert {"ubuntu-2404-lts", "ubuntu-2204-lts", "debian-12", "debian-13"} <= families
    for entry in entries:
        assert entry.command.source == BlankSource(4 * MIB)
        assert "Placeholder" in entry.command.description
        assert entry.command.labels == {"placeholder": "true"}


# --- making the images ----------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "metadata.sqlite")
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def desk(store: SqliteStore) -> Operations:
    return Operations(store, {IMAGE_CREATE: ImageCreateEnding()}, lambda _id, text: text)


URL_ENTRY = 'images: [{name: a, url: "https://storage.yandexcloud.net/bucket/a.qcow2"}]'


def operations_on(store: SqliteStore, image_id: str) -> int:
    return len(store.list_operations(image_id, (0, ""), 100))


def test_a_second_start_and_a_second_replica_begin_nothing(
    store: SqliteStore, desk: Operations, tmp_path: Path
) -> None:
    entries = read(tmp_path, URL_ENTRY)
    image_id = entries[0].command.image_id
    # Both replicas looked before either of them wrote.
    key = Caller(catalog.SUBJECT, f"{image_id}/")
    assert desk.begin(entries[0].command, key).id == desk.begin(entries[0].command, key).id
    catalog.stock(store, desk, entries)
    assert operations_on(store, image_id) == 1


def test_a_failed_image_is_made_anew_at_the_next_start_and_keeps_its_age(
    store: SqliteStore, desk: Operations, tmp_path: Path
) -> None:
    entries = read(tmp_path, URL_ENTRY)
    image_id = entries[0].command.image_id
    catalog.stock(store, desk, entries)
    first = store.get(Image, image_id)
    claim = store.claim("worker")
    assert first is not None and claim is not None

    def fail(tx: object) -> None:
        ImageCreateEnding().fail(tx, claim.operation, claim.payload)  # type: ignore[arg-type]
        error = errors.internal()
        assert tx.finish_leased(claim.lease, 1, error=error)  # type: ignore[attr-defined]

    store.write(fail)
    catalog.stock(store, desk, entries)
    catalog.stock(store, desk, entries)
    again = store.get(Image, image_id)
    assert again is not None
    assert (again.status, again.created_at_us) == (Status.CREATING, first.created_at_us)
    assert operations_on(store, image_id) == 2
    assert store.list_bindings(image_id, None, 10) == [catalog.READABLE_BY_EVERYONE]


def test_a_failed_image_that_is_being_deleted_is_not_made_anew_yet(
    store: SqliteStore, desk: Operations, tmp_path: Path
) -> None:
    """The end of the deletion would take the new image away."""
    entries = read(tmp_path, URL_ENTRY)
    image_id = entries[0].command.image_id
    failed = Image(id=image_id, folder_id="f", created_at_us=1, status=Status.ERROR)
    store.write(lambda tx: tx.insert_resource(failed))
    slow = Operations(store, {}, lambda _id, text: text, delay_seconds=60)
    slow.begin(Delete(Image, image_id), Caller("somebody"))
    catalog.stock(store, desk, entries)
    assert store.get(Image, image_id) == failed
    assert operations_on(store, image_id) == 1


def test_a_deleted_image_comes_back_at_the_next_start(
    store: SqliteStore, desk: Operations, tmp_path: Path
) -> None:
    entries = read(tmp_path, "images: [{name: a, blank: 1}]")
    image_id = entries[0].command.image_id
    for _ in range(2):
        catalog.stock(store, desk, entries)
        assert store.get(Image, image_id) is not None
        desk.begin(Delete(Image, image_id), Caller("somebody"))
        assert store.get(Image, image_id) is None


def test_a_name_that_is_taken_does_not_keep_the_rest_out(
    store: SqliteStore, desk: Operations, tmp_path: Path
) -> None:
    desk.begin(CreateImage("standard-images", BlankSource(1), name="a"), Caller("somebody"))
    entries = read(tmp_path, "images: [{name: a, blank: 1}, {name: b, blank: 1}]")
    catalog.stock(store, desk, entries)
    assert [store.get(Image, entry.command.image_id) is None for entry in entries] == [True, False]


def test_a_file_matters_until_its_image_is_there(
    store: SqliteStore, desk: Operations, tmp_path: Path
) -> None:
    entries = read(tmp_path, "images: [{name: a, file: a.raw}]")
    with pytest.raises(CatalogError, match=re.escape("images[0] (a): file: ")):
        catalog.stock(store, desk, entries)
    (tmp_path / "a.raw").write_bytes(b"x")
    catalog.stock(store, desk, entries)
    (tmp_path / "a.raw").unlink()
    catalog.stock(store, desk, entries)
    assert operations_on(store, entries[0].command.image_id) == 1


def test_with_a_delay_a_blank_image_and_its_binding_wait(
    store: SqliteStore, tmp_path: Path
) -> None:
    desk = Operations(store, {}, lambda _id, text: text, delay_seconds=60)
    entries = read(tmp_path, "images: [{name: a, blank: 1}]")
    image_id = entries[0].command.image_id
    catalog.stock(store, desk, entries)
    image = store.get(Image, image_id)
    assert image is not None and image.status is Status.CREATING
    (operation,) = store.list_operations(image_id, (0, ""), 10)
    assert operation.state is State.PENDING


# --- copying a file -------------------------------------------------------------------------------


def test_a_copy_has_the_bytes_the_digest_and_a_private_mode(tmp_path: Path) -> None:
    data = os.urandom(3 * MIB + 5)
    (tmp_path / "source").write_bytes(data)
    target = tmp_path / "target"
    fetched = local_file.copy(tmp_path / "source", target, len(data), ManualWatch())
    assert target.read_bytes() == data
    assert (fetched.size_bytes, fetched.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@pytest.mark.parametrize("what", ["missing", "empty", "folder", "pipe", "large"])
def test_an_unusable_file_is_refused_without_its_path(tmp_path: Path, what: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    match what:
        case "empty":
            source.touch()
        case "folder":
            source.mkdir()
        case "pipe":
            os.mkfifo(source)
        case "large":
            source.write_bytes(b"12345")
    with pytest.raises(Failure) as raised:
        local_file.copy(source, target, 4, ManualWatch())
    assert raised.value.reason == "SOURCE_FILE_UNUSABLE"
    assert str(tmp_path) not in str(raised.value.to_record())
    assert not target.exists()


class Meddling(ManualWatch):
    """Does something after the first piece of a copy."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self._act = act

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        super().progress(done_bytes, total_bytes)
        if len(self.reports) == 1:
            self._act()


@pytest.mark.parametrize("size_bytes", [2 * MIB, 4 * MIB])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, size_bytes: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(3 * MIB))
    watch = Meddling(lambda: os.truncate(source, size_bytes))
    with pytest.raises(Failure, match="changed while it was read"):
        local_file.copy(source, target, 1 << 30, watch)
    assert not target.exists()


def test_an_interrupted_copy_leaves_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(3 * MIB))
    watch = Meddling(lambda: watch.event.set())
    with pytest.raises(Interrupted):
        local_file.copy(source, target, 1 << 30, watch)
    assert watch.reports == [(MIB, 3 * MIB)]
    assert not target.exists()
