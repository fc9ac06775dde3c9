"""What a full disk looks like."""

import errno

from darkroom.domain import errors

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""A full disk, a full quota and a file-size limit."""


def storage_failure(error: OSError) -> Exception:
    """STORAGE_FULL where there was no room, else the error itself."""
    return errors.storage_full() if error.errno in _NO_ROOM else error
