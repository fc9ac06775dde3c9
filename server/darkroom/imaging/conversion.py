"""Turn an inspected file into the stored form: one plain qcow2, made by qemu-img in the sandbox."""

import contextlib
import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from darkroom.domain import errors
from darkroom.domain.work import Watch
from darkroom.imaging import qcow2
from darkroom.imaging.inspection import Inspection, InspectionLimits, inspect
from darkroom.imaging.layout import Layout
from darkroom.imaging.room import storage_failure
from darkroom.imaging.sandbox import BuildCommand, Outcome, ProcessLimits, Sandbox

log = logging.getLogger(__name__)

Compression = Literal["none", "zstd"]

QEMU_IMG = "/usr/bin/qemu-img"
_GIB = 1024**3
_HASH_BYTES = 1 << 20
_OVERHEAD_BYTES = 64 * 1024**2
_OVERHEAD_SHARE = 256
"""Tables of a qcow2 take less than 1/4096 of its virtual size, compression at worst a little."""
_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")


@dataclass(frozen=True)
class ConversionLimits:
    """What one conversion may use."""

    max_stored_bytes: int = 64 * _GIB
    """Largest file it may write, bytes."""
    cpu_seconds: int = 60
    """CPU time of one conversion, seconds, however small the image."""
    cpu_seconds_per_gib: int = 30
    """More CPU time per GiB of virtual size, seconds."""
    wall_factor: float = 4.0
    """Wall-clock limit, as a multiple of the CPU limit."""
    check_seconds: int = 30
    """CPU time of the check of the source's tables, seconds, however small the image."""


@dataclass(frozen=True)
class Converted:
    """The stored form: a qcow2 file flushed to disk."""

    virtual_size_bytes: int
    stored_size_bytes: int
    sha256: str
    """Hex digest of the stored file."""


_BEYOND_THE_END = ("exceeding the end of the file", "points after EOF")
"""What `qemu-img check` says of tables that are whole and data that is not there."""

_TOO_MUCH = "its tables describe far more than the file can hold"


class Converter:
    """Converts whatever `inspect` lets pass."""

    def __init__(
        self,
        sandbox: Sandbox,
        limits: ConversionLimits | None = None,
        compression: Compression | str = "none",
    ) -> None:
        if compression not in ("none", "zstd"):
            raise ValueError("compression must be none or zstd")
        self._sandbox = sandbox
        self._limits = limits or ConversionLimits()
        self._compression = compression

    def ensure_available(self) -> None:
        """Raises `Failure` CONVERTER_MISSING or SANDBOX_UNAVAILABLE if nothing can be converted."""
        if not os.access(QEMU_IMG, os.X_OK):
            raise errors.converter_missing()
        self._sandbox.ensure_available()

    def convert(
        self, source: Path, inspection: Inspection, target: Path, watch: Watch
    ) -> Converted:
        """Write `target`, in a folder of its own; it must not exist.

        The tables of the source are checked first, the output is inspected afterwards: it must be
        one plain file with the same virtual size. When this returns, the file is on the disk;
        when it raises, `target` is gone.

        Raises `Failure` (IMAGE_*, CONVERSION_*, STORAGE_FULL, SANDBOX_*), `Interrupted`.
        """
        try:
            self._check(source, inspection, watch)
            self._convert(source, inspection, target, watch)
            return self._finish(target, inspection, watch)
        except BaseException as error:
            with contextlib.suppress(FileNotFoundError):
                target.unlink()
            if isinstance(error, OSError):
                raise storage_failure(error) from error
            raise

    def _run(
        self,
        build_command: BuildCommand,
        source: Path,
        output: Path | None,
        cpu_seconds: int,
        max_file_bytes: int,
        watch: Watch,
        virtual_size_bytes: int | None = None,
    ) -> Outcome:
        def report(data: bytes) -> None:
            found = _PERCENT.findall(data)
            if found and virtual_size_bytes is not None:
                done = int(virtual_size_bytes * float(found[-1]) / 100)
                watch.progress(done, virtual_size_bytes)

        limits = ProcessLimits(
            wall_seconds=cpu_seconds * self._limits.wall_factor,
            cpu_seconds=cpu_seconds,
            max_file_bytes=max_file_bytes,
        )
        outcome = self._sandbox.run(
            build_command,
            source=source,
            output=output,
            limits=limits,
            watch=watch,
            on_output=report,
        )
        if outcome.exit_code != 0 or outcome.timed_out:
            # For the operator only: an image can make qemu-img say anything.
            log.warning(
                "qemu-img failed",
                extra={
                    "fields": {
                        "exit_code": outcome.exit_code,
                        "timed_out": outcome.timed_out,
                        "complaints": outcome.complaints[:500],
                    }
                },
            )
        return outcome

    def _check(self, source: Path, inspection: Inspection, watch: Watch) -> None:
        """Have qemu-img follow all tables, which finds overlaps and bombs."""
        size_bytes = source.stat().st_size
        cpu_seconds = self._limits.check_seconds + max(
            size_bytes // _GIB, inspection.virtual_size_bytes // (16 * _GIB)
        )
        if inspection.format == "qcow2":
            _require_data(source, size_bytes, cpu_seconds, watch)
        if inspection.format == "raw" or inspection.dirty:
            # Raw has no tables. A file that was not closed cleanly has old reference counts,
            # which would look like damage; its data is fine, and the limits still hold.
            return
        outcome = self._run(
            lambda given, _: [
                *(QEMU_IMG, "check", "--output=json"),
                *("-f", inspection.format, given),
            ],
            source,
            None,
            cpu_seconds,
            0,
            watch,
        )
        report = _json(outcome.output)
        if _out_of_time(outcome):
            raise errors.image_corrupt(_TOO_MUCH)
        if any(sign in outcome.complaints for sign in _BEYOND_THE_END):
            raise errors.image_truncated("its tables point beyond its end")
        if outcome.exit_code not in (0, 3):  # 3: leaked clusters, which waste space only
            raise errors.image_corrupt("its tables contradict each other or point outside the file")
        end = report.get("image-end-offset")
        if (
            inspection.format == "qcow2"
            and isinstance(end, int)
            and not report.get("compressed-clusters")  # the last one of those ends anywhere
            and size_bytes < end
            and inspection.open_end_bytes <= end - inspection.cluster_bytes
        ):
            raise errors.image_truncated("its last cluster is not complete")

    def _convert(self, source: Path, inspection: Inspection, target: Path, watch: Watch) -> None:
        virtual = inspection.virtual_size_bytes
        bound = min(
            self._limits.max_stored_bytes, virtual + virtual // _OVERHEAD_SHARE + _OVERHEAD_BYTES
        )
        cpu_seconds = self._limits.cpu_seconds + self._limits.cpu_seconds_per_gib * (
            -(-virtual // _GIB)
        )
        outcome = self._run(
            lambda given, out: self._command(inspection.format, given, f"{out}/{target.name}"),
            source,
            target.parent,
            cpu_seconds,
            bound,
            watch,
            virtual,
        )
        if outcome.exit_code == 0 and not outcome.timed_out:
            return
        if _out_of_time(outcome):
            raise errors.conversion_timeout()
        if "File too large" in outcome.complaints:
            raise errors.image_outgrows_limit(bound)
        if "No space left" in outcome.complaints or "quota exceeded" in outcome.complaints:
            raise errors.storage_full()
        if outcome.exit_code < 0 or outcome.exit_code > 128:
            raise errors.conversion_failed()
        raise errors.image_corrupt("it cannot be read to its end")

    def _command(self, source_format: str, given: str, target: str) -> list[str]:
        options = "compat=1.1,lazy_refcounts=off"
        # No cache mode for the target: qemu leaves flushing to us (its `unsafe` default), because
        # we flush anyway and can hash the file meanwhile. A write that fails later is reported to
        # the first fsync after it, which is ours.
        command = [QEMU_IMG, "convert", "-p"]
        if self._compression == "zstd":
            # Out of order and parallel: halves the time; the file is read at random anyway.
            command += ["-c", "-W", "-m", "8"]
            options += ",compression_type=zstd"
        return [*command, "-f", source_format, "-O", "qcow2", "-o", options, given, target]

    def _finish(self, target: Path, inspection: Inspection, watch: Watch) -> Converted:
        size_bytes = target.stat().st_size
        made = inspect(target, InspectionLimits(inspection.virtual_size_bytes))
        if made.format != "qcow2" or made.virtual_size_bytes != inspection.virtual_size_bytes:
            raise errors.conversion_failed()
        if os.geteuid() == 0:
            os.chown(target, 0, 0)
        digest = _flush_and_hash(target, watch)
        return Converted(made.virtual_size_bytes, size_bytes, digest)


def _require_data(source: Path, size_bytes: int, cpu_seconds: int, watch: Watch) -> None:
    started = time.thread_time()

    def check() -> None:
        watch.check()
        if time.thread_time() - started > cpu_seconds:
            raise errors.image_corrupt(_TOO_MUCH)

    with source.open("rb", buffering=0) as file:
        qcow2.require_data(Layout(file.fileno(), size_bytes), check)


def _out_of_time(outcome: Outcome) -> bool:
    # SIGXCPU first, SIGKILL when that is not enough; a shell-like 128 + n through bubblewrap.
    return outcome.timed_out or outcome.exit_code in (-9, -24, 128 + 9, 128 + 24)


def _json(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _flush_and_hash(path: Path, watch: Watch) -> str:
    """Hash the file while it is being flushed: one waits for the disk, the other for the CPU."""
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _flushing(descriptor):
            buffer = memoryview(bytearray(_HASH_BYTES))
            while count := os.readv(descriptor, [buffer]):
                watch.check()
                digest.update(buffer[:count])
    finally:
        os.close(descriptor)
    return digest.hexdigest()


@contextlib.contextmanager
def _flushing(descriptor: int) -> Iterator[None]:
    """fsync in a thread of its own while the block runs; its error is raised at the end."""
    failures: list[OSError] = []

    def flush() -> None:
        try:
            os.fsync(descriptor)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=flush, name="fsync", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]
