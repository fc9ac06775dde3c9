"""A source of images and running installations, for every test that needs them."""

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from content_storage import Storage, object_storage
from darkroom.imaging.s3_calls import Calls
from database_server import database_server
from installation import Installation, installation
from object_server import ObjectServer

pytest_plugins = ["client_matrix"]

# How long an example takes says how busy the machine is, not what is wrong.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")

DISK_BYTES = 24 * 1024 * 1024


def pytest_configure() -> None:
    # What a shell runs in the background ignores SIGINT, and so would all that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qcow2 of 24 MiB, half of it random data, alone in its folder."""
    folder = tmp_path_factory.mktemp("disk")
    raw = folder / "disk.raw"
    with raw.open("wb") as file:
        for start in range(0, DISK_BYTES, 2 << 20):
            file.seek(start)
            file.write(os.urandom(1 << 20))
        file.truncate(DISK_BYTES)
    qcow2 = folder / "disk.qcow2"
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(qcow2)], check=True
    )
    raw.unlink()
    return qcow2


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server to make databases on: the one named by TEST_DATABASE_URL, or our own.

    Ours takes no care of the disk; tests of what survives a crash start servers of their own.
    """
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    with database_server(durable=False) as server:
        yield server.url()


@pytest.fixture
def source(disk: Path, tmp_path: Path) -> Iterator[ObjectServer]:
    """Object storage that holds `disk` and whatever the test puts into its folder."""
    folder = tmp_path / "objects"
    folder.mkdir()
    os.link(disk, folder / disk.name)
    with ObjectServer(folder).running() as server:
        yield server


@pytest.fixture
def darkroom(tmp_path: Path, source: ObjectServer) -> Iterator[Installation]:
    """A running installation of the test's own, allowed to fetch from `source`."""
    with installation(tmp_path, source.origin) as running:
        yield running


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """S3-compatible object storage with a bucket for contents; tests take prefixes of their own."""
    with object_storage(tmp_path_factory.mktemp("storage")) as running:
        yield running


@pytest.fixture(scope="session")
def calls(storage: Storage) -> Calls:
    """Made once: it takes botocore a while."""
    return storage.calls()


@pytest.fixture
def prefix() -> str:
    """Where a test keeps its contents in `storage`."""
    return f"test-{uuid.uuid4()}"
