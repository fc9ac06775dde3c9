"""Calls to an S3-compatible object storage: how long, how often, and what its refusals mean."""

import logging
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import botocore.session
from botocore import exceptions
from botocore.config import Config
from botocore.parsers import ResponseParserError

from darkroom.domain import errors

log = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_BACKOFF_SECONDS = 5.0
_TRY_AGAIN = frozenset({408, 425, 429})
_TRY_AGAIN_CODES = frozenset(
    {
        # The bytes that arrived are not those that were sent.
        *("BadDigest", "IncompleteBody", "InvalidDigest", "XAmzContentSHA256Mismatch"),
        *("XAmzContentChecksumMismatch", "RequestTimeout", "SlowDown", "Throttling"),
        # Two requests for one key at the same moment.
        *("OperationAborted", "ConditionalRequestConflict"),
    }
)
_FULL = frozenset({"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"})
_HTTP_INSUFFICIENT_STORAGE = 507
_EXPECTED = {
    "create_multipart_upload": ("UploadId",),
    "get_object": ("ETag",),
    "head_object": ("ContentLength", "ETag"),
    "upload_part": ("ETag",),
}
"""Without these an answer lost its end, which botocore does not see if that was in the head."""
_PUBLIC_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")


@dataclass(frozen=True)
class CallLimits:
    """Bounds of one call."""

    connect_seconds: float = 10.0
    """Longest connection set-up, and longest time in which none of a request can be sent."""
    silence_seconds: float = 30.0
    """Longest time in which nothing of an answer arrives, seconds."""
    attempts: int = 6
    """How often a call is tried before it fails."""
    backoff_seconds: float = 0.2
    """Pause before the second try, seconds; doubled for each try after it, at most 5 s."""


class Stopped(Exception):
    """Whoever waited for the call has gone."""


class Passing(Exception):
    """A call failed in a way that may pass; the text is public."""


class Refused(Exception):
    """An answer that another try would not change: a code of S3, or a word on what is wrong."""

    def __init__(self, code: str, status: int = 0) -> None:
        super().__init__(code)
        self.code = code
        self.status = status


class Calls:
    """Makes calls about one bucket. Thread-safe.

    Endpoint, region, credentials, addressing style, authorities and proxies are those of the
    standard AWS variables and files, which botocore reads; none of them is ever logged.
    """

    def __init__(
        self,
        bucket: str,
        limits: CallLimits | None = None,
        observe: Callable[[str, float, bool], None] | None = None,
    ) -> None:
        """`observe` hears of each try: the call, its seconds, whether it failed.

        Raises `ValueError` if variables or files of AWS cannot be used.
        """
        self._bucket = bucket
        self._observe = observe
        self._limits = limits or CallLimits()
        try:
            self._client = botocore.session.Session().create_client("s3", config=self._config())
        except (exceptions.BotoCoreError, ValueError) as error:
            raise ValueError(f"AWS settings: {error}") from None
        config = self._client.meta.config
        self.checksums = config.request_checksum_calculation != "when_required"
        """Whether parts carry a CRC32; AWS_REQUEST_CHECKSUM_CALCULATION=when_required says no."""

    def _config(self) -> Config:
        return Config(
            connect_timeout=self._limits.connect_seconds,
            read_timeout=self._limits.silence_seconds,
            # Tries are counted here, where their pauses end when nobody waits any more.
            retries={"mode": "standard", "total_max_attempts": 1},
            # The whole content is compared with its SHA-256 instead.
            response_checksum_validation="when_required",
            max_pool_connections=16,
            user_agent="darkroom",
        )

    def once(self, action: str, **parameters: Any) -> dict[str, Any]:
        """One try. Raises `Passing`, `Refused`, `Failure` STORAGE_FULL."""
        if self._observe is None:
            return self._once(action, parameters)
        started, failed = time.perf_counter(), True
        try:
            answer = self._once(action, parameters)
            failed = False
            return answer
        except Refused as refused:
            # That something is not there is an answer too.
            failed = refused.status >= 500 or not refused.status
            raise
        finally:
            self._observe(action, time.perf_counter() - started, failed)

    def _once(self, action: str, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = getattr(self._client, action)(Bucket=self._bucket, **parameters)
        except (exceptions.BotoCoreError, exceptions.ClientError, ResponseParserError) as error:
            raise judged(error) from error
        if any(name not in answer for name in _EXPECTED.get(action, ())):
            raise Passing("its answer is cut short")
        assert isinstance(answer, dict)
        return answer

    def ask(
        self, action: str, stop: threading.Event | None = None, **parameters: Any
    ) -> dict[str, Any]:
        """As many tries as it takes. Raises like `patiently`."""
        return self.patiently(lambda: self.once(action, **parameters), stop)

    def patiently(self, work: Callable[[], T], stop: threading.Event | None = None) -> T:
        """Do the work, again after each `Passing`.

        Raises `Failure` CONTENT_STORE_UNAVAILABLE when that did not help, `Stopped` when the event
        is set, and whatever else the work raises.
        """
        stop = stop or threading.Event()
        seconds = self._limits.backoff_seconds
        for left in reversed(range(self._limits.attempts)):
            if stop.is_set():
                raise Stopped
            try:
                return work()
            except Passing as error:
                if stop.is_set():
                    raise Stopped from None
                if not left:
                    raise errors.content_store_unavailable(str(error)) from error
                log.debug("content storage is asked again", extra={"fields": {"why": str(error)}})
            stop.wait(seconds * random.uniform(0.5, 1.0))  # noqa: S311 - nothing to guess here
            seconds = min(seconds * 2, _MAX_BACKOFF_SECONDS)
        raise AssertionError("at least one attempt")


def judged(error: Exception) -> Exception:
    """What an error of botocore means: `Passing`, `Refused` or a `Failure`; no text of its own."""
    if isinstance(error, exceptions.ClientError):
        return _judged_answer(error)
    for kind, problem in _PASSING.items():
        if isinstance(error, kind):
            return Passing(problem)
    if isinstance(error, exceptions.SSLError):
        return Refused("TLS with it failed")
    if isinstance(error, _BROKEN):
        return Passing("the connection broke")
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return Refused("there are no credentials for it")
    return Refused("the AWS settings are not complete")


_BROKEN = (
    exceptions.ConnectionError,
    exceptions.HTTPClientError,
    # An answer of something else in between.
    ResponseParserError,
)
_PASSING: dict[type[Exception], str] = {
    exceptions.ConnectTimeoutError: "it does not answer in time",
    exceptions.ReadTimeoutError: "it does not answer in time",
    exceptions.EndpointConnectionError: "it cannot be reached",
    exceptions.CredentialRetrievalError: "credentials for it cannot be had",
    exceptions.IncompleteReadError: "it closes the connection early",
}


def _judged_answer(error: exceptions.ClientError) -> Exception:
    response = error.response
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(response.get("Error", {}).get("Code", ""))
    if code in _FULL or status == _HTTP_INSUFFICIENT_STORAGE:
        return errors.storage_full()
    shown = code if _PUBLIC_CODE.fullmatch(code) else f"HTTP {status}"
    if status >= 500 or status in _TRY_AGAIN or code in _TRY_AGAIN_CODES:
        return Passing(f"it answers {shown}")
    return Refused(shown, status)
