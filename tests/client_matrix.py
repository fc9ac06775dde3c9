"""The README's table of clients: which were run against the server, and whether all of it passed.

A test of a client says so with `@pytest.mark.client(name, version, what, how)`. `make matrix` runs
those tests and writes the table. A run of everything holds the table against what it saw; runs of
a part are left alone.
"""

import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

HOWS = ("ran", "replayed")
WRITE = "--write-client-matrix"
_MARKER = "client"
_HEAD = "| client | version | how | what | passed |\n|---|---|---|---|---|\n"
_TABLE = re.compile(r"(?<=<!-- clients:begin -->\n).*?(?=<!-- clients:end -->)", re.DOTALL)


class Outcome(enum.Enum):
    """Of a test or of all of a row, the worse the further down."""

    PASSED = "yes"
    SKIPPED = "not run here"
    FAILED = "no"


@dataclass(frozen=True)
class Row:
    """One client in one version: what all of its tests do, by the order of their names."""

    name: str
    version: str
    how: str
    whats: tuple[str, ...]
    outcome: Outcome

    def line(self) -> str:
        cells = (self.name, self.version, self.how, "; ".join(self.whats), self.outcome.value)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


class Client(NamedTuple):
    """The marker's arguments, in its order."""

    name: str
    version: str
    what: str
    how: str


Seen = tuple[str, Client]
"""The id of a test, and a client that it is a test of."""


def rows(seen: Mapping[Seen, Outcome]) -> Iterator[Row]:
    """Rows of what was seen, those that ran first."""
    by_row: dict[tuple[str, str, str], list[Seen]] = {}
    for test, client in sorted(seen):
        by_row.setdefault((client.how, client.name, client.version), []).append((test, client))
    for how, name, version in sorted(by_row, key=lambda row: [cell.lower() for cell in row]):
        tests = by_row[how, name, version]
        whats = tuple(dict.fromkeys(client.what for _, client in tests))
        yield Row(name, version, how, whats, _worst(seen[each] for each in tests))


def _worst(outcomes: Iterable[Outcome]) -> Outcome:
    return max(outcomes, key=list(Outcome).index)


def _table(found: Iterable[Row]) -> str:
    """The rows as Markdown."""
    return _HEAD + "".join(row.line() for row in found)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(WRITE, action="store_true", help="write README.md's table of clients")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(ClientMatrix(config))


class ClientMatrix:
    """Collects what became of the tests of clients, and writes or checks the table with it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._readme: Path = config.rootpath / "README.md"
        self._seen: dict[Seen, Outcome] = {}
        self._complaint = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for mark in item.iter_markers(_MARKER):
                # What travels with the reports, from the processes of pytest-xdist too.
                client = Client(*mark.args, **mark.kwargs)
                if client.how not in HOWS:
                    raise pytest.UsageError(f"{item.nodeid}: a client {' or '.join(HOWS)}")
                item.user_properties.append((_MARKER, tuple(client)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or hasattr(report, "wasxfail"):
            outcome = Outcome.FAILED
        else:
            outcome = Outcome.SKIPPED if report.skipped else Outcome.PASSED
        for name, value in report.user_properties:
            if name == _MARKER and isinstance(value, tuple):
                key = report.nodeid, Client(*value)
                self._seen[key] = _worst([self._seen.get(key, Outcome.PASSED), outcome])

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if hasattr(self._config, "workerinput"):
            return
        ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        cut_short = not ended or session.shouldfail or session.shouldstop
        whole = self._seen and not cut_short and self._everything()
        readme = self._readme.read_text(encoding="utf-8") if whole else ""
        if self._config.getoption(WRITE):
            if whole:
                table = _table(rows(self._seen))
                self._readme.write_text(_replaced(readme, table), encoding="utf-8")
            else:
                self._complain(session, "README.md's table is only written from a whole run")
        elif whole and not self._config.option.markexpr and not self._agrees(readme):
            self._complain(
                session, "README.md's table of clients is out of date: run `make matrix`"
            )

    def _complain(self, session: pytest.Session, complaint: str) -> None:
        self._complaint = complaint
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._complaint:
            terminalreporter.write_line(self._complaint, red=True)

    def _everything(self) -> bool:
        """Whether the tests of all clients were asked for."""
        chosen = ("keyword", "deselect", "ignore", "ignore_glob", "lf")
        return (
            self._config.args_source is pytest.Config.ArgsSource.TESTPATHS
            and self._config.option.markexpr in ("", _MARKER)
            and not any(getattr(self._config.option, name, None) for name in chosen)
        )

    def _agrees(self, readme: str) -> bool:
        # A test that was skipped says nothing, neither for the table nor against it.
        seen = {
            key: Outcome.PASSED if outcome is Outcome.SKIPPED else outcome
            for key, outcome in self._seen.items()
        }
        return readme == _replaced(readme, _table(rows(seen)))


def _replaced(readme: str, wanted: str) -> str:
    replaced, found = _TABLE.subn(lambda _: wanted, readme)
    if found != 1:
        raise pytest.UsageError("README.md has lost the markers of the table of clients")
    return replaced
