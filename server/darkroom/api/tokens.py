"""The IAM tokens that this service issues.

A token is `t1.PAYLOAD.SIGNATURE` as the cloud documents it: the payload is base64url JSON with
subject and times, the signature an HMAC-SHA-512, 86 characters long.
"""

import base64
import binascii
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from darkroom.config import DEFAULT_TOKEN_SECONDS


def encode(data: bytes) -> str:
    """base64url without padding (RFC 7515)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Inverse of `encode`. Raises `ValueError`."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


@dataclass(frozen=True)
class Claims:
    """What a token says, once its signature is known to be ours. Times since the epoch."""

    subject: str
    expires_s: int
    issued_us: int
    id: str
    credential_id: str = ""
    """The key or static token that it was given for."""
    by: str = ""
    """The account that it was given to, where that is not its subject."""


@dataclass(frozen=True)
class Tokens:
    """Issues tokens and knows its own again."""

    sign: Callable[[bytes], bytes]
    """64 bytes that nobody else can make for the same text."""
    verify: Callable[[bytes, bytes], bool]
    clock: Callable[[], float] = time.time
    lifetime_seconds: int = DEFAULT_TOKEN_SECONDS

    def issue(
        self,
        subject: str,
        credential_id: str = "",
        by: str = "",
        at_most_until_s: int | None = None,
    ) -> tuple[str, int]:
        """A token and when it expires, seconds since the epoch."""
        now = self.clock()
        expires_s = int(now) + self.lifetime_seconds
        if at_most_until_s is not None:
            expires_s = min(expires_s, at_most_until_s)
        claims = {"exp": expires_s, "iat": int(now * 1e6), "jti": encode(os.urandom(9))}
        named = {"sub": subject, "cid": credential_id, "by": by}
        claims |= {name: value for name, value in named.items() if value}
        payload = json.dumps(claims, separators=(",", ":"))
        body = f"t1.{encode(payload.encode())}"
        return f"{body}.{encode(self.sign(body.encode()))}", expires_s

    def claims(self, token: str) -> Claims | None:
        """What the token says; None for one that is not ours, changed or expired."""
        body, _, signature = token.rpartition(".")
        try:
            if not body.startswith("t1.") or not self.verify(body.encode(), decode(signature)):
                return None
            payload = json.loads(decode(body.removeprefix("t1.")))
            claims = Claims(
                payload["sub"],
                payload["exp"],
                payload["iat"],
                payload["jti"],
                payload.get("cid", ""),
                payload.get("by", ""),
            )
        except (ValueError, KeyError, TypeError, binascii.Error):
            return None
        return claims if claims.expires_s > self.clock() else None

    def subject(self, token: str) -> str:
        """Whose the token is; empty for one that is not ours, changed or expired."""
        claims = self.claims(token)
        return claims.subject if claims is not None else ""
