"""The moving part of a download: threads that read parts, one that watches and hashes them."""

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from darkroom.domain import errors
from darkroom.domain.work import Watch
from darkroom.imaging.connection import Answer, Broken, Connection, CutShort, Version
from darkroom.imaging.fetch_limits import FetchLimits
from darkroom.imaging.sources import CheckedUrl

_POLL_SECONDS = 0.02
_BUFFER_BYTES = 512 * 1024
"""Received and written at once: large enough for few system calls, one per connection."""
_HASH_BYTES = 1 << 20
_HASH_BATCH = 16
"""Pieces hashed before the watch is asked again: about 20 ms."""
_PROGRESS_BYTES = 256 * 1024
"""A try that got this far was not in vain: the count of failed tries starts again."""
_MAX_BACKOFF_SECONDS = 5.0
_TRY_AGAIN = frozenset({408, 425, 429})


class _Stopped(Exception):
    """The transfer ends; this thread has nothing to report."""


class _Refused(Broken):
    """An answer that asks to come back later."""

    def __init__(self, status: int, retry_after_seconds: float | None) -> None:
        super().__init__(f"HTTP {status}")
        self.retry_after_seconds = retry_after_seconds


@dataclass
class _Part:
    start: int
    length: int
    done: int = 0
    """Bytes written so far; only the thread that owns the part changes it."""


class _Pace:
    """How many connections are worth having: doubled for as long as that makes it faster."""

    _WINDOW_SECONDS = 0.15
    _WINDOW_BYTES = 1 << 20
    _WORTH = 1.2
    _AGAIN_SECONDS = 15.0

    def __init__(self, max_connections: int) -> None:
        self.connections = 1
        self._max = max_connections
        self._since: float | None = None
        self._bytes = 0
        self._rate_before = 0.0
        self._settled_until = 0.0

    def observe(self, now: float, received: int) -> None:
        if self._since is None or now < self._settled_until:
            self._since, self._bytes = now, received
            return
        seconds, grown = now - self._since, received - self._bytes
        if seconds < self._WINDOW_SECONDS or (grown < self._WINDOW_BYTES and seconds < 1.0):
            return
        rate = grown / seconds
        if rate >= self._rate_before * self._WORTH:
            self._rate_before = rate
            if self.connections < self._max:
                self.connections = min(self.connections * 2, self._max)
        else:
            # The last doubling bought nothing; ask again later, networks change.
            self.connections = max(1, self.connections // 2)
            self._rate_before = 0.0
            self._settled_until = now + self._AGAIN_SECONDS
        self._since, self._bytes = now, received


class Transfer:
    """One download into an open file. `run` is called once."""

    def __init__(
        self,
        url: CheckedUrl,
        addresses: list[str],
        limits: FetchLimits,
        descriptor: int,
        watch: Watch,
    ) -> None:
        self._url = url
        self._addresses = addresses
        self._address = 0
        self._limits = limits
        self._descriptor = descriptor
        self._watch = watch
        self._pace = _Pace(limits.max_connections)
        # Everything below is shared between threads, under the condition's lock.
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._connections: set[Connection] = set()
        self._failure: BaseException | None = None
        self._received = 0
        self._due = 0.0
        """When, by the monotonic clock, all that has arrived may have arrived."""
        self._version: Version | None = None
        self._parts: list[_Part] = []
        self._unclaimed: Iterator[_Part] = iter(())
        self._all_claimed = False
        self._readers = 1
        self._streamed: tuple[int, str] | None = None

    def run(self) -> tuple[int, str]:
        """Size and SHA-256 of what arrived.

        Raises `Failure`, `Interrupted`, `ssl.SSLCertVerificationError`, and `OSError` of the file.
        """
        try:
            self._spawn(self._begin)
            return self._watch_over()
        finally:
            self._end_threads()

    # --- the calling thread -----------------------------------------------------------------------

    def _watch_over(self) -> tuple[int, str]:
        limits = self._limits
        started = mark_time = time.monotonic()
        mark_bytes = 0
        minimum_bytes = int(limits.min_bytes_per_second * limits.stall_seconds)
        digest = hashlib.sha256()
        hashed = head = 0
        buffer = memoryview(bytearray(_HASH_BYTES))
        while True:
            self._watch.check()
            now = time.monotonic()
            with self._changed:
                if self._failure is not None:
                    raise self._failure
                received, version = self._received, self._version
                streamed, ranged = self._streamed, bool(self._parts)
            total = version.size_bytes if version else None
            self._watch.progress(received, total)
            if streamed:
                return streamed
            if now - started > limits.total_seconds:
                raise errors.source_too_slow(self._url.shown, limits.total_seconds)
            mark_bytes = min(mark_bytes, received)  # a stream that broke starts over
            if received - mark_bytes >= minimum_bytes or received == total:
                mark_time, mark_bytes = now, received
            elif now - mark_time > limits.stall_seconds:
                raise errors.source_stalled(self._url.shown, minimum_bytes, limits.stall_seconds)
            if ranged:
                self._adapt(now, received)
                while head < len(self._parts) and self._is_done(self._parts[head]):
                    head += 1
                frontier = self._frontier(head)
                before = hashed
                hashed = self._hash(digest, buffer, hashed, frontier)
                if hashed == total:
                    return hashed, digest.hexdigest()
                if hashed != before:
                    continue
            with self._changed:
                self._changed.wait(_POLL_SECONDS)

    @staticmethod
    def _is_done(part: _Part) -> bool:
        return part.done == part.length

    def _frontier(self, head: int) -> int:
        """End of what arrived without a gap from the start."""
        if head < len(self._parts):
            return self._parts[head].start + self._parts[head].done
        return self._parts[-1].start + self._parts[-1].length

    def _hash(self, digest: "hashlib._Hash", buffer: memoryview, start: int, end: int) -> int:
        """Hash some of the file from `start`, a batch at most: it is still in the page cache."""
        for _ in range(_HASH_BATCH):
            if start >= end:
                break
            count = os.preadv(self._descriptor, [buffer[: min(_HASH_BYTES, end - start)]], start)
            if not count:
                raise OSError("the file became shorter while it was written")
            digest.update(buffer[:count])
            start += count
        return start

    def _adapt(self, now: float, received: int) -> None:
        self._pace.observe(now, received)
        with self._changed:
            missing = 0 if self._all_claimed else self._pace.connections - self._readers
            self._readers += max(0, missing)
        for _ in range(missing):
            self._spawn(self._read_parts)

    def _spawn(self, task: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                task()
            except _Stopped:
                pass
            except BaseException as error:  # handed to the calling thread, which raises it
                with self._changed:
                    self._failure = self._failure or error
            with self._changed:
                self._changed.notify()

        thread = threading.Thread(target=guarded, name="fetch", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _end_threads(self) -> None:
        self._stop.set()
        while any(thread.is_alive() for thread in self._threads):
            with self._changed:
                connections = list(self._connections)
            for connection in connections:
                connection.shut_down()
            for thread in self._threads:
                thread.join(_POLL_SECONDS)
        for connection in self._connections:
            connection.close()

    # --- the reading threads ----------------------------------------------------------------------

    def _connect(self) -> Connection:
        limits = self._limits
        address = self._addresses[self._address % len(self._addresses)]
        # Half of the stall time: a connection that went silent gets one chance to be replaced.
        connection = Connection(
            self._url, address, limits.connect_seconds, limits.stall_seconds / 2
        )
        with self._changed:
            self._connections.add(connection)
        return connection

    def _disconnect(self, connection: Connection) -> None:
        with self._changed:
            self._connections.discard(connection)
        connection.close()

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _pause(self, failures: int, error: Broken) -> None:
        """Wait before the next try, or raise the failure that ends the download."""
        self._check_stop()
        if failures >= self._limits.attempts:
            if isinstance(error, CutShort):
                raise errors.source_truncated(self._url.shown)
            raise errors.source_unreachable(self._url.shown, str(error))
        seconds = min(self._limits.backoff_seconds * 2 ** (failures - 1), _MAX_BACKOFF_SECONDS)
        seconds *= random.uniform(0.5, 1.0)  # noqa: S311 - nothing to guess here
        if isinstance(error, _Refused) and error.retry_after_seconds is not None:
            seconds = max(seconds, min(error.retry_after_seconds, self._limits.stall_seconds / 2))
        if self._stop.wait(seconds):
            raise _Stopped

    def _judge(self, answer: Answer, *, wanted: tuple[int, int] | None) -> None:
        """Raise unless the answer is (part of) the object at the version that was seen first."""
        status = answer.status
        if status >= 500 or status in _TRY_AGAIN:
            raise _Refused(status, answer.retry_after_seconds)
        if status == 412 or (status == 416 and self._version is not None):
            raise errors.source_changed(self._url.shown)
        if status == 416:
            raise errors.source_empty(self._url.shown)
        if status not in (200, 206):
            raise errors.source_status(self._url.shown, status)
        seen = self._version
        if seen is not None and answer.version != seen:
            raise errors.source_changed(self._url.shown)
        if wanted is None:
            if status != 200:
                raise errors.source_answer_invalid(self._url.shown, "a part that nobody asked for")
        elif status == 206 and answer.range != wanted:
            raise errors.source_answer_invalid(self._url.shown, "another part than asked for")
        elif status == 200 and seen is not None:
            raise errors.source_answer_invalid(self._url.shown, "no parts any more")

    def _accept(self, version: Version) -> None:
        """Take the first version seen as the one to be downloaded."""
        size_bytes = version.size_bytes
        if size_bytes == 0:
            raise errors.source_empty(self._url.shown)
        if size_bytes is not None:
            if size_bytes > self._limits.max_bytes:
                raise errors.source_too_large(self._url.shown, self._limits.max_bytes)
            room = os.fstatvfs(self._descriptor)
            if room.f_bavail * room.f_frsize < size_bytes:
                raise errors.storage_full()
        with self._changed:
            self._version = version

    def _begin(self) -> None:
        """Find out size and version, then read parts or, where there are none, one stream."""
        failures = 0
        while True:
            connection, kept = self._connect(), False
            try:
                answer = connection.get((0, 0))
                whole = answer.status == 200
                self._judge(answer, wanted=None if whole else (0, 0))
                if whole or answer.version.size_bytes is None:
                    self._stream(connection, answer if whole else None)
                    return
                self._accept(answer.version)
                if answer.read_into(memoryview(bytearray(1))) != 1:
                    raise CutShort("it closes the connection early")
                kept = True
                break
            except Broken as error:
                failures += 1
                with self._changed:
                    self._version = None
                    self._address += 1
                    self._received = 0
                self._pause(failures, error)
            finally:
                if not kept:
                    self._disconnect(connection)
        self._plan()
        self._read_parts(connection)

    def _plan(self) -> None:
        assert self._version is not None and self._version.size_bytes is not None
        total, length = self._version.size_bytes, self._limits.part_bytes
        parts = [_Part(start, min(length, total - start)) for start in range(0, total, length)]
        with self._changed:
            self._unclaimed = iter(parts)
            self._parts = parts

    def _claim(self) -> _Part | None:
        """The next part for the calling thread, or None if it should end."""
        with self._changed:
            if self._readers > self._pace.connections:
                self._readers -= 1
                return None
            part = next(self._unclaimed, None)
            self._all_claimed = part is None
            return part

    def _read_parts(self, connection: Connection | None = None) -> None:
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        connection = connection or self._connect()
        try:
            while part := self._claim():
                connection = self._read_part(connection, part, buffer)
        finally:
            self._disconnect(connection)

    def _read_part(self, connection: Connection, part: _Part, buffer: memoryview) -> Connection:
        """Read one part, however many connections that takes; returns the one in use."""
        failures = 0
        while part.done < part.length:
            before = part.done
            try:
                self._read_range(connection, part, buffer)
            except Broken as error:
                self._disconnect(connection)
                failures = 1 if part.done - before >= _PROGRESS_BYTES else failures + 1
                with self._changed:
                    self._address += 1
                self._pause(failures, error)
                connection = self._connect()
        return connection

    def _read_range(self, connection: Connection, part: _Part, buffer: memoryview) -> None:
        assert self._version is not None
        wanted = part.start + part.done, part.start + part.length - 1
        answer = connection.get(wanted, self._version.match)
        self._judge(answer, wanted=wanted)
        while part.done < part.length:
            count = answer.read_into(buffer)
            if not count:
                raise CutShort("it closes the connection early")
            if count > part.length - part.done:
                raise errors.source_answer_invalid(self._url.shown, "more bytes than announced")
            self._write(buffer[:count], part.start + part.done)
            part.done += count

    def _write(self, view: memoryview, offset: int) -> None:
        self._check_stop()
        count = len(view)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written
        with self._changed:
            self._received += count
            self._changed.notify()
        self._slow_down(count)

    def _slow_down(self, count: int) -> None:
        """Wait until these bytes, after those of all connections, are no more than is allowed."""
        most = self._limits.max_bytes_per_second
        if not most:
            return
        with self._changed:
            now = time.monotonic()
            self._due = max(self._due, now) + count / most
            seconds = self._due - now
        if self._stop.wait(seconds):
            raise _Stopped

    def _stream(self, connection: Connection, answer: Answer | None) -> None:
        """Read the whole object as one response. A broken one has to start over."""
        if answer is None:
            # The server does parts but does not say of how much.
            self._disconnect(connection)
            connection = self._connect()
            try:
                answer = connection.get(None)
                self._judge(answer, wanted=None)
                self._read_stream(answer)
            finally:
                self._disconnect(connection)
        else:
            self._read_stream(answer)

    def _read_stream(self, answer: Answer) -> None:
        if not answer.delimited:
            raise errors.source_answer_invalid(self._url.shown, "no Content-Length")
        self._accept(answer.version)
        os.ftruncate(self._descriptor, 0)
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        size_bytes = 0
        while count := answer.read_into(buffer):
            if size_bytes + count > self._limits.max_bytes:
                raise errors.source_too_large(self._url.shown, self._limits.max_bytes)
            self._write(buffer[:count], size_bytes)
            digest.update(buffer[:count])
            size_bytes += count
        if answer.version.size_bytes not in (None, size_bytes):
            raise CutShort("it closes the connection early")
        if not size_bytes:
            raise errors.source_empty(self._url.shown)
        with self._changed:
            self._streamed = size_bytes, digest.hexdigest()
