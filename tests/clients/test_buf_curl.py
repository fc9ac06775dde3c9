"""`buf curl`, which knows no .proto file and asks reflection v1 alone."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from darkroom.api.permissions import PERMISSIONS
from installation import Installation, until
from object_server import ObjectServer

BUF = str(Path(sys.executable).with_name("buf"))
IMAGES = "yandex.cloud.compute.v1.ImageService"
NOT_FOUND_STATUS = 8 * 5
"""Of the process: eight times the code of the call's status."""


def buf_curl(served: Installation, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Over TLS; the last argument is the path of a method, or empty."""
    endpoint = f"https://{served.tls_endpoint}/"
    ca_file = str(served.ca_file)
    command = [BUF, "curl", "--protocol=grpc", "--reflect-protocol=grpc-v1", f"--cacert={ca_file}"]
    return subprocess.run(
        [*command, *arguments[:-1], endpoint + arguments[-1]],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def answered(served: Installation, method: str, **request: Any) -> Any:
    """The reply to a call; it must succeed."""
    finished = buf_curl(served, f"--data={json.dumps(request)}", method)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.client(
    "`buf curl`",
    version("buf-bin"),
    "over TLS with reflection v1: list all methods, create from a URL, wait, get, an error",
    "ran",
)
def test_buf_curl_creates_an_image_and_reads_its_operation(
    served: Installation, objects: ObjectServer, disk: Path
) -> None:
    listed = buf_curl(served, "--list-methods", "").stdout.split()
    assert {f"/{each}" for each in listed} == PERMISSIONS.keys()

    url = objects.url(disk.name)
    created = answered(served, f"{IMAGES}/Create", folder_id="home", name="from-buf", uri=url)

    def ended() -> Any:
        path = "yandex.cloud.operation.OperationService/Get"
        operation = answered(served, path, operation_id=created["id"])
        return operation if operation.get("done") else None

    image = until(ended, "the import to end")["response"]
    assert image["status"] == "READY"
    assert answered(served, f"{IMAGES}/Get", image_id=image["id"])["name"] == "from-buf"

    missing = buf_curl(served, '--data={"image_id": "fd8absent"}', f"{IMAGES}/Get")
    assert missing.returncode == NOT_FOUND_STATUS
    assert json.loads(missing.stderr)["message"] == 'Image "fd8absent" not found'

    paths = {each["method"] for each in served.log_lines() if "buf/" in each.get("user_agent", "")}
    assert {each for each in paths if "reflection" in each} == {
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    }
