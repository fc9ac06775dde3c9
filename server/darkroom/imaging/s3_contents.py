"""Contents in an S3-compatible object storage."""

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from botocore import exceptions

from darkroom.domain import errors
from darkroom.domain.work import Watch
from darkroom.imaging.contents import SUFFIX, checked_id, is_content_id
from darkroom.imaging.s3_calls import Calls, Passing, Refused, judged
from darkroom.imaging.s3_upload import Upload, UploadLimits

_NOT_FOUND = 404
_CHANGED = 412
_BUFFER_BYTES = 1 << 20


class S3Contents:
    """Contents as objects of one bucket, below one prefix, named like the files of a folder.

    A content is a multipart upload to its own key, which nobody sees before it is completed, and
    keys are never used again: what a late or a dead attempt leaves is an upload or an object of
    its own, for the collector.
    """

    def __init__(
        self, calls: Calls, prefix: str = "", upload_limits: UploadLimits | None = None
    ) -> None:
        self._calls = calls
        self._prefix = f"{prefix}/" if prefix else ""
        self._upload_limits = upload_limits or UploadLimits()

    def _key(self, content_id: str) -> str:
        return self._prefix + checked_id(content_id) + SUFFIX

    def _id(self, key: str) -> str | None:
        name = key.removeprefix(self._prefix)
        stem = name.removesuffix(SUFFIX)
        return stem if name != stem and is_content_id(stem) else None

    def probe(self) -> None:
        try:
            self._calls.once("list_objects_v2", Prefix=self._prefix, MaxKeys=1)
        except Passing as error:
            raise errors.content_store_unavailable(str(error)) from error
        except Refused as refused:
            raise ValueError(f"content_url: the storage cannot be used: {refused}") from None

    def put(self, content_id: str, path: Path, sha256: str, watch: Watch) -> None:
        key = self._key(content_id)
        with _told():
            Upload(self._calls, key, path, sha256, self._upload_limits).run(watch)
        path.unlink(missing_ok=True)

    def open(self, content_id: str) -> BinaryIO:
        with _told():
            found = self._found(self._key(content_id))
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such content")
        raw = _Object(self._calls, self._key(content_id), found["ContentLength"], found["ETag"])
        return io.BufferedReader(raw, _BUFFER_BYTES)

    def exists(self, content_id: str) -> bool:
        with _told():
            return self._found(self._key(content_id)) is not None

    def size_bytes(self, content_id: str) -> int:
        with _told():
            found = self._found(self._key(content_id))
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such content")
        return int(found["ContentLength"])

    def _found(self, key: str) -> dict[str, Any] | None:
        try:
            return self._calls.ask("head_object", Key=key)
        except Refused as refused:
            if refused.status != _NOT_FOUND:
                raise
            return None

    def delete(self, content_id: str) -> None:
        key = self._key(content_id)
        with _told():
            # Uploads first: one that is completed meanwhile is an object then, and goes with it.
            for each, upload_id in self._uploads(key):
                if each == key:
                    self._abort(key, upload_id)
            self._calls.ask("delete_object", Key=key)

    def _abort(self, key: str, upload_id: str) -> None:
        try:
            self._calls.ask("abort_multipart_upload", Key=key, UploadId=upload_id)
        except Refused as refused:
            if refused.status != _NOT_FOUND:
                raise

    def ids(self) -> Iterator[str]:
        with _told():
            for key in self._objects():
                if content_id := self._id(key):
                    yield content_id
            for key, _ in self._uploads(self._prefix):
                if content_id := self._id(key):
                    yield content_id

    def _objects(self) -> Iterator[str]:
        where: dict[str, Any] = {}
        while True:
            page = self._calls.ask("list_objects_v2", Prefix=self._prefix, **where)
            yield from (found["Key"] for found in page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return
            where = {"ContinuationToken": page["NextContinuationToken"]}

    def _uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Keys and ids of the uploads that are neither completed nor aborted."""
        where: dict[str, Any] = {}
        before: list[tuple[str, str]] = []
        while True:
            page = self._calls.ask("list_multipart_uploads", Prefix=prefix, **where)
            found = [(upload["Key"], upload["UploadId"]) for upload in page.get("Uploads", ())]
            if found == before:  # nothing, or a storage that always begins at the beginning
                return
            yield from found
            if not page.get("IsTruncated"):
                return
            # Just the markers that the storage gave: SeaweedFS goes by that of uploads alone.
            names = "KeyMarker", "UploadIdMarker"
            where = {name: page[f"Next{name}"] for name in names if page.get(f"Next{name}")}
            before = found


class _Object(io.RawIOBase):
    """One version of an object, read by ranges: a stream from wherever reading goes on."""

    def __init__(self, calls: Calls, key: str, size_bytes: int, etag: str) -> None:
        super().__init__()
        self._calls = calls
        self._key = key
        self._size_bytes = size_bytes
        self._etag = etag
        self._position = 0
        self._body: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size_bytes}
        position = start[whence] + offset
        if position < 0:
            raise ValueError("negative position")
        if position != self._position:
            self._leave()
            self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._size_bytes - self._position)]
        if not view:
            return 0
        try:
            data = self._calls.patiently(lambda: self._some(len(view)))
        except Refused as refused:
            if refused.status in (_NOT_FOUND, _CHANGED):
                raise OSError(errno.ESTALE, "the content was deleted meanwhile") from None
            raise errors.content_store_refused(refused.code) from None
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _some(self, count: int) -> bytes:
        try:
            if self._body is None:
                answer = self._calls.once(
                    "get_object",
                    Key=self._key,
                    Range=f"bytes={self._position}-",
                    IfMatch=self._etag,
                )
                self._body = answer["Body"]
            data = self._body.read(count)
            if not data:
                raise Passing("it closes the connection early")
        except BaseException as error:
            self._leave()
            if isinstance(error, exceptions.BotoCoreError):
                raise judged(error) from error
            raise
        assert isinstance(data, bytes)
        return data

    def _leave(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()

    def close(self) -> None:
        self._leave()
        super().close()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Refusals as failures of the catalogue."""
    try:
        yield
    except Refused as refused:
        raise errors.content_store_refused(refused.code) from None
