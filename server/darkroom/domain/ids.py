"""Identifiers of the shape the cloud gives them."""

import hashlib
import secrets

_ALPHABET = "0123456789abcdefghijklmnopqrstuv"
_RANDOM_CHARACTERS = 17

REGIONAL_PREFIX = "fd8"
"""Images, snapshots and the operations on them start with it (cloud docs)."""


def new_id(prefix: str = REGIONAL_PREFIX) -> str:
    """A fresh id: the prefix and 17 random characters, 85 bits, 20 characters in all."""
    return prefix + _characters(secrets.randbits(5 * _RANDOM_CHARACTERS))


def stable_id(text: str, prefix: str = REGIONAL_PREFIX) -> str:
    """The id that stands for a text, always the same: 85 bits of its hash instead of chance."""
    return prefix + _characters(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))


def _characters(value: int) -> str:
    return "".join(
        _ALPHABET[(value >> shift) & 31] for shift in range(0, 5 * _RANDOM_CHARACTERS, 5)
    )
