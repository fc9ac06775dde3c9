"""The databases the store suite runs on: another one is another entry in `BACKENDS`."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from darkroom.storage.port import MetadataStore
from darkroom.storage.postgres import PostgresStore
from darkroom.storage.sqlite import SqliteStore
from database_server import database

LEASE_SECONDS = 0.3
"""Short enough to wait for, long enough not to expire by accident between two statements."""


class Opener(Protocol):
    """Opens the same database once more, as another process would."""

    def __call__(self, lease_seconds: float = LEASE_SECONDS) -> MetadataStore: ...


def _sqlite(_request: pytest.FixtureRequest, folder: Path) -> Iterator[Opener]:
    def open_one(lease_seconds: float = LEASE_SECONDS) -> MetadataStore:
        path = folder / "metadata.sqlite"
        return SqliteStore(path, lease_seconds=lease_seconds, busy_seconds=10.0)

    yield open_one


def _on(url: str) -> Opener:
    def open_one(lease_seconds: float = LEASE_SECONDS) -> MetadataStore:
        return PostgresStore(url, lease_seconds=lease_seconds, busy_seconds=10.0)

    return open_one


def _postgres(request: pytest.FixtureRequest, _folder: Path) -> Iterator[Opener]:
    url = request.getfixturevalue("postgres_database")
    # Ten times as fast as a database for each test, and nothing but rows could be left of others.
    with contextlib.closing(PostgresStore(url)) as store:
        store.write(lambda tx: tx.clear())
    yield _on(url)


def _fresh_postgres(request: pytest.FixtureRequest, _folder: Path) -> Iterator[Opener]:
    with database(request.getfixturevalue("postgres_url")) as url:
        yield _on(url)


Backend = Callable[[pytest.FixtureRequest, Path], Iterator[Opener]]

BACKENDS: dict[str, Backend] = {"sqlite": _sqlite, "postgres": _postgres}
FRESH: dict[str, Backend] = {"sqlite": _sqlite, "postgres": _fresh_postgres}
"""The same without a schema."""


@pytest.fixture(scope="session")
def postgres_database(postgres_url: str) -> Iterator[str]:
    """The URL of a migrated database of this process's own."""
    with database(postgres_url) as url:
        with contextlib.closing(PostgresStore(url)) as store:
            store.migrate()
        yield url


def _opened(backend: Iterator[Opener], *, migrated: bool) -> Iterator[Opener]:
    opened: list[MetadataStore] = []
    for opener in backend:

        def open_one(
            lease_seconds: float = LEASE_SECONDS, opener: Opener = opener
        ) -> MetadataStore:
            opened.append(opener(lease_seconds))
            return opened[-1]

        if migrated:
            open_one().migrate()
        yield open_one
        for store in opened:
            store.close()


@pytest.fixture(params=sorted(BACKENDS))
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the test's database, migrated, any number of times; closes all of them."""
    yield from _opened(BACKENDS[request.param](request, tmp_path), migrated=True)


@pytest.fixture(params=sorted(FRESH))
def empty_again(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """The same for a database without schema."""
    yield from _opened(FRESH[request.param](request, tmp_path), migrated=False)


@pytest.fixture
def store(open_again: Opener) -> MetadataStore:
    """One open store on an empty database."""
    return open_again()
