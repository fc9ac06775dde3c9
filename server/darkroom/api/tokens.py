"""yandex.cloud.iam.v1.IamTokenService, and the tokens it issues.

A token is `t1.PAYLOAD.SIGNATURE` as the cloud documents it: the payload is base64url JSON with
subject and expiry, the signature an HMAC-SHA-512, 86 characters long.
"""

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from darkroom.api.calls import Call
from darkroom.domain import errors
from darkroom_pb.yandex.cloud.iam.v1 import iam_token_service_pb2

TOKEN_SECONDS = 12 * 3600
"""The longest that the cloud's tokens live (cloud docs)."""
_MAX_SUBJECT_CHARACTERS = 50


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Raises `ValueError`."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


@dataclass(frozen=True)
class Tokens:
    """Issues tokens and knows its own again."""

    sign: Callable[[bytes], bytes]
    """64 bytes that nobody else can make for the same text."""
    verify: Callable[[bytes, bytes], bool]
    clock: Callable[[], float] = time.time

    def issue(self, subject: str) -> tuple[str, int]:
        """A token and when it expires, seconds since the epoch."""
        expires = int(self.clock()) + TOKEN_SECONDS
        payload = json.dumps({"exp": expires, "sub": subject}, separators=(",", ":"))
        body = f"t1.{_encode(payload.encode())}"
        return f"{body}.{_encode(self.sign(body.encode()))}", expires

    def subject(self, token: str) -> str:
        """Whose the token is; empty for one that is not ours, changed or expired."""
        body, _, signature = token.rpartition(".")
        try:
            if not body.startswith("t1.") or not self.verify(body.encode(), _decode(signature)):
                return ""
            payload = json.loads(_decode(body.removeprefix("t1.")))
        except (ValueError, binascii.Error):
            return ""
        return str(payload["sub"]) if payload["exp"] > self.clock() else ""


class IamTokenServicer:
    """In mode `none` any well-formed identity gets a token that names it, nothing is proved."""

    SERVICE = iam_token_service_pb2.DESCRIPTOR.services_by_name["IamTokenService"]

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def Create(self, call: Call) -> iam_token_service_pb2.CreateIamTokenResponse:
        if call.request.WhichOneof("identity") == "jwt":
            return self._issued(_issuer(call.request.jwt))
        # An OAuth token is a secret: its holder is named by a digest of it.
        digest = hashlib.sha256(call.request.yandex_passport_oauth_token.encode()).hexdigest()
        return self._issued(f"oauth-{digest[:14]}")

    def CreateForServiceAccount(self, call: Call) -> iam_token_service_pb2.CreateIamTokenResponse:
        return self._issued(call.request.service_account_id)

    def _issued(self, subject: str) -> iam_token_service_pb2.CreateIamTokenResponse:
        token, expires = self._tokens.issue(subject)
        return iam_token_service_pb2.CreateIamTokenResponse(
            iam_token=token, expires_at=Timestamp(seconds=expires)
        )


def _issuer(jwt: str) -> str:
    """The service account that a JWT says it is from. Raises `Failure` for what is no such JWT."""
    header: dict[str, Any] = {}
    payload: dict[str, Any] = {}
    try:
        head, claims, _ = jwt.split(".")
        header, payload = json.loads(_decode(head)), json.loads(_decode(claims))
        problem = _problem(header, payload)
    except (ValueError, AttributeError, RecursionError):
        problem = "is not a JSON Web Token of three parts"
    if problem:
        raise errors.request_invalid([errors.FieldViolation("jwt", problem)])
    return str(payload["iss"])


def _problem(header: dict[str, Any], payload: dict[str, Any]) -> str:
    if header.get("alg") != "PS256":
        return "must be signed with PS256"
    if not header.get("kid"):
        return "must name its key in the header field kid"
    issuer, audience = payload.get("iss"), payload.get("aud")
    if not isinstance(issuer, str) or not 0 < len(issuer) <= _MAX_SUBJECT_CHARACTERS:
        return "must name the service account in iss"
    # Which host is meant differs from client to client and says nothing here.
    if not isinstance(audience, str | list) or not audience:
        return "must have an audience in aud"
    return ""
