"""Bounded reads of a file whose every number may be a lie."""

import os

from darkroom.domain import errors


class Layout:
    """A file and its length; nothing beyond the end is ever taken for data."""

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        self._descriptor = descriptor
        self.size_bytes = size_bytes

    def read(self, offset: int, count: int, what: str) -> bytes:
        """Exactly `count` bytes. Raises `Failure` IMAGE_TRUNCATED if they are not all there."""
        self.require(offset, count, what)
        data = os.pread(self._descriptor, count, offset)
        if len(data) != count:
            raise errors.image_truncated(f"{what} is not all there")
        return data

    def require(self, offset: int, count: int, what: str) -> None:
        """Raise `Failure` IMAGE_TRUNCATED unless the file holds these bytes."""
        if offset < 0 or count < 0 or offset + count > self.size_bytes:
            raise errors.image_truncated(f"{what} is not all there")
