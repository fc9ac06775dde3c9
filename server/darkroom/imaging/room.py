"""What a full disk looks like, and how bytes get onto it for good."""

import errno
import os
from pathlib import Path

from darkroom.domain import errors

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""A full disk, a full quota and a file-size limit."""


def storage_failure(error: OSError) -> Exception:
    """STORAGE_FULL where there was no room, else the error itself."""
    return errors.storage_full() if error.errno in _NO_ROOM else error


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
