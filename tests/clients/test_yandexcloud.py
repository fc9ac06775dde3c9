"""The official Python SDK, unmodified, in an environment and a process of its own."""

import json
import subprocess
from pathlib import Path

import pytest

from clients.environments import YANDEXCLOUD, environment
from installation import Installation
from object_server import ObjectServer

CLIENT = Path(__file__).with_name("yandexcloud_client.py")
VERSION = YANDEXCLOUD.partition("==")[2]


# The environment is made by the first test that asks for it.
@pytest.mark.timeout(600)
@pytest.mark.client(
    "the official Python SDK `yandexcloud`",
    VERSION,
    "over TLS with a service-account key: create from a URL, wait, list with a filter, latest by "
    "family, update, access bindings, delete, errors",
    "ran",
)
def test_the_python_sdk_goes_through_the_life_of_an_image(
    served: Installation, objects: ObjectServer, disk: Path
) -> None:
    python = environment("yandexcloud", [YANDEXCLOUD])
    endpoint = served.tls_endpoint
    ca_file = str(served.ca_file)
    command = [str(python), str(CLIENT), endpoint, ca_file, objects.url(disk.name)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads(result.stdout) == {
        "version": VERSION,
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
