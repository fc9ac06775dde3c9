"""Mode `oidc`: tokens of listed OpenID Connect issuers."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt

from darkroom.api.access.directory import Directory, Issuer
from darkroom.api.access.iam import BROKEN, LEEWAY_SECONDS, Revocations, account_mark
from darkroom.api.access.issuer_keys import IssuerKeys, KeySet
from darkroom.api.authentication import bearer_token, denied
from darkroom.api.calls import Call
from darkroom.api.following import Followed
from darkroom.api.iam_tokens import NoExchange
from darkroom.domain.access import FEDERATED_USER, Subject

_ID = re.compile(r"[\x21-\x7e]{1,100}")
"""As long as ids of subjects in access bindings may be."""
_MAX_GROUPS = 1000
_MAX_REMEMBERED = 10_000
"""Tokens whose signature need not be checked again."""


@dataclass(frozen=True)
class _Verified:
    """A token that was good, and what that rests on."""

    subject: Subject
    expires_s: int
    issued_us: int
    issuer: Issuer
    keys: KeySet


class OidcAccess(NoExchange):
    """Authenticates calls by the tokens of issuers; what clients exchange, they get back.

    The official clients send IamTokenService what is no IAM token. A token of an issuer is as
    good here as one of ours would be, so it is the answer.
    """

    def __init__(
        self,
        rules: Followed[Directory],
        revocations: Revocations,
        keys: Callable[[Issuer], IssuerKeys] = IssuerKeys,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rules = rules
        self._revocations = revocations
        self._make_keys = keys
        self._clock = clock
        self._keys: dict[Issuer, IssuerKeys] = {}
        self._remembered: dict[str, _Verified] = {}

    def authenticate(self, call: Call) -> Subject:
        return self._good(call, bearer_token(call)).subject

    def create(self, call: Call) -> tuple[str, int]:
        """See the protocol."""
        text = call.request.jwt or call.request.yandex_passport_oauth_token
        verified = self._good(call, text)
        call.subject = verified.subject.id
        return text, verified.expires_s

    def _good(self, call: Call, text: str) -> _Verified:
        verified = self._remembered.get(text)
        if verified is None or not self._still_good(verified):
            self._remembered.pop(text, None)
            verified = self._verified(call, text)
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered = {}
            self._remembered[text] = verified
        marks = (account_mark(verified.subject.id),)
        if self._revocations.cover(marks, verified.issued_us):
            raise denied(call, "revoked")
        return verified

    def _still_good(self, verified: _Verified) -> bool:
        issuer = verified.issuer
        keys = self._keys[issuer]
        keys.refresh_if_old()
        return (
            verified.expires_s + LEEWAY_SECONDS > self._clock()
            and self._rules.current().issuers.get(issuer.url) == issuer
            and keys.present is verified.keys
        )

    def _verified(self, call: Call, text: str) -> _Verified:
        try:
            header = jwt.get_unverified_header(text)
            unverified = jwt.decode(text, options={"verify_signature": False})
        except BROKEN:
            raise denied(call, "no JWT") from None
        issuer_url, key_id = unverified.get("iss"), header.get("kid")
        issuers = self._rules.current().issuers
        issuer = issuers.get(issuer_url) if isinstance(issuer_url, str) else None
        if issuer is None:
            raise denied(call, "no issuer of the list")
        algorithm = header.get("alg")
        if algorithm not in issuer.algorithms or not isinstance(key_id, str):
            raise denied(call, "no algorithm of the list, or no key id")
        keys, key = self._keys_of(issuer).find(key_id)
        if key is None or key.algorithm not in ("", algorithm):
            raise denied(call, "no key of the issuer")
        try:
            claims = jwt.decode(
                text,
                key.key,
                algorithms=[algorithm],
                audience=list(issuer.audiences),
                issuer=issuer.url,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", issuer.subject_claim]},
            )
            return _Verified(
                Subject(FEDERATED_USER, _subject_id(claims, issuer), _groups(claims, issuer)),
                int(claims["exp"]),
                int(claims.get("iat", 0)) * 1_000_000,
                issuer,
                keys,
            )
        except BROKEN as error:
            raise denied(call, f"JWT refused: {type(error).__name__} {_said(error)}") from None

    def _keys_of(self, issuer: Issuer) -> IssuerKeys:
        # One for each way an issuer was ever described: a few.
        return self._keys.setdefault(issuer, self._make_keys(issuer))


class _ClaimError(ValueError):
    """A claim that cannot be used; the text does not quote it."""


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, _ClaimError) else ""


def _subject_id(claims: dict[str, Any], issuer: Issuer) -> str:
    value = claims[issuer.subject_claim]
    if not isinstance(value, str) or not value or not _ID.fullmatch(issuer.prefix + value):
        raise _ClaimError(f"no id in {issuer.subject_claim}")
    return issuer.prefix + value


def _groups(claims: dict[str, Any], issuer: Issuer) -> tuple[str, ...]:
    value = claims.get(issuer.groups_claim, []) if issuer.groups_claim else []
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or len(given) > _MAX_GROUPS:
        raise _ClaimError(f"no list of groups in {issuer.groups_claim}")
    named = {issuer.prefix + each for each in given if isinstance(each, str)}
    # Names that no access binding could hold grant nothing anyway.
    return tuple(sorted(each for each in named if _ID.fullmatch(each)))
