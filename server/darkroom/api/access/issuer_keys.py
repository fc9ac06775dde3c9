"""The public keys of an OpenID Connect issuer: fetched, kept, and fetched again in time."""

import http.client
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from darkroom.api.access.directory import MIN_KEY_BITS, Issuer, check_issuer_url
from darkroom.domain import errors

log = logging.getLogger(__name__)

FRESH_SECONDS = 600.0
"""Keys that were fetched this long ago are fetched again, beside the calls."""
STALE_SECONDS = 24 * 3600.0
"""How long keys are good when no newer ones can be fetched."""
PAUSE_SECONDS = 10.0
"""Between two fetches, however many tokens name keys that nobody knows."""
_FETCH_SECONDS = 5.0
_MAX_BYTES = 1024 * 1024
_MAX_WAITING = 16
"""Calls that may wait for one fetch."""
_DISCOVERY = "/.well-known/openid-configuration"


class FetchError(Exception):
    """Keys could not be fetched; the text says why, without what a stranger wrote."""


@dataclass(frozen=True)
class SigningKey:
    """One key of an issuer."""

    key: Any
    algorithm: str
    """The only one that it may be used with; empty if the issuer does not say."""


@dataclass(frozen=True)
class KeySet:
    """What one fetch brought. Another object means that something has changed."""

    raw: bytes
    keys: Mapping[str, SigningKey]


def get(url: str, ca_file: str) -> bytes:
    """The document at a URL, without redirects and without proxies. Raises `FetchError`."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=ca_file or None)
        connection = http.client.HTTPSConnection(
            parts.netloc, timeout=_FETCH_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=_FETCH_SECONDS)
    deadline = time.monotonic() + _FETCH_SECONDS
    target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    try:
        connection.request("GET", target, headers={"accept": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise FetchError(f"status {response.status}")
        received = b""
        while chunk := response.read1(65536):
            received += chunk
            if len(received) > _MAX_BYTES:
                raise FetchError(f"more than {_MAX_BYTES} bytes")
            if time.monotonic() > deadline:
                raise FetchError("too slow")
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(type(error).__name__) from None
    finally:
        connection.close()
    return received


def fetched(issuer: Issuer, get: Callable[[str, str], bytes] = get) -> KeySet:
    """The keys that the issuer has now. Raises `FetchError`."""
    try:
        url = issuer.keys_url
        if not url:
            found = json.loads(get(issuer.url.rstrip("/") + _DISCOVERY, issuer.ca_file))
            if found["issuer"] != issuer.url:
                raise FetchError("discovery is about another issuer")
            url = found["jwks_uri"]
            # As strict as with what the operator wrote.
            check_issuer_url(url)
            if urlsplit(url).scheme != urlsplit(issuer.url).scheme:
                raise FetchError("discovery leads to another scheme")
        raw = get(url, issuer.ca_file)
        return KeySet(raw, _parsed(json.loads(raw)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise FetchError("not the document that it should be") from None


def _parsed(document: Any) -> dict[str, SigningKey]:
    """Keys by id; those that are of no use here are left out."""
    keys = {}
    for each in document["keys"]:
        key_id = each.get("kid")
        if not isinstance(key_id, str) or each.get("use", "sig") != "sig" or "d" in each:
            continue
        try:
            key = jwt.PyJWK(each).key
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        if isinstance(key, bytes):
            continue  # a shared secret
        if isinstance(key, RSAPublicKey) and key.key_size < MIN_KEY_BITS:
            continue
        keys[key_id] = SigningKey(key, str(each.get("alg", "")))
    return keys


class IssuerKeys:
    """The keys of one issuer, as its tokens ask for them."""

    def __init__(
        self,
        issuer: Issuer,
        fetch: Callable[[Issuer], KeySet] = fetched,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._monotonic = monotonic
        self._fetching = threading.Lock()
        self._waiting = threading.Semaphore(_MAX_WAITING)
        self._tried_at: float | None = None
        self._known_at = 0.0
        self.present: KeySet | None = None

    def find(self, key_id: str) -> tuple[KeySet, SigningKey | None]:
        """The key, and the set that it was looked for in.

        Raises `Failure` ISSUER_UNREACHABLE where that cannot be told.
        """
        self.refresh_if_old()
        present = self._good()
        if present is None or key_id not in present.keys:
            present = self._after_fetch(key_id)
        return present, present.keys.get(key_id)

    def _good(self) -> KeySet | None:
        age = self._monotonic() - self._known_at
        return self.present if age < STALE_SECONDS else None

    def refresh_if_old(self) -> None:
        """Fetch newer ones beside the calls, which go on with what there is."""
        now = self._monotonic()
        if self._good() is None or now - self._known_at < FRESH_SECONDS:
            return
        if self._may_try(now) and self._fetching.acquire(blocking=False):
            threading.Thread(target=self._fetch_and_release, daemon=True).start()

    def _may_try(self, now: float) -> bool:
        return self._tried_at is None or now - self._tried_at >= PAUSE_SECONDS

    def _after_fetch(self, key_id: str) -> KeySet:
        """The keys once they were fetched, by this call or by one that it has waited for."""
        if not self._waiting.acquire(blocking=False):
            raise errors.issuer_unreachable()
        try:
            if not self._fetching.acquire(timeout=2 * _FETCH_SECONDS):
                raise errors.issuer_unreachable()
            present = self._good()
            known = present is not None and key_id in present.keys
            if known or not self._may_try(self._monotonic()):
                self._fetching.release()
            else:
                self._fetch_and_release()
        finally:
            self._waiting.release()
        present = self._good()
        if present is None:
            raise errors.issuer_unreachable()
        return present

    def _fetch_and_release(self) -> None:
        fields = {"issuer": self._issuer.url}
        try:
            found = self._fetch(self._issuer)
        except FetchError as error:
            log.warning(
                "keys cannot be fetched", extra={"fields": {**fields, "problem": str(error)}}
            )
        else:
            if self.present is None or self.present.raw != found.raw:
                fields["keys"] = str(len(found.keys))
                log.info("keys fetched", extra={"fields": fields})
                self.present = found
            self._known_at = self._monotonic()
        finally:
            self._tried_at = self._monotonic()
            self._fetching.release()
