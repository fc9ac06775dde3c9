"""One installation for all tests of a module: what clients do there does not meet."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from installation import Installation, installation
from object_server import ObjectServer


@pytest.fixture(scope="module")
def objects(disk: Path) -> Iterator[ObjectServer]:
    """Object storage that holds `disk` alone."""
    with ObjectServer(disk.parent).running() as server:
        yield server


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, objects: ObjectServer
) -> Iterator[Installation]:
    """An installation with both listeners, allowed to fetch from `objects`."""
    folder = tmp_path_factory.mktemp("served")
    with installation(folder, objects.origin, DARKROOM_TLS_LISTEN="127.0.0.1:0") as running:
        yield running
