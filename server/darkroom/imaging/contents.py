"""Where contents are kept: the port and its adapter for a local folder."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from darkroom.domain import errors
from darkroom.domain.work import Watch
from darkroom.imaging.room import storage_failure, sync
from darkroom.telemetry.failpoints import failpoint

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SUFFIX = ".qcow2"
"""What the names of files and objects end with."""
_PART_SUFFIX = ".part"
_PIECE_BYTES = 1 << 20
"""Copied at once: the watch is asked every few milliseconds."""


class ContentStore(Protocol):
    """Immutable files by id. Every promise here is tested against every store. Thread-safe.

    An id is 1 to 128 of the characters A-Z a-z 0-9 . _ - and begins with a letter or digit;
    another one raises `ValueError` in every method. A store elsewhere that does not answer, or
    refuses to, raises `Failure` CONTENT_STORE_UNAVAILABLE or CONTENT_STORE_REFUSED.
    """

    def probe(self) -> None:
        """Raise `ValueError` if the store can never work like this, `Failure` if it cannot now."""

    def put(self, content_id: str, path: Path, sha256: str, watch: Watch) -> None:
        """Store the file, whose digest is `sha256` in hex, under the id; then `path` is gone.

        All or nothing: a crash at any moment leaves either no such id or the whole file, and
        once this returns the content survives a power cut. An id that exists is not touched.
        Where bytes have to travel they are compared with the digest on their way.

        Raises `FileExistsError` for an id that exists; `Failure` STORAGE_FULL, CONTENT_DAMAGED,
        CONTENT_STORE_*; `Interrupted` within a second of the interrupt. `path` stays then.
        """

    def open(self, content_id: str) -> BinaryIO:
        """The content to read from, anywhere in it; the caller closes it.

        Raises `FileNotFoundError` if there is none. One that is deleted meanwhile stays readable
        or `read` raises `OSError` ESTALE; it is never read as something else.
        """

    def exists(self, content_id: str) -> bool:
        """Whether the content is there, whole."""

    def size_bytes(self, content_id: str) -> int:
        """Length of the content. Raises `FileNotFoundError` if there is none."""

    def delete(self, content_id: str) -> None:
        """Remove the content and whatever a broken `put` left; nothing there is no error."""

    def ids(self) -> Iterator[str]:
        """Every id that holds space, in no order, those a crash left half-written included.

        Listed piece by piece as it is asked for; an id may come twice.
        An id stored or deleted meanwhile may be listed or not.
        """


def is_content_id(value: str) -> bool:
    """Whether a store takes the value for an id."""
    return _ID.fullmatch(value) is not None


def checked_id(content_id: str) -> str:
    """The id itself. Raises `ValueError` if it is none."""
    if not is_content_id(content_id):
        raise ValueError("not a content id")
    return content_id


class LocalContents:
    """Contents as files of one folder, readable by their owner only.

    The fast way in is a rename, so the file handed to `put` should be on the same file system;
    from another one it is copied.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _path(self, content_id: str) -> Path:
        return self._root / (checked_id(content_id) + SUFFIX)

    def _part(self, content_id: str) -> Path:
        return self._root / (checked_id(content_id) + _PART_SUFFIX)

    def probe(self) -> None:
        """The folder was made or found before."""

    def put(self, content_id: str, path: Path, sha256: str, watch: Watch) -> None:
        target = self._path(content_id)
        try:
            if path.stat().st_dev == self._root.stat().st_dev:
                self._publish(path, target)
            else:
                self._copy(path, self._part(content_id), target, sha256, watch)
        except FileExistsError:
            raise
        except OSError as error:
            raise storage_failure(error) from error
        path.unlink(missing_ok=True)

    def _copy(self, path: Path, part: Path, target: Path, sha256: str, watch: Watch) -> None:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        try:
            with path.open("rb") as source, part.open("xb") as copy:
                total_bytes = os.fstat(source.fileno()).st_size
                digest = hashlib.sha256()
                while piece := source.read(_PIECE_BYTES):
                    watch.check()
                    digest.update(piece)
                    copy.write(piece)
                    watch.progress(copy.tell(), total_bytes)
            if digest.hexdigest() != sha256:
                raise errors.content_damaged()
            failpoint("content.copied")
            self._publish(part, target)
        finally:
            part.unlink(missing_ok=True)

    def _publish(self, path: Path, target: Path) -> None:
        path.chmod(0o400)
        sync(path)
        failpoint("content.link")
        # A link, not a rename: it fails where the name is taken, in one step.
        os.link(path, target)
        failpoint("content.linked")
        sync(self._root)
        failpoint("content.stored")

    def open(self, content_id: str) -> BinaryIO:
        return self._path(content_id).open("rb")

    def exists(self, content_id: str) -> bool:
        return self._path(content_id).exists()

    def size_bytes(self, content_id: str) -> int:
        return self._path(content_id).stat().st_size

    def delete(self, content_id: str) -> None:
        self._path(content_id).unlink(missing_ok=True)
        self._part(content_id).unlink(missing_ok=True)

    def ids(self) -> Iterator[str]:
        with os.scandir(self._root) as entries:
            for entry in entries:
                stem, suffix = os.path.splitext(entry.name)
                if suffix in (SUFFIX, _PART_SUFFIX) and is_content_id(stem):
                    yield stem
