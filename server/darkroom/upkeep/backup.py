"""Backs up a whole installation with the embedded defaults: SQLite and a folder of contents.

Contents never change, so what has to be of one moment is the database alone: it is copied first,
then the contents that it refers to.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from darkroom.domain.content import Content
from darkroom.imaging.contents import SUFFIX, ContentStore
from darkroom.imaging.room import sync
from darkroom.storage.port import MetadataStore
from darkroom.telemetry.failpoints import failpoint
from darkroom.upkeep.manifest import (
    ACCESS,
    CERTIFICATES,
    CONTENT_FILE,
    CONTENTS,
    METADATA,
    PRIVATE_FILE,
    PRIVATE_FOLDER,
    SECRET_KEY,
    BackupError,
    Copied,
    Manifest,
    Places,
    copy,
    empty_folder,
    made,
)

_MAX_ROUNDS = 20
_PAGE = 500


class Backup:
    """Makes one backup of an installation, running or not."""

    def __init__(
        self,
        places: Places,
        contents: ContentStore,
        snapshot: Callable[[Path], None],
        open_snapshot: Callable[[Path], MetadataStore],
        target: Path,
    ) -> None:
        """`snapshot` copies the database as of one moment to a path; `open_snapshot` opens that."""
        self._places = places
        self._contents = contents
        self._snapshot = snapshot
        self._open_snapshot = open_snapshot
        self._target = target
        self._files: dict[str, Copied] = {}

    def make(self, *, secrets: bool, hard_links: bool) -> Manifest:
        """Write the backup into its folder, which must be new or empty.

        With `hard_links` contents are not copied but linked: at once and for nothing, on the same
        file system only, and no help where that is lost. Raises `BackupError`, `OSError`.
        """
        empty_folder(self._target)
        (self._target / CONTENTS).mkdir(mode=PRIVATE_FOLDER)
        self._copy_one_moment(hard_links=hard_links)
        self._copy_folder(self._places.access, ACCESS)  # public keys and digests, no secrets
        if secrets:
            self._copy_secrets()
        failpoint("backup.copied")
        manifest = Manifest(self._files, secrets)
        manifest.write(self._target)
        return manifest

    def _copy_one_moment(self, *, hard_links: bool) -> None:
        """Copy the database and the contents it refers to.

        A content may be deleted before it is copied; then so is its row by now, and a later copy
        of the database will do. Each round has only what is new to copy.
        """
        missing: set[str] = set()
        for _ in range(_MAX_ROUNDS):
            rows = self._copy_metadata()
            lost = missing & rows.keys()
            if lost:
                # It was missing before this copy of the database was made.
                raise BackupError(f"content {min(lost)} has no file: run `darkroom fsck`")
            missing = {
                row.id for row in rows.values() if not self._has_content(row, hard_links=hard_links)
            }
            if not missing:
                self._drop_contents_but(rows)
                return
        raise BackupError("contents come and go faster than they can be copied: try --hard-links")

    def _copy_metadata(self) -> dict[str, Content]:
        """Copy the database; the rows of contents in the copy, by id."""
        path = self._target / METADATA
        path.unlink(missing_ok=True)
        self._snapshot(path)
        store = self._open_snapshot(path)
        rows: dict[str, Content] = {}
        try:
            # Whoever starts from this copy need not wait until these leases have expired.
            for operation in store.unfinished():
                store.take_back(operation)
            after = ""
            while page := store.contents(after, _PAGE):
                rows.update((content.id, content) for content in page)
                after = page[-1].id
        finally:
            store.close()
        sync(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._files[METADATA] = Copied(path.stat().st_size, digest)
        return rows

    def _has_content(self, row: Content, *, hard_links: bool) -> bool:
        """Have the content in the backup; False if its file is gone."""
        name = _content_name(row.id)
        if name in self._files:
            return True
        target = self._target / name
        try:
            if hard_links:
                copied = self._linked(row, target)
            else:
                with self._contents.open(row.id) as file, made(target, CONTENT_FILE) as out:
                    copied = copy(file, out)
        except FileNotFoundError:
            return False
        if copied != Copied(row.stored_size_bytes, row.sha256):
            raise BackupError(f"content {row.id} is damaged: see `darkroom fsck --checksums`")
        self._files[name] = copied
        failpoint("backup.content")
        return True

    def _linked(self, row: Content, target: Path) -> Copied:
        try:
            os.link(self._places.contents / (row.id + SUFFIX), target)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise BackupError("hard links need the file system of the contents") from None
            raise
        return Copied(target.stat().st_size, row.sha256)

    def _drop_contents_but(self, rows: dict[str, Content]) -> None:
        """Forget what was copied for an earlier copy of the database only."""
        wanted = {METADATA, *map(_content_name, rows)}
        for name in self._files.keys() - wanted:
            (self._target / name).unlink()
            del self._files[name]

    def _copy_secrets(self) -> None:
        self._copy_file(self._places.secret_key, SECRET_KEY)
        self._copy_folder(self._places.certificates, CERTIFICATES)

    def _copy_folder(self, folder: Path, name: str) -> None:
        """Copy the files of a folder, if it is there."""
        if not folder.is_dir():
            return
        (self._target / name).mkdir(mode=PRIVATE_FOLDER)
        for path in folder.iterdir():
            if path.name.startswith(".") or not path.is_file():
                continue  # half-written, soon to be renamed
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                self._copy_file(path, f"{name}/{path.name}")

    def _copy_file(self, path: Path, name: str) -> None:
        with path.open("rb") as file, made(self._target / name, PRIVATE_FILE) as out:
            self._files[name] = copy(file, out)


def _content_name(content_id: str) -> str:
    return f"{CONTENTS}/{content_id}{SUFFIX}"
