"""Numbered schema changes, one SQL file each, applied in order and never edited once released.

Forwards only, and under programs that run: a change is made in two releases. The first expands
(tables, indexes, columns with a default) and says so with `-- oldest program: N`, N being the
oldest schema version whose programs can work with what it makes; they go on working, and may be
started again. The second contracts what no program needs any more.
"""

import importlib.resources
import re
from functools import cache

from darkroom.storage.port import SchemaMismatch


@cache
def _scripts() -> tuple[tuple[int, str], ...]:
    found = []
    for entry in importlib.resources.files(__name__).iterdir():
        match = re.fullmatch(r"(\d{4})_\w+\.sql", entry.name)
        if match:
            found.append((int(match[1]), entry.read_text(encoding="utf-8")))
    return tuple(sorted(found))


def latest() -> int:
    """The schema version this program understands."""
    return _scripts()[-1][0]


def pending(version: int) -> list[tuple[int, str]]:
    """Number and text of each script that brings a schema of `version` up to date."""
    return [(number, script) for number, script in _scripts() if number > version]


def statements(script: str) -> list[str]:
    """The statements of a script; our migrations keep semicolons for statement ends only."""
    text = re.sub(r"--[^\n]*", "", script)
    return [statement.strip() for statement in text.split(";") if statement.strip()]


@cache
def oldest_program(number: int) -> int:
    """The oldest schema version whose programs can work with schema `number`."""
    oldest = 0
    for each, script in _scripts():
        if each <= number:
            said = re.search(r"^-- oldest program: (\d+)$", script, re.MULTILINE)
            oldest = max(oldest, int(said[1]) if said else each)
    return oldest


def check(version: int, oldest: int) -> None:
    """Raise `SchemaMismatch`, with advice, unless this program can work with schema `version`.

    `oldest` is what whoever made that schema said of it.
    """
    if version < latest():
        raise SchemaMismatch(
            f"the database has schema version {version}, this program needs {latest()}: "
            "run `darkroom migrate`"
        )
    if oldest > latest():
        raise SchemaMismatch(
            f"the database has schema version {version}, this program understands {latest()}: "
            "run a newer Darkroom"
        )
