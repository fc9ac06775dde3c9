"""One content on its way into object storage: a multipart upload, completed when all is well."""

import base64
import contextlib
import hashlib
import io
import secrets
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.domain import errors
from darkroom.domain.errors import Failure
from darkroom.domain.work import Watch
from darkroom.imaging.s3_calls import Calls, Passing, Refused, Stopped
from darkroom.telemetry.failpoints import failpoint

_POLL_SECONDS = 0.02
_MAX_PARTS = 10_000
"""Of one upload (Amazon S3 user guide, multipart upload limits)."""
_SENDING_BYTES = 512 * 1024
"""botocore sends bodies in smaller pieces than this (128 KiB) and signs them in larger ones."""
_LEAVE_SECONDS = 0.5
"""How long an interrupted caller waits for the upload to be aborted."""
_NO_UPLOAD = "NoSuchUpload"
"""Somebody aborted it, the collector after the lease was lost for instance, or completed it."""
_UPLOAD_NAME = "darkroom-upload"
"""Metadata of an object: tells which of several uploads to one key it is."""


@dataclass(frozen=True)
class UploadLimits:
    """Bounds of one upload. It takes `connections * part_bytes` of memory."""

    part_bytes: int = 8 * 1024**2
    """Length of a part, bytes; at least 5 MiB for Amazon. More where 10,000 are not enough."""
    connections: int = 4
    """Parts that are sent at once."""
    stall_seconds: float = 60.0
    """Within this time `min_bytes_per_second` must be reached on average, seconds."""
    min_bytes_per_second: int = 16 * 1024
    """Slowest upload that does not count as stalled, bytes per second over all connections."""


class _Body(io.BytesIO):
    """A part that tells how far it is, and that ends when nobody waits for it any more."""

    def __init__(self, data: bytes, stop: threading.Event, sent: Callable[[int], None]) -> None:
        super().__init__(data)
        self._stop = stop
        self._sent = sent

    def read(self, size: int | None = -1) -> bytes:
        if self._stop.is_set():
            raise Stopped
        data = super().read(size)
        if size is not None and 0 < size <= _SENDING_BYTES:
            self._sent(self.tell())
        return data


class Upload:
    """One file under one key. `run` is called once.

    The calling thread only watches, so it returns within a second of an interrupt whatever the
    storage does. Threads that wait for an answer then end by their own time-outs and abort the
    upload; what even they leave behind is the collector's.
    """

    def __init__(
        self, calls: Calls, key: str, path: Path, sha256: str, limits: UploadLimits
    ) -> None:
        self._calls = calls
        self._key = key
        self._path = path
        self._sha256 = sha256
        self._limits = limits
        self._total_bytes = path.stat().st_size
        self._name = secrets.token_hex(16)
        self._upload_id = ""
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._completing = False
        self._published = False
        # Below: shared between the threads, under the lock.
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._digest = hashlib.sha256()
        self._read_parts = 0
        self._parts: dict[int, dict[str, Any]] = {}
        self._sent: dict[int, int] = {}

    def run(self, watch: Watch) -> None:
        """Upload and publish. Raises `FileExistsError`, `Refused`, `Failure`, `Interrupted`."""
        watch.check()
        threading.Thread(target=self._lead, name="upload", daemon=True).start()
        try:
            self._watch_over(watch)
        except BaseException:
            self._stop.set()
            self._ended.wait(_LEAVE_SECONDS)
            raise

    # --- the calling thread -----------------------------------------------------------------------

    def _watch_over(self, watch: Watch) -> None:
        limits = self._limits
        minimum_bytes = int(limits.min_bytes_per_second * limits.stall_seconds)
        mark_time, mark_bytes = time.monotonic(), 0
        while True:
            ended = self._ended.wait(_POLL_SECONDS)
            with self._lock:
                failure, sent_bytes = self._failure, sum(self._sent.values())
            if failure is not None:
                raise failure
            watch.progress(sent_bytes, self._total_bytes)
            if ended:
                return
            watch.check()
            now = time.monotonic()
            mark_bytes = min(mark_bytes, sent_bytes)  # a part that broke starts over
            if sent_bytes - mark_bytes >= minimum_bytes or self._completing:
                mark_time, mark_bytes = now, sent_bytes
            elif now - mark_time > limits.stall_seconds:
                raise errors.content_store_unavailable("it takes the bytes too slowly")

    # --- the thread that leads --------------------------------------------------------------------

    def _lead(self) -> None:
        try:
            self._guarded(self._upload)
            if not self._published and self._upload_id:
                self._abort()
        finally:
            self._ended.set()

    def _guarded(self, work: Callable[[], None]) -> None:
        failure: BaseException
        try:
            work()
        except Stopped:
            return
        except Refused as refused:
            lost = refused.code == _NO_UPLOAD
            failure = errors.content_store_unavailable("it lost an upload") if lost else refused
        except BaseException as error:
            failure = error
        else:
            return
        with self._lock:  # handed to the calling thread, which raises it
            self._failure = self._failure or failure
        self._stop.set()

    def _upload(self) -> None:
        algorithm = {"ChecksumAlgorithm": "CRC32"} if self._calls.checksums else {}
        failpoint("content.create")
        created = self._ask("create_multipart_upload", Metadata=self._named(), **algorithm)
        self._upload_id = created["UploadId"]
        failpoint("content.created")
        with self._path.open("rb") as file:
            self._send_all(file)
        if self._stop.is_set():
            raise Stopped
        if self._digest.hexdigest() != self._sha256:
            raise errors.content_damaged()
        self._completing = True
        failpoint("content.complete")
        self._complete()
        self._published = True
        failpoint("content.completed")

    def _send_all(self, file: io.BufferedReader) -> None:
        part_bytes = max(self._limits.part_bytes, -(-self._total_bytes // _MAX_PARTS))
        count = min(self._limits.connections, -(-self._total_bytes // part_bytes))

        def send() -> None:
            self._guarded(lambda: self._send_parts(file, part_bytes))

        threads = [threading.Thread(target=send, name="upload", daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            # All have ended when the upload is aborted: a part that arrives later would stay.
            thread.join()

    def _complete(self) -> None:
        parts = [self._parts[number] for number in sorted(self._parts)]
        try:
            self._ask(
                "complete_multipart_upload",
                UploadId=self._upload_id,
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",
            )
        except Refused as refused:
            # The key is taken, or an answer was lost and this is the second request of two: the
            # object itself tells.
            if refused.code not in ("PreconditionFailed", _NO_UPLOAD):
                raise
        if not self._is_there():
            raise errors.content_store_unavailable("it lost an object")

    def _is_there(self) -> bool:
        """Whether this upload is the object. Raises `FileExistsError` if another one is."""
        try:
            found = self._ask("head_object")
        except Refused as refused:
            if refused.status != 404:
                raise
            return False
        if found["Metadata"].items() >= self._named().items():
            return bool(found["ContentLength"] == self._total_bytes)
        raise FileExistsError(self._key)

    def _named(self) -> dict[str, str]:
        return {_UPLOAD_NAME: self._name}

    def _ask(self, action: str, **parameters: Any) -> dict[str, Any]:
        return self._calls.ask(action, self._stop, Key=self._key, **parameters)

    def _abort(self) -> None:
        with contextlib.suppress(Failure, Passing, Refused):  # the collector will find it
            self._calls.once("abort_multipart_upload", Key=self._key, UploadId=self._upload_id)

    # --- the threads that send --------------------------------------------------------------------

    def _send_parts(self, file: io.BufferedReader, part_bytes: int) -> None:
        while not self._stop.is_set():
            # One after the other, so that the digest is that of the bytes in their order.
            with self._lock:
                piece = file.read(part_bytes)
                if not piece:
                    return
                self._digest.update(piece)
                self._read_parts += 1
                number = self._read_parts
            part = self._send(number, piece)
            with self._lock:
                self._parts[number] = part
                self._sent[number] = len(piece)
            failpoint("content.part")

    def _send(self, number: int, piece: bytes) -> dict[str, Any]:
        """Send one part, however many connections that takes; returns its line of the list."""

        def sent(count: int) -> None:
            with self._lock:
                self._sent[number] = count

        checksum = {}
        if self._calls.checksums:
            checksum["ChecksumCRC32"] = base64.b64encode(
                zlib.crc32(piece).to_bytes(4, "big")
            ).decode()

        def attempt() -> dict[str, Any]:
            return self._calls.once(
                "upload_part",
                Key=self._key,
                UploadId=self._upload_id,
                PartNumber=number,
                Body=_Body(piece, self._stop, sent),
                **checksum,
            )

        answer = self._calls.patiently(attempt, self._stop)
        return {"PartNumber": number, "ETag": answer["ETag"], **checksum}
