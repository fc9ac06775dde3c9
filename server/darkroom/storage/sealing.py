"""Secrets at rest: a pre-signed URL is kept encrypted, bound to its operation."""

import base64
import binascii
import hashlib
import hmac
import logging
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from darkroom.storage.port import MetadataStore, Transaction

log = logging.getLogger(__name__)

_KEY_BYTES = 32
_NONCE_BYTES = 12


class KeyUnknown(Exception):
    """The text was sealed with a key that is not in the key file, or it was changed."""


class Keyring:
    """AES-256-GCM keys from a file: one base64 key a line, the first one seals, all of them open.

    To change the key, put a new line first and restart; drop the old line once no operation
    that was sealed with it is left.
    """

    def __init__(self, keys: list[bytes]) -> None:
        if not keys:
            raise ValueError("the secret key file holds no key")
        self._ciphers = {_fingerprint(key): AESGCM(key) for key in keys}
        # Keys of another purpose are derived, so that no key serves two.
        self._signing_keys = [hmac.digest(key, b"token signature", "sha256") for key in keys]
        self._current = _fingerprint(keys[0])

    @classmethod
    def load_or_create(cls, path: Path) -> "Keyring":
        """Read the key file; make one with a fresh key, readable by its owner only, if missing.

        Raises `ValueError` if the file is not a key file.
        """
        try:
            text = path.read_text(encoding="ascii")
        except FileNotFoundError:
            text = _create(path)
        except UnicodeDecodeError:
            raise ValueError("the secret key file is not text: one base64 key a line") from None
        keys = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                key = base64.b64decode(line.strip(), validate=True)
            except binascii.Error:
                key = b""
            if len(key) != _KEY_BYTES:
                raise ValueError(f"line {number} of the secret key file is no base64 256-bit key")
            keys.append(key)
        return cls(keys)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """What the keys are called where they are not, the one that seals first."""
        return tuple(self._ciphers)

    def seal(self, operation_id: str, secret: str) -> str:
        """Encrypt `secret` so that only this operation's row can give it back."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(nonce, secret.encode(), operation_id.encode())
        return f"{self._current}.{base64.b64encode(nonce + sealed).decode()}"

    def open(self, operation_id: str, sealed: str) -> str:
        """Inverse of `seal`. Raises `KeyUnknown`."""
        fingerprint, _, text = sealed.partition(".")
        cipher = self._ciphers.get(fingerprint)
        if cipher is None:
            raise KeyUnknown(fingerprint)
        raw = base64.b64decode(text)
        try:
            opened = cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], operation_id.encode())
        except InvalidTag:
            raise KeyUnknown(fingerprint) from None
        return opened.decode()

    def sign(self, text: bytes) -> bytes:
        """64 bytes that only a holder of the key file can make for the text."""
        return hmac.digest(self._signing_keys[0], text, "sha512")

    def verify(self, text: bytes, signature: bytes) -> bool:
        """Whether `signature` was made by `sign` with one of the keys."""
        return any(
            hmac.compare_digest(hmac.digest(key, text, "sha512"), signature)
            for key in self._signing_keys
        )


class ForeignKeyFile(ValueError):
    """The key file is not the one that this installation uses."""


def announce(keyring: Keyring, store: MetadataStore, *, replace: bool) -> None:
    """Have the database say which key seals from now on: workers without it claim nothing.

    Raises `ForeignKeyFile` if it is another key that this keyring does not hold, unless it may be
    replaced; and `Failure`.
    """
    sealing, *_ = keyring.key_ids

    def change(tx: Transaction) -> str | None:
        present = tx.secret_key()
        if present != sealing and (present in (None, *keyring.key_ids) or replace):
            tx.set_secret_key(sealing)
        return present

    present = store.write(change)
    if present in (None, *keyring.key_ids):
        return
    if not replace:
        raise ForeignKeyFile(
            f"the secret key file does not hold key {present}, which this installation uses: copy "
            "the file from where it does; if it is lost, run `darkroom migrate --new-secret-key`"
        )
    log.warning("another secret key than before", extra={"fields": {"before": present}})


def _fingerprint(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:8]


def _create(path: Path) -> str:
    text = base64.b64encode(os.urandom(_KEY_BYTES)).decode() + "\n"
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # A link fails where a rename would replace: of two processes that start at once
        # the second takes the key of the first.
        os.link(fresh, path)
    except FileExistsError:
        text = path.read_text(encoding="ascii")
    finally:
        os.unlink(fresh)
    return text
