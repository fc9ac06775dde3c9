"""yandex.cloud.iam.v1.IamTokenService."""

import hashlib
from typing import Any, Protocol

import jwt
from google.protobuf.timestamp_pb2 import Timestamp

from darkroom.api.calls import Call
from darkroom.api.tokens import Tokens
from darkroom.domain import errors
from darkroom_pb.yandex.cloud.iam.v1 import iam_token_service_pb2

_MAX_SUBJECT_CHARACTERS = 50


class Exchange(Protocol):
    """What a mode of authentication gives tokens for; all of it raises `Failure`."""

    def create(self, call: Call) -> tuple[str, int]:
        """A token for the identity in the request, and when it expires, seconds."""

    def create_for_service_account(self, call: Call) -> tuple[str, int]:
        """A token for the account in the request, and when it expires, seconds."""

    def revoke(self, call: Call) -> str:
        """Make the token in the request worthless; the id of its subject."""


class IamTokenServicer:
    """A method per RPC, under its name."""

    SERVICE = iam_token_service_pb2.DESCRIPTOR.services_by_name["IamTokenService"]

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def Create(self, call: Call) -> iam_token_service_pb2.CreateIamTokenResponse:
        return _issued(*self._exchange.create(call))

    def CreateForServiceAccount(self, call: Call) -> iam_token_service_pb2.CreateIamTokenResponse:
        return _issued(*self._exchange.create_for_service_account(call))

    def Revoke(self, call: Call) -> iam_token_service_pb2.RevokeIamTokenResponse:
        subject_id = call.resource_id = self._exchange.revoke(call)
        return iam_token_service_pb2.RevokeIamTokenResponse(subject_id=subject_id)


def _issued(token: str, expires_s: int) -> iam_token_service_pb2.CreateIamTokenResponse:
    return iam_token_service_pb2.CreateIamTokenResponse(
        iam_token=token, expires_at=Timestamp(seconds=expires_s)
    )


class OpenExchange:
    """Mode `none`: any well-formed identity gets a token that names it, nothing is proved."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def create(self, call: Call) -> tuple[str, int]:
        if call.request.WhichOneof("identity") == "jwt":
            return self._tokens.issue(_issuer(call.request.jwt))
        # An OAuth token is a secret: its holder is named by a digest of it.
        digest = hashlib.sha256(call.request.yandex_passport_oauth_token.encode()).hexdigest()
        return self._tokens.issue(f"oauth-{digest[:14]}")

    def create_for_service_account(self, call: Call) -> tuple[str, int]:
        return self._tokens.issue(call.request.service_account_id)

    def revoke(self, call: Call) -> str:
        raise errors.method_not_implemented(
            "IamTokenService.Revoke, where nobody is asked for one,"
        )


class NoExchange:
    """Where identities come from somebody else, who gives tokens, or needs none."""

    def create(self, call: Call) -> tuple[str, int]:
        raise errors.method_not_implemented("IamTokenService.Create in this mode of authentication")

    create_for_service_account = create

    def revoke(self, call: Call) -> str:
        raise errors.method_not_implemented("IamTokenService.Revoke in this mode of authentication")


def _issuer(text: str) -> str:
    """The service account that a JWT says it is from. Raises `Failure` for what is no such JWT."""
    try:
        header = jwt.get_unverified_header(text)
        payload = jwt.decode(text, options={"verify_signature": False})
        problem = _problem(header, payload)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        payload, problem = {}, "is not a JSON Web Token of three parts"
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
