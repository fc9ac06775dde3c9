"""Who is calling: what every mode of authentication has in common, and the mode `none`."""

from collections.abc import Callable, Mapping
from typing import Protocol

from darkroom.api.calls import Call, Method
from darkroom.domain import errors
from darkroom.domain.access import USER_ACCOUNT, Subject
from darkroom.domain.errors import Failure

ANONYMOUS = Subject(USER_ACCOUNT, "anonymous")
"""The subject of every call while nobody is asked who they are; never an id of a real one."""


class Authenticator(Protocol):
    """Finds the subject of a call."""

    def authenticate(self, call: Call) -> Subject:
        """Raises `Failure` UNAUTHENTICATED if the call does not prove one."""


def denied(call: Call, why: str) -> Failure:
    """What every call is answered that does not prove who makes it, whatever is wrong with it.

    The line of the log about the call says why, the answer does not. `why` holds no token.
    """
    call.denial = why
    return errors.unauthenticated()


def bearer_token(call: Call) -> str:
    """The one bearer token of a call. Raises `Failure` UNAUTHENTICATED."""
    sent = call.metadata.get("authorization")
    if sent is None:
        raise denied(call, "no authorization")
    metadata = call.context.invocation_metadata()
    if sum(key == "authorization" for key, _ in metadata) > 1:
        # Another program on the way may have looked at another one than we would.
        raise denied(call, "several authorizations")
    scheme, _, token = str(sent).partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise denied(call, "no bearer token")
    return token


class NoAuthentication:
    """Mode `none`: whoever reaches the port may do everything, and may say who they are."""

    def __init__(self, subject: Callable[[str], str] = lambda _token: "") -> None:
        """`subject` finds the holder of a token, or nothing."""
        self._subject = subject

    def authenticate(self, call: Call) -> Subject:
        metadata: Mapping[str, str | bytes] = call.metadata
        scheme, _, token = str(metadata.get("authorization", "")).partition(" ")
        if not token or scheme.lower() != "bearer":
            return ANONYMOUS
        subject = self._subject(token)
        return Subject(USER_ACCOUNT, subject) if subject else ANONYMOUS


Check = Callable[[Call], None]
"""Raises `Failure` PERMISSION_DENIED unless the caller may make the call."""


class Authorizer(Protocol):
    """Decides what a subject may do."""

    def check_of(self, method: Method) -> Check | None:
        """What is to be checked before each call of a method; None if nothing is."""


class EverythingAllowed:
    """Mode `none`."""

    def check_of(self, method: Method) -> Check | None:
        return None
