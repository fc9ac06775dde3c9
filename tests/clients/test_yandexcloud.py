"""The official Python SDK, unmodified, in an environment and a process of its own."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.environments import YANDEXCLOUD, environment
from installation import Installation, installation
from object_server import ObjectServer

CLIENT = Path(__file__).with_name("yandexcloud_client.py")


@pytest.fixture
def secured(tmp_path: Path, source: ObjectServer) -> Iterator[Installation]:
    with installation(tmp_path, source.origin, DARKROOM_TLS_LISTEN="127.0.0.1:0") as running:
        yield running


# The environment is made by the first test that asks for it.
@pytest.mark.timeout(600)
def test_the_python_sdk_goes_through_the_life_of_an_image(
    secured: Installation, source: ObjectServer, disk: Path
) -> None:
    python = environment("yandexcloud", [YANDEXCLOUD])
    endpoint = f"localhost:{secured.tls_address.rpartition(':')[2]}"
    ca_file = str(secured.data / "tls" / "ca.pem")
    command = [str(python), str(CLIENT), endpoint, ca_file, source.url(disk.name)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads(result.stdout) == {
        "version": YANDEXCLOUD.partition("==")[2],
        "created_by": "ajeaccount0000000000",
        "status": "READY",
        "listed": True,
        "latest": True,
        "updated": ["changed", "from-sdk"],
        "effective_deltas": 1,
        "gone": "NOT_FOUND",
        "refused": "INVALID_ARGUMENT",
        "failed": "OperationError",
        "with_iam_token": 1,
    }
