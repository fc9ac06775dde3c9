"""The SQL of a listing, put together from a query. Values are always bound."""

from darkroom.domain.query import Condition, OrderKey, Query
from darkroom.domain.resource import Status
from darkroom.storage.rows import RESOURCE_COLUMNS

_COLUMNS = {
    "id": "id",
    "name": "name",
    "family": "family",
    "status": "status",
    "created_at": "created_at_us",
}

_SUBJECTS = {
    # Users see whole seconds: what they copy from a reply must find the row.
    **_COLUMNS,
    "created_at": "(created_at_us / 1000000 * 1000000)",
}
"""What conditions compare. Division of whole numbers cuts off, here as in PostgreSQL."""

_EXACT = {">": (">=", 1), ">=": (">=", 0), "<": ("<", 0), "<=": ("<", 1)}
"""Comparisons in whole seconds as ones of microseconds: operator, seconds to add to a bound."""


def list_sql(noun: str, query: Query, limit: int, label_sql: str) -> tuple[str, list[object]]:
    """Statement and parameters. `label_sql` gives the value of a label, its key bound to `?`."""
    where = ["kind = ?", "folder_id = ?"]
    parameters: list[object] = [noun, query.folder_id]
    for condition in query.conditions:
        sql, values = _condition(condition, label_sql)
        where.append(sql + _implied(condition))
        parameters += values
    if query.after:
        sql, values = _after(query.order, query.after)
        where.append(sql)
        parameters += values
    order = ", ".join(
        _COLUMNS[key.field] + (" DESC" if key.descending else "") for key in query.order
    )
    statement = (
        f"SELECT {RESOURCE_COLUMNS} FROM resource WHERE {' AND '.join(where)} "
        f"ORDER BY {order} LIMIT ?"
    )
    return statement, [*parameters, limit]


def _condition(condition: Condition, label_sql: str) -> tuple[str, list[object]]:
    if condition.field == "created_at" and condition.operator in _EXACT:
        return _created(condition)
    subject, parameters = label_sql, [condition.label]
    if condition.field != "labels":
        subject, parameters = _SUBJECTS[condition.field], []
    if condition.operator in ("IN", "NOT IN"):
        sql = f"{subject} IN ({', '.join('?' * len(condition.values))})"
    elif condition.operator == "!=":
        sql = f"{subject} = ?"
    else:
        sql = f"{subject} {condition.operator} ?"
    if condition.operator in ("!=", "NOT IN"):
        # A label that is not there is not equal to anything, so it passes.
        sql = f"NOT COALESCE({sql}, FALSE)"
    return sql, [*parameters, *condition.values]


def _created(condition: Condition) -> tuple[str, list[object]]:
    """A comparison of the bare column, which an index answers."""
    operator, seconds = _EXACT[condition.operator]
    whole, rest = divmod(int(condition.values[0]), 1_000_000)
    # Between two whole seconds all four operators mean the next one: > and >= alike, < and <=.
    bound = whole + (1 if rest else seconds)
    return f"created_at_us {operator} ?", [bound * 1_000_000]


def _implied(condition: Condition) -> str:
    """What follows from the condition, in the words of a partial index.

    A planner does not know bound values, so it cannot conclude this, nor use the index without.
    """
    if condition.operator in ("=", "IN"):
        if condition.field == "family" and "" not in condition.values:
            return " AND family <> ''"
        if condition.field == "status" and Status.READY not in condition.values:
            return f" AND status <> {int(Status.READY)}"
    return ""


def _after(order: tuple[OrderKey, ...], values: tuple[str | int, ...]) -> tuple[str, list[object]]:
    """Rows behind the position, so that pages stay right while rows come and go."""
    columns = [_COLUMNS[key.field] for key in order]
    if len({key.descending for key in order}) == 1:
        # A comparison of rows, which an index of the same columns answers.
        sign = "<" if order[0].descending else ">"
        marks = ", ".join("?" * len(columns))
        return f"({', '.join(columns)}) {sign} ({marks})", list(values)
    branches: list[str] = []
    parameters: list[object] = []
    for place, key in enumerate(order):
        equal = [f"{column} = ?" for column in columns[:place]]
        beyond = f"{columns[place]} {'<' if key.descending else '>'} ?"
        branches.append(" AND ".join([*equal, beyond]))
        parameters += values[: place + 1]
    # The first key's bound is in the branches too, but only like this an index starts there.
    start = f"{columns[0]} {'<=' if order[0].descending else '>='} ?"
    return f"{start} AND ({' OR '.join(branches)})", [values[0], *parameters]
