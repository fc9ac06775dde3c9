"""What every line that a process of ours logs must be like, Envoy's among them.

Whoever starts processes in tests holds what they have logged to it: installations, workers beside
them, gateways, sidecars, the development stack, the pytest plugin's servers, crash campaigns, and
the servers inside test processes.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import grpc

from darkroom.domain.operation import KINDS

_TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_LOGGER = re.compile(r"[a-z][A-Za-z0-9_.]*")
_TRACE_ID = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}")
_LEVELS = frozenset({"debug", "info", "warning", "error", "critical"})
_CODES = frozenset(code.name for code in grpc.StatusCode)
_PHASES = frozenset({"fetch", "inspect", "convert", "publish", "apply"})
_FOR_PEOPLE = re.compile(
    # What a command says to whoever started it, and what gRPC's C library says by itself.
    r"darkroom: |[IWEF]\d{4} |WARNING: All log messages before absl"
)

Rule = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _filled(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _duration(value: Any) -> bool:
    return isinstance(value, int | float) and value >= 0


def _filled_if_read(value: Any) -> bool:
    # Of a request that was no HTTP nothing is known.
    return value is None or _filled(value)


def _status(value: Any) -> bool:
    return isinstance(value, int) and (value == 0 or 100 <= value < 600)


def _matching(pattern: re.Pattern[str]) -> Rule:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


_ALWAYS: dict[str, Rule] = {
    "time": _matching(_TIME),
    "level": _LEVELS.__contains__,
    "logger": _matching(_LOGGER),
    "event": _filled,
}
_REQUIRED: dict[str, dict[str, Rule]] = {
    "rpc": {
        "method": _filled,
        "code": _CODES.__contains__,
        "duration_ms": _duration,
        "request_id": _filled,
        "trace_id": _matching(_TRACE_ID),
        "subject": _text,
        "peer": _text,
        "user_agent": _text,
    },
    "phase ended": {
        "phase": _PHASES.__contains__,
        "code": _CODES.__contains__,
        "duration_ms": _duration,
        "operation_id": _filled,
        "resource_id": _filled,
        "kind": KINDS.__contains__,
        "subject": _text,
        "fence": lambda value: isinstance(value, int) and value > 0,
    },
    "operation left": {"operation_id": _filled, "outcome": _filled},
}
_WHEREVER: dict[str, Rule] = {
    "request_id": _filled,
    "trace_id": _matching(_TRACE_ID),
    "operation_id": _filled,
    "resource_id": _filled,
    "code": _CODES.__contains__,
    "duration_ms": _duration,
    "reason": _filled,
    "exception": _filled,
}


_PROXIED: dict[str, Rule] = {
    "method": _filled_if_read,
    "request_id": _filled_if_read,
    "duration_ms": _duration,
    "peer": _filled,
}
_OF_ENVOY: dict[str, dict[str, Rule]] = {
    "http": {**_PROXIED, "path": _filled_if_read, "status": _status},
    "inbound": _PROXIED,
    "outbound": _PROXIED,
}
"""By the event of its access log."""


def checked(line: str) -> dict[str, Any] | None:
    """The line's fields; None for one that is meant for people. Fails for any other line."""
    if _FOR_PEOPLE.match(line):
        return None
    try:
        fields: dict[str, Any] = json.loads(line)
    except ValueError:
        raise AssertionError(f"no line of JSON: {line!r}") from None
    check(fields)
    return fields


def check(fields: dict[str, Any]) -> None:
    """Fail if a line of these fields is not as it should be."""
    assert isinstance(fields, dict), fields
    event = str(fields.get("event"))
    by_envoy = str(fields.get("logger")).startswith("envoy.")
    required = _REQUIRED.get(event, {})
    if by_envoy:
        required = _OF_ENVOY[event] if fields["logger"] == "envoy.access" else {}
    for name, rule in {**_ALWAYS, **required}.items():
        assert name in fields, f"{name} is missing: {fields}"
        assert rule(fields[name]), f"{name} is not as it should be: {fields}"
    if not by_envoy:  # which writes null for what it does not know, in an order of its own
        for name, rule in _WHEREVER.items():
            held = name not in fields or rule(fields[name])
            assert held, f"{name} is not as it should be: {fields}"
        assert list(fields)[:4] == list(_ALWAYS), fields


def check_all(text: str) -> int:
    """Hold every complete line to it; how many there were."""
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return len([line for line in lines if checked(line.rstrip("\n")) is not None])
