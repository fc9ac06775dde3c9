"""The official Node SDK, unmodified, in a folder of packages and a process of its own."""

import json
import shutil
import subprocess
from pathlib import Path

import grpc
import pytest

from clients.environments import node, npm_packages
from installation import Installation
from object_server import ObjectServer

SDK = Path(__file__).with_name("node") / "sdk"
NAME = "@yandex-cloud/nodejs-sdk"
VERSION = json.loads((SDK / "package.json").read_text())["dependencies"][NAME]


# The first run on a machine downloads Node.js and the SDK.
@pytest.mark.timeout(600)
@pytest.mark.client(
    f"the official Node SDK `{NAME}`",
    VERSION,
    "over TLS with an IAM token: create from a URL, wait, list with a filter, latest by family, "
    "update, access bindings, delete, errors with their request id",
    "ran",
)
def test_the_node_sdk_goes_through_the_life_of_an_image(
    served: Installation, objects: ObjectServer, disk: Path, tmp_path: Path
) -> None:
    # Node.js looks for packages beside the program.
    (tmp_path / "node_modules").symlink_to(npm_packages(SDK))
    program = shutil.copy(SDK / "client.mjs", tmp_path)
    endpoint = served.tls_endpoint
    ca_file = str(served.ca_file)
    command = [str(node()), program, endpoint, ca_file, objects.url(disk.name)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads(result.stdout) == {
        "createdBy": "oauth",
        "status": "READY",
        "listed": [True],
        "latest": True,
        "updated": ["changed", "from-node"],
        "bindings": ["compute.images.user"],
        "gone": [True, True],
        "requestId": True,
        "traceId": True,
        "refused": True,
        "failed": grpc.StatusCode.FAILED_PRECONDITION.value[0],
    }
