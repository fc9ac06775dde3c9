"""Pages of a listing: size rules and opaque, query-bound page tokens."""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from darkroom.domain import errors

DEFAULT_PAGE_SIZE = 100
"""Entries on a page when page_size is 0 (FACTS 3.4)."""
MAX_PAGE_SIZE = 1000

_DIGEST_BYTES = 8

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some entries, and the token of the next page (empty on the last)."""

    entries: Sequence[T]
    next_page_token: str


def page_size(requested: int) -> int:
    """The number of entries to answer with. Raises `Failure` for a negative size."""
    if requested < 0:
        raise errors.request_invalid(
            [errors.FieldViolation("page_size", "must be between 0 and 1000")]
        )
    return min(requested, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE


def _digest(query: Sequence[str], last_key: str) -> bytes:
    state = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in (*query, last_key):
        encoded = part.encode()
        state.update(len(encoded).to_bytes(4, "big"))
        state.update(encoded)
    return state.digest()


def encode_page_token(query: Sequence[str], last_key: str) -> str:
    """A token that continues after `last_key`, valid for this query only.

    `query` holds everything that shapes the listing (method, folder, filter, order). The digest
    catches damage and mix-ups; it is no secret and grants nothing: a listing checks the right
    on its folder on every page.
    """
    raw = _digest(query, last_key) + last_key.encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_page_token(query: Sequence[str], token: str) -> str:
    """The key to continue after; empty for an empty token. Raises `Failure` PAGE_TOKEN_INVALID."""
    if not token:
        return ""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        last_key = raw[_DIGEST_BYTES:].decode()
    except (binascii.Error, ValueError):
        raise errors.page_token_invalid() from None
    if not last_key or raw[:_DIGEST_BYTES] != _digest(query, last_key):
        raise errors.page_token_invalid()
    return last_key
