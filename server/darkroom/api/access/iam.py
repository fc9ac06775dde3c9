"""Mode `iam`: tokens of our own, for the accounts of the access files."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from darkroom.api.access.directory import Directory, digest
from darkroom.api.authentication import bearer_token, denied
from darkroom.api.calls import Call
from darkroom.api.tokens import Claims, Tokens
from darkroom.domain import errors
from darkroom.domain.access import SERVICE_ACCOUNT, Subject

MAX_JWT_SECONDS = 3600
"""The longest that a service account's JWT may be good for (cloud docs)."""
LEEWAY_SECONDS = 30
"""Clocks of clients may be wrong by so much."""
TOKEN_FOR_ANOTHER = "iamtoken.create_for_service_account"
"""The action of the audit log, whether it was allowed or not."""
_MAX_REMEMBERED = 10_000
"""Tokens whose signature need not be checked again."""

BROKEN = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
"""What PyJWT raises for text of strangers."""


class Rules(Protocol):
    """The directory in force."""

    def current(self) -> Directory: ...


class Revocations(Protocol):
    """What was declared worthless before its time."""

    def cover(self, marks: tuple[str, ...], issued_us: int) -> bool:
        """Whether something marked so and issued then is revoked.

        Raises `Failure` STORE_BUSY if that has not been known for a while.
        """

    def record_issued(self, account_id: str, call: Call) -> None:
        """Write into the audit log that the caller may act for the account. Raises `Failure`."""

    def revoke_token(self, claims: Claims, call: Call) -> None:
        """Revoke one token, for all servers. Raises `Failure`."""


def token_mark(claims: Claims) -> str:
    return f"token:{claims.id}"


def account_mark(account_id: str) -> str:
    return f"account:{account_id}"


def credential_mark(credential_id: str) -> str:
    return f"credential:{credential_id}"


def marks_of(claims: Claims) -> tuple[str, ...]:
    """Everything whose revocation makes the token worthless."""
    marks = [token_mark(claims), account_mark(claims.subject)]
    if claims.credential_id:
        marks.append(credential_mark(claims.credential_id))
    if claims.by:
        marks.append(account_mark(claims.by))
    return tuple(marks)


class IamAccess:
    """Authenticates calls by our own tokens, and exchanges what accounts prove themselves with."""

    def __init__(
        self,
        tokens: Tokens,
        rules: Rules,
        revocations: Revocations,
        signing: Callable[[], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`signing` is another object once the keys that tokens are signed with have changed."""
        self._tokens = tokens
        self._rules = rules
        self._revocations = revocations
        self._signing = signing
        self._clock = clock
        # For JWTs that name no key of ours, so that they take as long to be refused as others.
        self._nobodys_key = rsa.generate_private_key(65537, 2048).public_key()
        self._remembered: tuple[object, dict[str, Claims]] = (signing(), {})

    # --- calls ------------------------------------------------------------------------------------

    def authenticate(self, call: Call) -> Subject:
        claims = self._claims(bearer_token(call))
        if claims is None:
            raise denied(call, "no token of ours that is good now")
        return self._subject(call, claims)

    def _claims(self, token: str) -> Claims | None:
        """What a good token says, with the signature checked once only."""
        keys, remembered = self._remembered
        present = self._signing()
        if keys is not present or len(remembered) >= _MAX_REMEMBERED:
            remembered = {}
            self._remembered = (present, remembered)
        claims = remembered.get(token)
        if claims is None:
            claims = self._tokens.claims(token)
            if claims is not None:
                remembered[token] = claims
        elif claims.expires_s <= self._clock():
            remembered.pop(token, None)
            return None
        return claims

    def _subject(self, call: Call, claims: Claims) -> Subject:
        directory = self._rules.current()
        account = directory.accounts.get(claims.subject)
        if account is None or (claims.by and claims.by not in directory.accounts):
            raise denied(call, "the account is gone")
        credential_id = claims.credential_id
        holder_id = claims.by or claims.subject
        if credential_id and not directory.credential_of(holder_id, credential_id):
            raise denied(call, "the key is gone that the token was given for")
        if self._revocations.cover(marks_of(claims), claims.issued_us):
            raise denied(call, "revoked")
        return Subject(account.type, account.id)

    # --- IamTokenService --------------------------------------------------------------------------

    def create(self, call: Call) -> tuple[str, int]:
        """A token for who proves to be an account. Raises `Failure` UNAUTHENTICATED."""
        if call.request.WhichOneof("identity") == "jwt":
            return self._for_key(call, call.request.jwt)
        token_digest = digest(call.request.yandex_passport_oauth_token)
        account_id = self._rules.current().tokens.get(token_digest)
        if account_id is None:
            raise denied(call, "no static token of ours")
        if self._revocations.cover((credential_mark(token_digest),), 0):
            raise denied(call, "the static token is revoked")
        call.subject = account_id
        return self._tokens.issue(account_id, token_digest)

    def _for_key(self, call: Call, text: str) -> tuple[str, int]:
        try:
            key_id = jwt.get_unverified_header(text).get("kid")
        except BROKEN:
            raise denied(call, "no JWT") from None
        key = self._rules.current().keys.get(key_id) if isinstance(key_id, str) else None
        public_key = key.public_key if key is not None else self._nobodys_key
        try:
            payload = jwt.decode(
                text,
                public_key,
                algorithms=["PS256"],
                leeway=LEEWAY_SECONDS,
                # Which host is meant differs from client to client and says nothing here.
                options={"require": ["exp", "iat", "iss", "aud"], "verify_aud": False},
            )
        except BROKEN as error:
            raise denied(call, f"JWT refused: {type(error).__name__}") from None
        if key is None:
            raise denied(call, "no key of ours")
        problem = self._problem(payload, key.account_id)
        if problem:
            raise denied(call, problem)
        marks = (credential_mark(key.id), account_mark(key.account_id))
        if self._revocations.cover(marks, int(payload["iat"]) * 1_000_000):
            raise denied(call, "the key is revoked, or the JWT older than what was revoked")
        call.subject = key.account_id
        return self._tokens.issue(key.account_id, key.id)

    def create_for_service_account(self, call: Call) -> tuple[str, int]:
        """A token for any service account. Raises `Failure` RESOURCE_NOT_FOUND."""
        account_id = call.resource_id = call.request.service_account_id
        account = self._rules.current().accounts.get(account_id)
        if account is None or account.type != SERVICE_ACCOUNT:
            raise errors.resource_not_found("ServiceAccount", account_id)
        claims = self._claims(bearer_token(call))
        if claims is None:  # it was good a moment ago
            raise denied(call, "no token of ours that is good now")
        self._revocations.record_issued(account_id, call)
        return self._tokens.issue(
            account_id,
            claims.credential_id,
            by=claims.by or claims.subject,
            # Or whoever has a token could have another one for ever.
            at_most_until_s=claims.expires_s,
        )

    def revoke(self, call: Call) -> str:
        """Make a token worthless; whose it was. Raises `Failure` for one that is not good now."""
        claims = self._tokens.claims(call.request.iam_token)
        if claims is None:
            violation = errors.FieldViolation("iam_token", "is no token that is good now")
            raise errors.request_invalid([violation])
        self._revocations.revoke_token(claims, call)
        return claims.subject

    def _problem(self, payload: dict[str, Any], account_id: str) -> str:
        """What is wrong with a JWT that PyJWT finds in order; empty if nothing."""
        if payload["iss"] != account_id:
            return "the JWT is not from the account of its key"
        audience = payload["aud"]
        hosts = [audience] if isinstance(audience, str) else audience
        if not (isinstance(hosts, list) and hosts and all(isinstance(host, str) for host in hosts)):
            return "the JWT has no audience"
        if int(payload["exp"]) - int(payload["iat"]) > MAX_JWT_SECONDS:
            return "the JWT is good for too long"
        return ""
