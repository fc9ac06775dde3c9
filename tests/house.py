"""An installation at rest, made without starting any process, for tests of its upkeep."""

import base64
import contextlib
import hashlib
import os
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from darkroom import wiring
from darkroom.config import Settings
from darkroom.domain.content import Content
from darkroom.domain.image import Image
from darkroom.domain.resource import Status
from darkroom.operations.catalog import READABLE_BY_EVERYONE
from darkroom.operations.changing import SetBindings
from darkroom.operations.deriving import ResourceSource
from darkroom.operations.desk import Caller, Command
from darkroom.operations.disk_create import CreateDisk
from darkroom.operations.image_create import CreateImage, UriSource
from darkroom.operations.snapshot_create import CreateSnapshot
from imaging.watches import ManualWatch

MIB = 1 << 20
URL = "https://storage.yandexcloud.net/bucket/disk.qcow2?X-Amz-Signature=c0ffee"
STORED = "stored.1"
UNUSED = "unused.1"


class House:
    """An installation at rest with something of everything in it."""

    def __init__(self, data: Path, **settings: Any) -> None:
        self.data = data
        self.settings = Settings(data_dir=data, lease_seconds=1.0, **settings)
        self.deployment = wiring.open_deployment(self.settings)
        self.store = self.deployment.store
        self.store.migrate()
        self.scratch = self.settings.scratch_path
        self.scratch.mkdir()
        self._put(STORED)
        image = Image(
            *("fd8image", "folder", 1, Status.READY, "image"),
            size_bytes=MIB,
            storage_size_bytes=self.deployment.contents.size_bytes(STORED),
            content_id=STORED,
        )
        self.store.write(lambda tx: tx.insert_resource(image))
        desk = wiring.operations(self.deployment)
        size_bytes = 4 * MIB
        commands: tuple[Command, ...] = (
            CreateDisk("folder", "zone", size_bytes, ResourceSource(Image, image.id)),
            CreateDisk("folder", "zone", size_bytes, name="empty"),
            CreateImage("folder", UriSource(URL), name="waits"),
            SetBindings(Image, image.id, (READABLE_BY_EVERYONE,)),
        )
        for key, command in enumerate(commands):
            operation = desk.begin(command, Caller("somebody", f"key-{key}"))
            if key == 0:
                self.disk_id = operation.resource_id
            if key == 2:
                self.waiting_id, self.waits_id = operation.id, operation.resource_id
        desk.begin(CreateSnapshot("folder", self.disk_id), Caller("somebody"))

    @property
    def file(self) -> Path:
        """The content that the image, the disk and the snapshot share, of a local installation."""
        return self.settings.contents_path / f"{STORED}.qcow2"

    def _put(self, content_id: str) -> None:
        path = self.scratch / "made"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M"], check=True)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        size_bytes = path.stat().st_size
        self.deployment.contents.put(content_id, path, digest, ManualWatch())
        content = Content(content_id, MIB, size_bytes, digest, "", 1)
        self.store.write(lambda tx: tx.insert_content(content))

    def put_unused(self) -> None:
        self._put(UNUSED)
        self.sql("UPDATE content SET check_due = 0 WHERE id = ?", UNUSED)

    def sql(self, statement: str, *values: Any) -> list[Any]:
        """Whatever a fault, or somebody with a database client, might do to the rows."""
        path = self.settings.sqlite_path
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            return connection.execute(statement, values).fetchall()

    def rewrite(self, change: Callable[[bytearray], None]) -> None:
        """Change the bytes of the stored content."""
        data = bytearray(self.file.read_bytes())
        change(data)
        self.file.chmod(0o600)
        self.file.write_bytes(data)

    def damage_tables(self) -> None:
        """Contradict the reference counts, and have the row agree with the file."""

        def change(data: bytearray) -> None:
            table = int.from_bytes(data[48:56], "big")  # of reference counts
            block = int.from_bytes(data[table : table + 8], "big")
            data[block : block + 8] = bytes(8)

        self.rewrite(change)
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()
        self.sql("UPDATE content SET sha256 = ? WHERE id = ?", digest, STORED)

    def damage_database(self) -> None:
        self.store.close()
        self.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        ((page,),) = self.sql("SELECT rootpage FROM sqlite_schema WHERE name = 'resource_by_name'")
        ((size,),) = self.sql("PRAGMA page_size")
        with self.settings.sqlite_path.open("r+b") as file:
            file.seek((page - 1) * size + size // 2)
            file.write(b"\x5a" * (size // 2))

    def lose_key(self) -> None:
        self.settings.secret_key_path.write_text(base64.b64encode(os.urandom(32)).decode())

    def leave_a_lease(self) -> None:
        assert self.store.claim("ghost") is not None

    def leave_files(self) -> None:
        for name in ("crashed.1.qcow2", "crashed.2.part"):
            (self.settings.contents_path / name).write_bytes(b"left")
        (self.scratch / "crashed.1" / "out").mkdir(parents=True)

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self.deployment.close()
