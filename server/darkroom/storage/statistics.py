"""What SQLite's planner is told about the table of resources, instead of letting it measure.

Without statistics it takes any index that gives the order of a listing and walks through the
whole folder to find one name. Measured ones would differ from installation to installation, and
so would the plans that follow from them; these are the same everywhere, and tests can rely on
them. An operator who runs ANALYZE replaces them with measured ones.
"""

_ROWS_PER_LEFT_COLUMNS = {
    # Rows in the index, then rows that agree in its first column, in its first two, and so on.
    "sqlite_autoindex_resource_1": "1000000 1",
    "resource_unique_name": "500000 250000 50000 1",
    "resource_by_id": "1000000 500000 100000 1",
    "resource_by_name": "1000000 500000 100000 2 1",
    "resource_by_time": "1000000 500000 100000 2 1",
    "resource_by_family": "500000 500000 50000 200 1",
    "resource_latest": "500000 500000 50000 200 1 1",
    "resource_unready": "1000 500 100 50 1",
    "resource_content": "500000 10",
}


def statements() -> list[str]:
    """What makes SQLite believe it; readers see it when they next look at the schema."""
    values = ", ".join(
        f"('resource', '{index}', '{figures}')" for index, figures in _ROWS_PER_LEFT_COLUMNS.items()
    )
    return [
        "ANALYZE sqlite_schema",  # makes the table of statistics
        "DELETE FROM sqlite_stat1 WHERE tbl = 'resource'",
        f"INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES {values}",
        "ANALYZE sqlite_schema",  # reads it
    ]
