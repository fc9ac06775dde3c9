"""Pages of a listing: size rules and opaque, query-bound page tokens."""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from darkroom.domain import errors

T = TypeVar("T")

DEFAULT_PAGE_SIZE = 100
"""Entries on a page when page_size is 0 (cloud docs)."""
MAX_PAGE_SIZE = 1000

_DIGEST_BYTES = 8


def page_size(requested: int) -> int:
    """The number of entries to answer with. Raises `Failure` for a negative size."""
    if requested < 0:
        raise errors.request_invalid(
            [errors.FieldViolation("page_size", "must be between 0 and 1000")]
        )
    return min(requested, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE


_ALPHABET = ",abcdefghijklmnopqrstuvwxyz0123456789-_"
"""What names, ids and numbers in base 36 are made of, and what stands between them."""
_PACKED, _PLAIN = b"\0", b"\1"
_MAX_NUMBER = (1 << 63) - 1
"""What databases can compare with: every position that was handed out is below it."""

Position = tuple[str | int, ...]
"""Values of the order keys of the last row of a page."""


def _digest(query: Sequence[str], payload: bytes) -> bytes:
    state = hashlib.blake2b(payload, digest_size=_DIGEST_BYTES)
    for part in query:
        encoded = part.encode()
        state.update(len(encoded).to_bytes(4, "big"))
        state.update(encoded)
    return state.digest()


def _pack(texts: Sequence[str]) -> bytes:
    """The texts as one number in base 39: the longest position then fits the 100 characters.

    Subjects of access bindings may be made of anything; they go as JSON, their limit is wider.
    """
    if not all(letter in _ALPHABET[1:] for text in texts for letter in text):
        return _PLAIN + json.dumps(texts, ensure_ascii=False, separators=(",", ":")).encode()
    number = 1
    for letter in ",".join(texts):
        number = number * len(_ALPHABET) + _ALPHABET.index(letter)
    return _PACKED + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _unpack(payload: bytes) -> list[str]:
    """Inverse of `_pack`. Raises `ValueError` for what it never made."""
    if payload[:1] == _PLAIN:
        texts = [str(text) for text in json.loads(payload[1:])]
        if any("\0" in text for text in texts):
            raise ValueError("NUL is in no text that was kept")
        "".join(texts).encode()  # half a surrogate pair, which JSON can name, is no text
        return texts
    number, letters = int.from_bytes(payload[1:], "big"), []
    while number > 1:
        number, place = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[place])
    return "".join(reversed(letters)).split(",")


def _base36(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    text = ""
    while number:
        number, place = divmod(number, 36)
        text = digits[place] + text
    return text or "0"


def encode_page_token(query: Sequence[str], position: Position) -> str:
    """A token that continues after `position`, valid for this query only.

    `query` holds everything that shapes the listing (method, folder, filter, order). The digest
    catches damage and mix-ups; it is no secret and grants nothing: a listing checks the right
    on its folder on every page. Numbers must not be negative.
    """
    texts = [value if isinstance(value, str) else _base36(value) for value in position]
    payload = _pack(texts)
    raw = _digest(query, payload) + payload
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def page(
    query: Sequence[str], found: Sequence[T], size: int, position: Callable[[T], Position]
) -> tuple[Sequence[T], str]:
    """The first `size` of what was found, and the token that continues after them.

    One more than `size` must have been asked for: it tells whether there is another page. The
    token is empty on the last one. `position` gives the values of an entry's order keys.
    """
    if len(found) <= size:
        return found, ""
    return found[:size], encode_page_token(query, position(found[size - 1]))


def decode_page_token(query: Sequence[str], token: str, kinds: Sequence[type]) -> Position:
    """The position to continue after; empty for an empty token.

    `kinds` says of each value whether it is `str` or `int`. Raises `Failure` PAGE_TOKEN_INVALID.
    """
    if not token:
        return ()
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise errors.page_token_invalid() from None
    payload = raw[_DIGEST_BYTES:]
    if not payload or raw[:_DIGEST_BYTES] != _digest(query, payload):
        raise errors.page_token_invalid()
    try:
        position = tuple(
            int(text, 36) if kind is int else text
            for text, kind in zip(_unpack(payload), kinds, strict=True)
        )
    except (TypeError, ValueError):  # the digest is no secret: somebody made a token of their own
        raise errors.page_token_invalid() from None
    if any(isinstance(value, int) and not 0 <= value <= _MAX_NUMBER for value in position):
        raise errors.page_token_invalid()
    return position
