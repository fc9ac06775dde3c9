"""Download one object: own connections, own rules, one file, its SHA-256."""

import contextlib
import logging
import os
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from darkroom.domain import errors
from darkroom.domain.work import Watch
from darkroom.imaging.addresses import Resolve, addresses_of, resolve
from darkroom.imaging.fetch_limits import FetchLimits
from darkroom.imaging.room import storage_failure
from darkroom.imaging.sources import CheckedUrl, SourcePolicy
from darkroom.imaging.transfer import Transfer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """What arrived."""

    size_bytes: int
    sha256: str
    """Hex digest."""


class Fetcher:
    """Downloads from allowed sources, and only from the addresses that were checked."""

    def __init__(
        self,
        policy: SourcePolicy,
        limits: FetchLimits | None = None,
        *,
        resolver: Resolve = resolve,
    ) -> None:
        self._policy = policy
        self._limits = limits or FetchLimits()
        self._resolver = resolver

    def fetch(self, url: str, target: Path, watch: Watch) -> Fetched:
        """Download `url` into `target`, which must not exist; it is made with mode 0600.

        Size comes from a ranged read of one byte (a pre-signed GET answers HEAD with 403), parts
        are read in parallel where the server allows ranges, and every part must be of the same
        version of the object. No redirect is followed and no proxy is used. When this returns or
        raises, all its threads have ended and all its connections are closed; when it raises,
        `target` is gone.

        Raises `Failure` (SOURCE_*, STORAGE_FULL), `Interrupted` within 0.2 s of the interrupt.
        """
        checked = self._policy.check(url)
        watch.check()
        started = time.monotonic()
        addresses = addresses_of(checked, self._limits.connect_seconds, watch, self._resolver)
        try:
            descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_failure(error) from error
        try:
            fetched = self._transfer(checked, addresses, descriptor, watch)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                target.unlink()
            raise
        finally:
            os.close(descriptor)
        log.info(
            "fetched",
            extra={
                "fields": {
                    "source": checked.shown,
                    "size_bytes": fetched.size_bytes,
                    "seconds": round(time.monotonic() - started, 3),
                }
            },
        )
        return fetched

    def _transfer(
        self, url: CheckedUrl, addresses: list[str], descriptor: int, watch: Watch
    ) -> Fetched:
        try:
            size_bytes, digest = Transfer(url, addresses, self._limits, descriptor, watch).run()
        except ssl.SSLCertVerificationError:
            raise errors.source_certificate_invalid(url.host) from None
        except OSError as error:
            raise storage_failure(error) from error
        return Fetched(size_bytes, digest)
