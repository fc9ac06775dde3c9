"""The SQL of a listing, put together from a query. Values are always bound."""

from darkroom.domain.query import Condition, OrderKey, Query
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

SQLITE_LABEL = (
    "(SELECT value FROM json_each(CASE labels WHEN '' THEN '{}' ELSE labels END) WHERE key = ?)"
)


def list_sql(noun: str, query: Query, limit: int, label_sql: str) -> tuple[str, list[object]]:
    """Statement and parameters. `label_sql` gives the value of a label, its key bound to `?`."""
    where = ["kind = ?", "folder_id = ?"]
    parameters: list[object] = [noun, query.folder_id]
    for condition in query.conditions:
        sql, values = _condition(condition, label_sql)
        where.append(sql)
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
    return f"({' OR '.join(branches)})", parameters
