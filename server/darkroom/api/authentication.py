"""Who is calling."""

from collections.abc import Mapping
from typing import Protocol

ANONYMOUS = "anonymous"
"""The subject of every call while nobody is asked who they are; never an id of a real one."""


class Authenticator(Protocol):
    """Finds the subject of a call from its metadata."""

    def authenticate(self, metadata: Mapping[str, str | bytes]) -> str:
        """The subject's id. Raises `Failure` if the call does not prove one."""


class NoAuthentication:
    """Mode `none`: whoever reaches the port may do everything."""

    def authenticate(self, metadata: Mapping[str, str | bytes]) -> str:
        return ANONYMOUS


class Authorizer(Protocol):
    """Decides what a subject may do."""

    def authorize(self, subject: str, permission: str) -> None:
        """Raise `Failure` unless the subject has the permission."""


class EverythingAllowed:
    """Mode `none`."""

    def authorize(self, subject: str, permission: str) -> None:
        return
