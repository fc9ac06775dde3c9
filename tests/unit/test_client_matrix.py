"""The README's table of clients is written from a run, and held against whole runs only."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
README = "# A program\n\n<!-- clients:begin -->\n<!-- clients:end -->\n\nThe end.\n"
SUITE = """\
import pytest

@pytest.mark.client("Ruby", "3", "creates", "ran")
@pytest.mark.client("curl", "8", "asks", "ran")
def test_both(): pass

@pytest.mark.client("Ruby", "3", what="reads", how="ran")
@pytest.mark.parametrize("turn", range(2))
def test_ruby(turn): pass

@pytest.mark.client("yc", "0.1", "lists|gets", "replayed")
def test_replayed(): pass

def test_no_client(): pass
"""
TABLE = """\
| client | version | how | what | passed |
|---|---|---|---|---|
| curl | 8 | ran | asks | yes |
| Ruby | 3 | ran | creates; reads | yes |
| yc | 0.1 | replayed | lists\\|gets | yes |
"""
COMPLAINT = "README.md's table of clients is out of date: run `make matrix`"


class Project:
    """A suite of tests of its own with the table in its README."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.readme = folder / "README.md"
        self.readme.write_text(README)
        (folder / "tests").mkdir()
        self.suite = folder / "tests" / "test_clients.py"
        self.suite.write_text(SUITE)
        (folder / "tests" / "conftest.py").write_text("pytest_plugins = ['client_matrix']\n")
        (folder / "pytest.ini").write_text(
            f"[pytest]\ntestpaths = tests\npythonpath = {TESTS}\n"
            "markers = client(name, version, what, how): a client\n"
        )

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        without = ("cacheprovider", "hypothesispytest", "timeout", "darkroom")
        plugins = [part for name in without for part in ("-p", f"no:{name}")]
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *plugins, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def change(self, old: str, new: str) -> None:
        text = self.suite.read_text()
        assert old in text
        self.suite.write_text(text.replace(old, new, 1))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def with_table(table: str) -> str:
    return README.replace("begin -->\n", "begin -->\n" + table)


def test_the_table_is_written_and_held_against_whole_runs_only(project: Project) -> None:
    stale = project.run("-n", "2")
    assert stale.returncode == 1 and COMPLAINT in stale.stdout, stale.stdout + stale.stderr
    assert project.readme.read_text() == README
    for part in (["-k", "ruby"], ["tests/test_clients.py"], ["-m", "client"]):
        partial = project.run(*part)
        assert partial.returncode == 0 and COMPLAINT not in partial.stdout, partial.stdout
    # The order in which processes happen to report makes no difference.
    assert project.run("-n", "2", "-m", "client", "--write-client-matrix").returncode == 0
    assert project.readme.read_text() == with_table(TABLE)
    assert project.run().returncode == 0


def test_a_row_has_passed_if_all_of_it_has(project: Project) -> None:
    project.readme.write_text(with_table(TABLE))
    project.change("def test_ruby(turn): pass", "def test_ruby(turn): assert turn")
    failed = project.run()
    assert failed.returncode == 1 and COMPLAINT in failed.stdout
    project.run("-m", "client", "--write-client-matrix")
    assert "| Ruby | 3 | ran | creates; reads | no |" in project.readme.read_text()
    assert "| curl | 8 | ran | asks | yes |" in project.readme.read_text()


def test_a_skipped_client_says_nothing_about_the_table(project: Project) -> None:
    project.readme.write_text(with_table(TABLE))
    project.change("def test_replayed(): pass", "def test_replayed(): pytest.skip('not here')")
    skipped = project.run()
    assert skipped.returncode == 0, skipped.stdout
    project.run("-m", "client", "--write-client-matrix")
    assert "| yc | 0.1 | replayed | lists\\|gets | not run here |" in project.readme.read_text()


def test_a_part_cannot_be_written_as_the_whole(project: Project) -> None:
    part = project.run("-k", "ruby", "--write-client-matrix")
    assert part.returncode == 1 and "only written from a whole run" in part.stdout
    assert project.readme.read_text() == README
