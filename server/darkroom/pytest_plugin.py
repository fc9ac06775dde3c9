"""Fixtures for tests that need an image service, in whoever's tests have this wheel installed.

`darkroom` is a server without anything in it; see `darkroom.testing.Darkroom` for what it offers.
"""

from collections.abc import Generator, Iterator

import pytest

from darkroom.testing import Darkroom

_SHOWN_LINES = 200

_running = pytest.StashKey[Darkroom]()
_seen_bytes = pytest.StashKey[int]()


@pytest.fixture(scope="session")
def darkroom_settings() -> dict[str, object]:
    """Settings of the server that differ from its defaults; override it to change them."""
    return {}


@pytest.fixture(scope="session")
def darkroom_server(
    darkroom_settings: dict[str, object],
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[Darkroom]:
    """The server that the whole test run shares, with whatever tests have left in it."""
    with Darkroom(tmp_path_factory.mktemp("darkroom"), darkroom_settings) as server:
        pytestconfig.stash[_running] = server
        yield server
        del pytestconfig.stash[_running]


@pytest.fixture
def darkroom(darkroom_server: Darkroom) -> Darkroom:
    """The same server, empty: whatever earlier tests made is gone."""
    darkroom_server.reset()
    return darkroom_server


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    server = item.config.stash.get(_running, None)
    item.stash[_seen_bytes] = server.output_bytes if server else 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the server has said during a test that fails."""
    report = yield
    server = item.config.stash.get(_running, None)
    if report.failed and server is not None:
        lines = server.output(item.stash.get(_seen_bytes, 0)).splitlines()
        if lines:
            shown = "\n".join(lines[-_SHOWN_LINES:])
            report.sections.append((f"Output of darkroom during {report.when}", shown))
    return report
