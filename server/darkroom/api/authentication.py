"""Who is calling."""

from collections.abc import Callable, Mapping
from typing import Protocol

ANONYMOUS = "anonymous"
"""The subject of every call while nobody is asked who they are; never an id of a real one."""


class Authenticator(Protocol):
    """Finds the subject of a call from its metadata."""

    def authenticate(self, metadata: Mapping[str, str | bytes]) -> str:
        """The subject's id. Raises `Failure` if the call does not prove one."""


class NoAuthentication:
    """Mode `none`: whoever reaches the port may do everything, and may say who they are."""

    def __init__(self, subject: Callable[[str], str] = lambda _token: "") -> None:
        """`subject` finds the holder of a token, or nothing."""
        self._subject = subject

    def authenticate(self, metadata: Mapping[str, str | bytes]) -> str:
        scheme, _, token = str(metadata.get("authorization", "")).partition(" ")
        if not token or scheme.lower() != "bearer":
            return ANONYMOUS
        return self._subject(token) or ANONYMOUS


class Authorizer(Protocol):
    """Decides what a subject may do."""

    def authorize(self, subject: str, permission: str) -> None:
        """Raise `Failure` unless the subject has the permission."""


class EverythingAllowed:
    """Mode `none`."""

    def authorize(self, subject: str, permission: str) -> None:
        return
