"""Installations that the tests of a module share, and an environment as users have theirs."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from clearable import ClearableInstallation, clearable_installation
from clients.environments import YANDEXCLOUD, copy, environment, pip
from clients.gateways import Gateway, gateway
from installation import Installation, installation
from object_server import ObjectServer

ROOT = Path(__file__).resolve().parents[2]
USED = (
    "yandexcloud, yandex.cloud.compute.v1.image_service_pb2_grpc",
    "yandex.cloud.compute.v1.disk_service_pb2_grpc",
    "pytest, xdist.workermanage, xdist.remote",
    "oslo_utils.imageutils, google.rpc.error_details_pb2, google.api.annotations_pb2",
    "cryptography.x509, grpc_health.v1.health, grpc_reflection.v1alpha.reflection, yaml",
)
"""What tests and server import there, so that a copy need not compile it."""


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


@pytest.fixture(scope="module")
def shared_source(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """Object storage with `disk`, for `cleared_source`."""
    folder = tmp_path_factory.mktemp("objects")
    os.link(disk, folder / disk.name)
    with ObjectServer(folder).running() as server:
        yield server


@pytest.fixture
def cleared_source(disk: Path, shared_source: ObjectServer) -> ObjectServer:
    """The module's object storage, with nothing but `disk`."""
    for path in shared_source.folder.iterdir():
        if path.name != disk.name:
            path.unlink()
    return shared_source


@pytest.fixture(scope="module")
def clearable(
    tmp_path_factory: pytest.TempPathFactory, shared_source: ObjectServer
) -> Iterator[ClearableInstallation]:
    """An installation allowed to fetch from `shared_source`, for `cleared`."""
    folder = tmp_path_factory.mktemp("clearable")
    with clearable_installation(folder, shared_source.origin) as running:
        yield running


@pytest.fixture
def cleared(clearable: ClearableInstallation) -> Installation:
    """The module's installation, without anything in it."""
    clearable.clear()
    return clearable


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheel, built from the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run(
        [*build, "--directory", str(folder)], cwd=ROOT, check=True, capture_output=True, timeout=120
    )
    (built,) = folder.glob("*.whl")
    return built


def lowest(requirement: str) -> str:
    """The requirement, pinned to the lower end that it declares."""
    parsed = Requirement(requirement)
    (lower,) = (each.version for each in parsed.specifier if each.operator == ">=")
    return f"{parsed.name}=={lower}"


def pinned(*names: str) -> list[str]:
    """Requirements in the versions of constraints.txt."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [pin for pin in pins if pin.partition("==")[0] in names]


@pytest.fixture(scope="session")
def shared(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the official SDK and, installed after it, our wheel.

    protobuf and grpcio are the oldest that we say we work with: newer ones are what the other tests
    run with. pytest is there for tests of users, who have their own.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = project["dependencies"]
    oldest = [lowest(each) for each in needed if Requirement(each).name in ("grpcio", "protobuf")]
    assert len(oldest) == 2
    requirements = [YANDEXCLOUD, *needed, *oldest, *pinned("pytest", "pytest-xdist")]
    base = environment("yandexcloud-and-darkroom", requirements, used=USED)
    python = copy(base, tmp_path_factory.mktemp("shared") / "venv")
    pip(python, "install", "--no-deps", "--no-index", str(wheel))
    return python


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Without workers: an import waits."""
    folder = tmp_path_factory.mktemp("server")
    with installation(folder, "http://127.0.0.1:9", DARKROOM_WORKERS="0") as running:
        yield running


@pytest.fixture(scope="module")
def front(server: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway before it."""
    with gateway(tmp_path_factory.mktemp("gateway"), server.address) as running:
        yield running
