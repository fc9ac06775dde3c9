"""Where contents are kept: the port and its adapter for a local folder."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from darkroom.imaging.room import storage_failure, sync

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SUFFIX = ".qcow2"
_PART_SUFFIX = ".part"


class ContentStore(Protocol):
    """Immutable files by id. Every promise here is tested against every store.

    An id is 1 to 128 of the characters A-Z a-z 0-9 . _ - and begins with a letter or digit;
    another one raises `ValueError` in every method.
    """

    def put(self, content_id: str, path: Path) -> None:
        """Store the file under the id; afterwards `path` is gone.

        All or nothing: a crash at any moment leaves either no such id or the whole file, and
        once this returns the content survives a power cut. An id that exists is not touched.

        Raises `FileExistsError` for an id that exists (`path` stays), `Failure` STORAGE_FULL.
        """

    def read_path(self, content_id: str) -> AbstractContextManager[Path]:
        """A local path to read the content from, for the length of the block.

        Raises `FileNotFoundError` if there is none. A content deleted meanwhile stays readable
        through a file that was opened before.
        """

    def exists(self, content_id: str) -> bool:
        """Whether the content is there, whole."""

    def delete(self, content_id: str) -> None:
        """Remove the content and whatever a broken `put` left; nothing there is no error."""

    def ids(self) -> Iterator[str]:
        """Every id that holds space, in no order, those a crash left half-written included.

        An id stored or deleted meanwhile may be listed or not.
        """


def _checked(content_id: str) -> str:
    if not _ID.fullmatch(content_id):
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
        return self._root / (_checked(content_id) + _SUFFIX)

    def _part(self, content_id: str) -> Path:
        return self._root / (_checked(content_id) + _PART_SUFFIX)

    def put(self, content_id: str, path: Path) -> None:
        target = self._path(content_id)
        try:
            if path.stat().st_dev == self._root.stat().st_dev:
                self._publish(path, target)
            else:
                self._copy(path, self._part(content_id), target)
        except FileExistsError:
            raise
        except OSError as error:
            raise storage_failure(error) from error
        path.unlink(missing_ok=True)

    def _copy(self, path: Path, part: Path, target: Path) -> None:
        try:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()
            shutil.copyfile(path, part)
            self._publish(part, target)
        finally:
            part.unlink(missing_ok=True)

    def _publish(self, path: Path, target: Path) -> None:
        path.chmod(0o400)
        sync(path)
        # A link, not a rename: it fails where the name is taken, in one step.
        os.link(path, target)
        sync(self._root)

    @contextlib.contextmanager
    def read_path(self, content_id: str) -> Iterator[Path]:
        path = self._path(content_id)
        if not path.exists():
            raise FileNotFoundError("no such content")
        yield path

    def exists(self, content_id: str) -> bool:
        return self._path(content_id).exists()

    def delete(self, content_id: str) -> None:
        self._path(content_id).unlink(missing_ok=True)
        self._part(content_id).unlink(missing_ok=True)

    def ids(self) -> Iterator[str]:
        names = set()
        with os.scandir(self._root) as entries:
            for entry in entries:
                stem, suffix = os.path.splitext(entry.name)
                if suffix in (_SUFFIX, _PART_SUFFIX) and _ID.fullmatch(stem):
                    names.add(stem)
        return iter(names)
