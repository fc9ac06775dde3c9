"""Where campaigns take place: each kind of installation, with the failpoints it can come to."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from campaign.clients import SOURCES
from campaign.fleet import Fleet
from content_storage import BUCKET, Storage
from darkroom.telemetry.failpoints import POINTS
from database_server import database_server
from object_server import ObjectServer

_SOURCE_BYTES = 256 * 1024
# Only where the scratch folder is on another file system, where the schema is old, and in backups.
_NOWHERE = {"content.copied", "schema.migrate", "backup.content", "backup.copied", "restore.file"}
_LOCAL = {"content.link", "content.linked", "content.stored"}
_S3 = {
    *("content.create", "content.created", "content.part", "content.complete"),
    "content.completed",
}

EMBEDDED_POINTS = POINTS - _NOWHERE - _S3
REPLICATED_POINTS = POINTS - _NOWHERE - _LOCAL


@contextlib.contextmanager
def sources(folder: Path) -> Iterator[ObjectServer]:
    """An object storage with the tiny images that clients import."""
    folder.mkdir()
    for name in SOURCES:
        raw = folder / "raw"
        raw.write_bytes(os.urandom(_SOURCE_BYTES))
        kind = Path(name).suffix[1:]
        command = ["qemu-img", "convert", "-f", "raw", "-O", kind, str(raw), str(folder / name)]
        subprocess.run(command, check=True)
        raw.unlink()
    with ObjectServer(folder).running() as server:
        yield server


@contextlib.contextmanager
def embedded(folder: Path, source: ObjectServer) -> Iterator[Fleet]:
    """One API process and three workers on SQLite and a folder."""
    environment = {"DARKROOM_SOURCE_ALLOW": source.origin + "/"}
    with Fleet(folder, environment, apis=1, workers=2).running() as fleet:
        yield fleet


@contextlib.contextmanager
def replicated(
    folder: Path, source: ObjectServer, storage: Storage, prefix: str
) -> Iterator[Fleet]:
    """Two API processes and three workers on a PostgreSQL of their own and on S3."""
    with database_server(durable=True) as server:
        environment = {
            "DARKROOM_SOURCE_ALLOW": source.origin + "/",
            "DARKROOM_DATABASE_URL": server.url(),
            "DARKROOM_CONTENT_URL": f"s3://{BUCKET}/{prefix}",
            **storage.environment(),
        }
        fleet = Fleet(folder, environment, apis=2, workers=2, database=server)
        with fleet.running():
            yield fleet
