"""What a backup consists of, and how its files are copied.

A backup is a folder. Its manifest names every file with its checksum and is written last: a
backup without one is not complete.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from darkroom.imaging.room import sync
from darkroom.storage import migrations

METADATA = "metadata.sqlite"
CONTENTS = "contents"
SECRET_KEY = "secret.key"
CERTIFICATES = "tls"
ACCESS = "access"

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600
CONTENT_FILE = 0o400

_NAME = "manifest.json"
_FORMAT = 1
_PIECE_BYTES = 1 << 20


class BackupError(Exception):
    """A backup or restore is impossible; the text says why and what to do."""


@dataclass(frozen=True)
class Places:
    """Where the parts of an installation are."""

    data: Path
    metadata: Path
    contents: Path
    secret_key: Path
    certificates: Path
    access: Path


@dataclass(frozen=True)
class Copied:
    """A file of a backup; the digest in hex."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Files by their path below the backup's folder."""

    files: dict[str, Copied]
    secrets: bool
    """Whether the keys that open what is sealed are among them."""

    @property
    def size_bytes(self) -> int:
        return sum(copied.size_bytes for copied in self.files.values())

    @property
    def contents(self) -> int:
        """How many contents there are."""
        return sum(name.startswith(f"{CONTENTS}/") for name in self.files)

    def write(self, folder: Path) -> None:
        """Make the backup complete."""
        record = {
            "format": _FORMAT,
            "schema_version": migrations.latest(),
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "secrets": self.secrets,
            "files": {name: vars(copied) for name, copied in self.files.items()},
        }
        part = folder / f"{_NAME}.part"
        with made(part, PRIVATE_FILE) as file:
            file.write(json.dumps(record, indent=1).encode())
        for below in sorted({(folder / name).parent for name in self.files}):
            sync(below)
        part.rename(folder / _NAME)
        sync(folder)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """That of a backup. Raises `BackupError` for what is none, or not complete."""
        try:
            record = json.loads((folder / _NAME).read_text(encoding="utf-8"))
            known = record["format"] == _FORMAT
            schema_version = int(record["schema_version"])
            files = {_inside(name): Copied(**copied) for name, copied in record["files"].items()}
            secrets = bool(record["secrets"])
        except FileNotFoundError:
            raise BackupError(
                f"{folder} is no complete backup: it has no {_NAME}, which is written last"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BackupError(f"{folder / _NAME} cannot be read: it is damaged") from None
        if not known or schema_version > migrations.latest():
            raise BackupError(f"{folder} was made by a newer Darkroom: restore it with that one")
        return cls(files, secrets)


def _inside(name: str) -> str:
    """The name, if it stays below the backup's folder. Raises `ValueError`."""
    if name.startswith("/") or ".." in Path(name).parts:
        raise ValueError("a path that leads elsewhere")
    return name


@contextlib.contextmanager
def made(path: Path, mode: int) -> Iterator[BinaryIO]:
    """A new file to write; on the disk when the block ends well. Raises `FileExistsError`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(descriptor)


def copy(source: BinaryIO, target: BinaryIO) -> Copied:
    """Copy from where both stand to the end of the source; what was copied."""
    digest, size_bytes = hashlib.sha256(), 0
    while piece := source.read(_PIECE_BYTES):
        digest.update(piece)
        size_bytes += len(piece)
        target.write(piece)
    return Copied(size_bytes, digest.hexdigest())


def empty_folder(path: Path) -> None:
    """Have an empty folder there, its owner's only. Raises `BackupError` if it holds anything."""
    path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise BackupError(f"{path} is not empty: name a folder that is, or that is not there yet")
