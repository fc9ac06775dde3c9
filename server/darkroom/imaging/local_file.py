"""A file of the operator as the source of an import: what a download is, without a network."""

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from darkroom.domain import errors
from darkroom.domain.work import Watch
from darkroom.imaging.fetch import Fetched
from darkroom.imaging.room import storage_failure

_PIECE_BYTES = 1 << 20
"""Read, hashed and written at once: the watch is asked every few milliseconds."""


def copy(path: Path, target: Path, max_bytes: int, watch: Watch) -> Fetched:
    """Copy the regular file at `path` into `target`, which must not exist; mode 0600.

    A copy, because what is inspected must be what is converted, whoever writes to `path`
    meanwhile. When this raises, `target` is gone.

    Raises `Failure` (SOURCE_FILE_UNUSABLE, STORAGE_FULL), `Interrupted`.
    """
    watch.check()
    try:
        # Without blocking: opening a named pipe would wait for somebody to write into it.
        source = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        raise errors.source_file_unusable("it cannot be opened") from None
    try:
        before = os.fstat(source)
        _check(before, max_bytes)
        digest = _copy(source, target, before.st_size, watch)
        after = os.fstat(source)
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            target.unlink()
            raise errors.source_file_unusable("it changed while it was read")
    finally:
        os.close(source)
    return Fetched(before.st_size, digest)


def _check(status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise errors.source_file_unusable("it is not a regular file")
    if status.st_size == 0:
        raise errors.source_file_unusable("it is empty")
    if status.st_size > max_bytes:
        raise errors.source_file_unusable(f"it is larger than {max_bytes} bytes")


def _copy(source: int, target: Path, size_bytes: int, watch: Watch) -> str:
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise storage_failure(error) from error
    digest = hashlib.sha256()
    try:
        done = 0
        while done < size_bytes:
            watch.check()
            piece = _read(source, min(_PIECE_BYTES, size_bytes - done))
            digest.update(piece)
            _write(descriptor, piece)
            done += len(piece)
            watch.progress(done, size_bytes)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        raise
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def _read(descriptor: int, count: int) -> bytes:
    try:
        piece = os.read(descriptor, count)
    except OSError:
        raise errors.source_file_unusable("it cannot be read") from None
    if not piece:
        raise errors.source_file_unusable("it changed while it was read")
    return piece


def _write(descriptor: int, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except OSError as error:
            raise storage_failure(error) from error
