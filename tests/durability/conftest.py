"""A source of images and a running installation for crash tests."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from installation import Installation, installation
from object_server import ObjectServer

DISK_BYTES = 24 * 1024 * 1024


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qcow2 of 24 MiB, half of it random data."""
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


@pytest.fixture
def source(disk: Path) -> Iterator[ObjectServer]:
    with ObjectServer(disk.parent).running() as server:
        yield server


@pytest.fixture
def darkroom(tmp_path: Path, source: ObjectServer) -> Iterator[Installation]:
    with installation(tmp_path, source.origin) as running:
        yield running
