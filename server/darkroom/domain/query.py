"""Listings: filter, order and the position of a page, as data.

Grammar of a filter (cloud docs): `FIELD OP VALUE [AND ...]` with the operators `=`, `!=`, `IN`,
`NOT IN`, and for `created_at` also `<`, `<=`, `>`, `>=`. Values are strings in double or single
quotes with C-style escapes; IN takes a list in parentheses. AND, IN and NOT may be in any case.
"""

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from darkroom.domain import errors
from darkroom.domain.resource import Status

FILTER_FIELDS = ("name", "status", "id", "created_at")
"""What a filter may name, besides `labels.KEY`."""
IMAGE_FILTER_FIELDS = ("name", "family", "status", "id", "created_at")
"""The same for images."""

ORDER_FIELDS = {"id": "id", "name": "name", "createdAt": "created_at", "created_at": "created_at"}
"""What order_by may name, and the field it means."""

_TOKEN = re.compile(
    r"""(?:
      (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<word>[A-Za-z][-_./\\@0-9A-Za-z]*)
    | (?P<sign>!=|<=|>=|[=<>(),])
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_COMPARISONS = ("<", "<=", ">", ">=")


@dataclass(frozen=True)
class Condition:
    """One part of a filter. `values` are texts, except of created_at: microseconds.

    Users see created_at in whole seconds, so it is compared in whole seconds.
    """

    field: str
    """One of IMAGE_FILTER_FIELDS, or `labels` with `label` naming the key."""
    operator: str
    """`=`, `!=`, `<`, `<=`, `>`, `>=`, `IN`, `NOT IN`."""
    values: tuple[str | int, ...]
    label: str = ""


@dataclass(frozen=True)
class OrderKey:
    field: str
    descending: bool = False


@dataclass(frozen=True)
class Query:
    """One listing: which rows, in which order. The last order key is always `id`."""

    folder_id: str
    conditions: tuple[Condition, ...] = ()
    order: tuple[OrderKey, ...] = (OrderKey("id"),)
    after: tuple[str | int, ...] = field(default=())
    """Values of the order keys of the last row already seen; empty for the first page."""


def _refuse(position: int, problem: str) -> errors.Failure:
    return errors.request_invalid([errors.FieldViolation("filter", f"at {position}: {problem}")])


class _Reader:
    """Walks over the tokens of a filter."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str, int]] = []
        position = 0
        while rest := text[position:].lstrip():
            position = len(text) - len(rest)
            match = _TOKEN.match(text, position)
            if match is None:
                raise _refuse(position, "expected a field, an operator or a quoted value")
            kind = str(match.lastgroup)
            self._tokens.append((kind, match[kind], match.start(kind)))
            position = match.end()
        self._next = 0
        self._end = len(text)

    @property
    def position(self) -> int:
        return self._tokens[self._next][2] if self.more() else self._end

    def more(self) -> bool:
        return self._next < len(self._tokens)

    def take(self, kind: str, expected: str) -> str:
        if not self.more() or self._tokens[self._next][0] != kind:
            raise _refuse(self.position, f"expected {expected}")
        self._next += 1
        return self._tokens[self._next - 1][1]

    def skip(self, text: str) -> bool:
        """Step over the token if it is this sign, or this word in any case."""
        if self.more():
            kind, found, _ = self._tokens[self._next]
            if kind != "string" and found.upper() == text:
                self._next += 1
                return True
        return False


def parse_filter(text: str, fields: Sequence[str] = IMAGE_FILTER_FIELDS) -> tuple[Condition, ...]:
    """The conditions of a filter, all of which must hold. Raises `Failure` naming the place."""
    if not text.strip():
        return ()
    reader = _Reader(text)
    conditions = [_condition(reader, fields)]
    while reader.more():
        if not reader.skip("AND"):
            raise _refuse(reader.position, "expected AND")
        conditions.append(_condition(reader, fields))
    return tuple(conditions)


def _condition(reader: _Reader, fields: Sequence[str]) -> Condition:
    position = reader.position
    name = reader.take("word", "a field")
    label = ""
    if name.startswith("labels."):
        name, _, label = name.partition(".")
    name = "created_at" if name == "createdAt" else name
    if name not in fields and not label:
        known = ", ".join((*fields, "labels.KEY"))
        raise _refuse(position, f"unknown field; known are {known}")
    position = reader.position
    if reader.skip("NOT"):
        if not reader.skip("IN"):
            raise _refuse(reader.position, "expected IN after NOT")
        operator = "NOT IN"
    elif reader.skip("IN"):
        operator = "IN"
    else:
        operator = reader.take("sign", "an operator")
        if operator not in ("=", "!=", *_COMPARISONS):
            raise _refuse(position, "expected an operator")
        if operator in _COMPARISONS and name != "created_at":
            raise _refuse(position, f"{operator} is for created_at only")
    values = _values(reader, name, listed=operator.endswith("IN"))
    return Condition(name, operator, values, label)


def _values(reader: _Reader, name: str, *, listed: bool) -> tuple[str | int, ...]:
    if not listed:
        return (_value(reader, name),)
    if not reader.skip("("):
        raise _refuse(reader.position, "expected ( and a list of values")
    values = [_value(reader, name)]
    while reader.skip(","):
        values.append(_value(reader, name))
    if not reader.skip(")"):
        raise _refuse(reader.position, "expected , or )")
    return tuple(values)


def _value(reader: _Reader, name: str) -> str | int:
    position = reader.position
    quoted = reader.take("string", "a quoted value")
    text = re.sub(
        r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), quoted[1:-1], flags=re.DOTALL
    )
    if "\0" in text:
        raise _refuse(position, "no value contains NUL")
    if name == "created_at":
        return _microseconds(text, position)
    if name == "status":
        if text not in Status.__members__:
            raise _refuse(position, f"a status is one of {', '.join(Status.__members__)}")
        return int(Status[text])
    return text


def _microseconds(text: str, position: int) -> int:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise _refuse(position, "expected a time like 2026-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        raise _refuse(position, "a time needs its zone, like 2026-01-31T12:00:00Z")
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (moment - epoch) // datetime.timedelta(microseconds=1)


def parse_order(text: str) -> tuple[OrderKey, ...]:
    """The order keys of an order_by, completed by `id`. Raises `Failure` naming what is wrong."""
    keys: list[OrderKey] = []
    for part in text.split(",") if text.strip() else ():
        words = part.split()
        directions = [word.lower() for word in words[1:]]
        if not words or words[0] not in ORDER_FIELDS or directions not in ([], ["asc"], ["desc"]):
            known = "id, name or createdAt, each with asc or desc, separated by commas"
            raise errors.request_invalid([errors.FieldViolation("order_by", f"must be {known}")])
        key = OrderKey(ORDER_FIELDS[words[0]], directions == ["desc"])
        if key.field not in [each.field for each in keys]:
            keys.append(key)
        if key.field == "id":
            break  # ids are unique: nothing after them can matter
    if not keys or keys[-1].field != "id":
        # The same direction as the key before it: an index can then be read in either direction.
        keys.append(OrderKey("id", bool(keys) and keys[-1].descending))
    return tuple(keys)


def values_of(row: object, order: Sequence[OrderKey]) -> tuple[str | int, ...]:
    """The values of the order keys of a resource: where the page after it begins."""
    attributes = {"id": "id", "name": "name", "created_at": "created_at_us"}
    return tuple(getattr(row, attributes[key.field]) for key in order)
