"""The databases the store suite runs on: another one is another entry in `BACKENDS`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from darkroom.storage.port import MetadataStore
from darkroom.storage.sqlite import SqliteStore

LEASE_SECONDS = 0.3
"""Short enough to wait for, long enough not to expire by accident between two statements."""

Opener = Callable[[], MetadataStore]
"""Opens the same database once more, as another process would."""


def _sqlite(folder: Path) -> Opener:
    return lambda: SqliteStore(
        folder / "metadata.sqlite", lease_seconds=LEASE_SECONDS, busy_seconds=0.5
    )


BACKENDS: dict[str, Callable[[Path], Opener]] = {"sqlite": _sqlite}


@pytest.fixture(params=sorted(BACKENDS))
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the test's database, migrated, any number of times; closes all of them."""
    opener = BACKENDS[request.param](tmp_path)
    opened: list[MetadataStore] = []

    def open_one() -> MetadataStore:
        opened.append(opener())
        return opened[-1]

    open_one().migrate()
    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_again: Opener) -> MetadataStore:
    """One open store on an empty database."""
    return open_again()
