"""What a replay is made of: who calls, and what is called, in order. Data only; `player` plays it.

Texts of requests and expectations may name variables: `$folder` and others are given, the rest is
kept from replies. A path such as `metadata.image_id` leads through packed messages, lists (by
number) and maps (by key).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Caller:
    """What a client does around each of its calls, whatever it calls."""

    user_agent: str
    identifies: tuple[str, ...] = ()
    """Headers with a fresh UUID on every call, in this order, after `authorization`."""
    change_timeout: str = ""
    """`grpc-timeout` of calls that begin an operation, and of the polls that follow."""
    insists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Fields by the full name of their message: the client falls over a reply without them."""
    asks_when_done: bool = False
    """It asks for the operation once more even if the first reply says that it is done."""
    plaintext: bool = False


@dataclass(frozen=True)
class Call:
    """One call and what the client makes of its reply."""

    method: str
    """`SERVICE/METHOD`, without `yandex.cloud.` before it."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """Exactly the fields that the client sets; an empty message is sent as one."""
    keeps: Mapping[str, str] = field(default_factory=dict)
    """Variables to set, each with the path of its value in the reply."""
    sees: Mapping[str, Any] = field(default_factory=dict)
    """Paths in the reply and their values: equal, or matching a compiled pattern."""
    fails: str = ""
    """The gRPC code that the client expects instead of a reply."""
    says: str = ""
    """Pattern of the failure's message, which clients go by; its named groups are kept."""


@dataclass(frozen=True)
class Begin(Call):
    """A call that begins an operation, which the client waits for."""

    metadata: str = ""
    """The one type of Operation.metadata that the client takes, without `yandex.cloud.`."""
    response: str = "google.protobuf.Empty"
    """The one type of Operation.response that it takes; Empty where there is none."""
    ends: str = ""
    """The code of Operation.error if the operation is to fail."""
    waits: bool = True
    repeated: bool = False
    """The client has lost the reply and repeats the call with the same `idempotency-key`."""


@dataclass(frozen=True)
class Idle:
    """The client has nothing to call, but pings on each of its connections to keep it."""


@dataclass(frozen=True)
class Await:
    """The client waits for an operation that it has not begun."""

    operation: str


Step = Call | Idle | Await


@dataclass(frozen=True)
class Part:
    """What one client, or one half of it, calls on connections and with a token of its own."""

    caller: Caller
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Sequence:
    """A use of a client, from its first call to its last."""

    title: str
    parts: tuple[Part, ...]
