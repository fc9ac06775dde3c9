"""Numbered schema changes, one SQL file each, applied in order and never edited once released."""

import importlib.resources
import re
from functools import cache


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


def mismatch(version: int) -> str:
    """What to tell an operator whose database has schema `version`."""
    if version > latest():
        return (
            f"the database has schema version {version}, this program understands {latest()}: "
            "run a newer Darkroom"
        )
    return (
        f"the database has schema version {version}, this program needs {latest()}: "
        "run `darkroom migrate`"
    )
