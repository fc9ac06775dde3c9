"""REST through a real Envoy, as it is documented, down to the whole JSON of each reply."""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from clients.gateways import Gateway, gateway
from installation import Installation, installation, until
from object_server import SIGNATURE, ObjectServer

TYPE = "type.googleapis.com/"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
NOWHERE = "fd8nowhere0000000000"


@dataclass(frozen=True)
class Service:
    """A server, the gateway in front of it and the object storage that it may fetch from."""

    server: Installation
    gateway: Gateway
    source: ObjectServer


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, disk: Path) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("gateway")
    objects = folder / "objects"
    objects.mkdir()
    (objects / disk.name).hardlink_to(disk)
    with (
        ObjectServer(objects).running() as source,
        installation(folder, source.origin) as server,
        gateway(folder, server.address) as front,
    ):
        yield Service(server, front, source)


@pytest.fixture
def rest(service: Service) -> Gateway:
    return service.gateway


def curl(gateway: Gateway, method: str, path: str, body: Any = None) -> Any:
    """What curl prints of a call that succeeds."""
    command = ["curl", "-sS", "--fail-with-body", "-X", method, f"http://{gateway.address}{path}"]
    if body is not None:
        command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


def of_type(name: str, /, **fields: Any) -> dict[str, Any]:
    """The JSON of a google.protobuf.Any."""
    return {"@type": TYPE + name, **fields}


def operation(seen: dict[str, Any], description: str, **rest: Any) -> dict[str, Any]:
    """The whole JSON of an operation, with what cannot be foretold taken from the one seen."""
    for name in ("createdAt", "modifiedAt"):
        assert re.fullmatch(TIME, seen[name]), seen
    return {
        "id": seen["id"],
        "description": description,
        "createdAt": seen["createdAt"],
        "createdBy": "anonymous",
        "modifiedAt": seen["modifiedAt"],
        **rest,
    }


@pytest.mark.client("curl", "7.88.1", "REST life cycle of an image through Envoy", "ran")
def test_curl_goes_through_the_life_of_an_image(service: Service, disk: Path) -> None:
    front, images = service.gateway, "/compute/v1/images"
    created = curl(
        front,
        "POST",
        images,
        {
            "folderId": "home",
            "name": "first",
            "description": "made by curl",
            "labels": {"team": "base"},
            "family": "rest",
            "minDiskSize": "33554432",
            "productIds": ["f2e0000000000000000a"],
            "uri": service.source.url(disk.name),
            "os": {"type": "WINDOWS"},
            "pooled": True,
            "hardwareGeneration": {"legacyFeatures": {"pciTopology": "PCI_TOPOLOGY_V2"}},
        },
    )
    image_id = created["metadata"]["imageId"]
    metadata = of_type("yandex.cloud.compute.v1.CreateImageMetadata", imageId=image_id)
    assert created == operation(created, "Create image", done=False, metadata=metadata)
    assert created["createdAt"] == created["modifiedAt"]

    def done() -> Any:
        read = curl(front, "GET", f"/operations/{created['id']}")
        return read if read["done"] else None

    ended = until(done, "the import to end")
    image = curl(front, "GET", f"{images}/{image_id}")
    assert image == {
        "id": image_id,
        "folderId": "home",
        "createdAt": re.sub(r"\.\d+", "", created["createdAt"]),
        "name": "first",
        "description": "made by curl",
        "labels": {"team": "base"},
        "family": "rest",
        "storageSize": image["storageSize"],
        "minDiskSize": "33554432",
        "productIds": ["f2e0000000000000000a"],
        "status": "READY",
        "os": {"type": "WINDOWS"},
        "pooled": True,
        "hardwareGeneration": {"legacyFeatures": {"pciTopology": "PCI_TOPOLOGY_V2"}},
        "size": str(24 * 1024 * 1024),
    }
    assert int(image["storageSize"]) > 12 * 1024 * 1024
    in_operation = of_type("yandex.cloud.compute.v1.Image", **image)
    assert ended == operation(
        ended, "Create image", done=True, metadata=metadata, response=in_operation
    )

    update = {"updateMask": "name,labels,minDiskSize", "name": "second", "labels": {"k": "v"}}
    updated = curl(
        front, "PATCH", f"{images}/{image_id}", {**update, "minDiskSize": "67108864", "family": "x"}
    )
    image |= {"name": "second", "labels": {"k": "v"}, "minDiskSize": "67108864"}
    assert updated == operation(
        updated,
        "Update image",
        done=True,
        metadata=of_type("yandex.cloud.compute.v1.UpdateImageMetadata", imageId=image_id),
        response=of_type("yandex.cloud.compute.v1.Image", **image),
    )
    assert curl(front, "GET", f"{images}:latestByFamily?folderId=home&family=rest") == image

    query = urlencode(
        {"folderId": "home", "filter": 'name = "second"', "orderBy": "createdAt desc"}
    )
    assert curl(front, "GET", f"{images}?{query}") == {"images": [image], "nextPageToken": ""}

    binding = {"roleId": "viewer", "subject": {"id": "user-1", "type": "userAccount"}}
    bound = curl(
        front, "POST", f"{images}/{image_id}:setAccessBindings", {"accessBindings": [binding]}
    )
    result = of_type(
        "yandex.cloud.access.AccessBindingsOperationResult",
        effectiveDeltas=[{"action": "ADD", "accessBinding": binding}],
    )
    about = of_type("yandex.cloud.access.SetAccessBindingsMetadata", resourceId=image_id)
    assert bound == operation(
        bound, "Set image access bindings", done=True, metadata=about, response=result
    )
    delta = {"action": "REMOVE", "accessBinding": binding}
    listing = f"{images}/{image_id}:listAccessBindings"
    assert curl(front, "GET", listing) == {"accessBindings": [binding], "nextPageToken": ""}
    curl(
        front,
        "POST",
        f"{images}/{image_id}:updateAccessBindings",
        {"accessBindingDeltas": [delta]},
    )
    assert curl(front, "GET", listing) == {"accessBindings": [], "nextPageToken": ""}

    first_page = curl(front, "GET", f"{images}/{image_id}/operations?pageSize=1")
    assert first_page == {"operations": [ended], "nextPageToken": first_page["nextPageToken"]}
    token = urlencode({"pageSize": 1, "pageToken": first_page["nextPageToken"]})
    assert curl(front, "GET", f"{images}/{image_id}/operations?{token}")["operations"] == [updated]

    deleted = curl(front, "DELETE", f"{images}/{image_id}")
    assert deleted == operation(
        deleted,
        "Delete image",
        done=True,
        metadata=of_type("yandex.cloud.compute.v1.DeleteImageMetadata", imageId=image_id),
        response=of_type("google.protobuf.Empty"),
    )
    assert front.call("GET", f"{images}/{image_id}").status == 404


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_import_is_cancelled_either_way(service: Service, disk: Path, method: str) -> None:
    service.source.bytes_per_second = 1000
    try:
        source = {"folderId": "home", "uri": service.source.url(disk.name)}
        created = service.gateway.call("POST", "/compute/v1/images", source).body
        path = f"/operations/{created['id']}"
        service.gateway.call(method, f"{path}:cancel")

        def done() -> Any:
            read = service.gateway.call("GET", path).body
            return read if read["done"] else None

        cancelled = until(done, "the operation to end")
    finally:
        service.source.bytes_per_second = 0
    advice = {"advice": "Nothing to do; start it again if it is wanted after all."}
    assert cancelled == operation(
        cancelled,
        "Create image",
        done=True,
        metadata=created["metadata"],
        error={
            "code": 1,
            "message": "The operation was cancelled",
            "details": [
                of_type(
                    "google.rpc.ErrorInfo",
                    reason="OPERATION_CANCELLED",
                    domain="darkroom",
                    metadata=advice,
                )
            ],
        },
    )
    assert service.gateway.call(method, f"{path}:cancel").body == cancelled


def test_an_operation_that_failed_carries_its_details(rest: Gateway) -> None:
    source = {"folderId": "home", "uri": f"http://127.0.0.1:9/x?{SIGNATURE}"}
    created = rest.call("POST", "/compute/v1/images", source).body

    def done() -> Any:
        read = rest.call("GET", f"/operations/{created['id']}").body
        return read if read["done"] else None

    failed = until(done, "the operation to end")
    violations, info = failed["error"].pop("details")
    assert "response" not in failed and failed["error"]["code"] == 3
    assert violations == of_type(
        "google.rpc.BadRequest",
        fieldViolations=[
            {"field": "uri", "description": "not on an allowed object storage", "reason": ""}
        ],
    )
    assert info["reason"] == "SOURCE_NOT_ALLOWED"
    assert SIGNATURE not in json.dumps(failed) + json.dumps(info)
