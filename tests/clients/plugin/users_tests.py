"""Copied to where a user has their tests: the official SDK against the fixture `darkroom`."""

import sys

import grpc
import pytest
import yandexcloud
from yandex.cloud.compute.v1.disk_service_pb2 import CreateDiskRequest, ListDisksRequest
from yandex.cloud.compute.v1.disk_service_pb2_grpc import DiskServiceStub
from yandex.cloud.compute.v1.image_pb2 import Image
from yandex.cloud.compute.v1.image_service_pb2 import CreateImageRequest, ListImagesRequest
from yandex.cloud.compute.v1.image_service_pb2_grpc import ImageServiceStub
from yandex.cloud.operation.operation_service_pb2 import GetOperationRequest
from yandex.cloud.operation.operation_service_pb2_grpc import OperationServiceStub

from darkroom.testing import Darkroom

operations: list[str] = []


@pytest.mark.parametrize("turn", range(4))
def test_every_test_begins_with_nothing(
    sdk: yandexcloud.SDK, darkroom: Darkroom, turn: int
) -> None:
    disks, calls = sdk.client(DiskServiceStub), sdk.client(OperationServiceStub)
    listed = ListDisksRequest(folder_id=darkroom.folder_id)
    assert not disks.List(listed).disks
    request = CreateDiskRequest(
        folder_id=darkroom.folder_id, name="same", zone_id="ru-central1-a", size=4 << 20
    )
    operation = disks.Create(request, metadata=(("idempotency-key", "same"),))
    assert operation.done
    assert len(disks.List(listed).disks) == 1
    for old in operations:
        with pytest.raises(grpc.RpcError) as gone:
            calls.Get(GetOperationRequest(operation_id=old))
        assert gone.value.code() is grpc.StatusCode.NOT_FOUND
    operations.append(operation.id)


@pytest.mark.parametrize("turn", range(2))
def test_contents_go_as_well(
    sdk: yandexcloud.SDK, darkroom: Darkroom, disk_url: str, turn: int
) -> None:
    darkroom.require_imports()
    images = sdk.client(ImageServiceStub)
    contents = darkroom.ca_file.parents[1] / "contents"
    assert not list(contents.iterdir())
    operation = images.Create(CreateImageRequest(folder_id="b1gmine", uri=disk_url))
    made = sdk.wait_operation_and_get_result(operation, response_type=Image, timeout=30)
    assert (made.response.status, made.operation.created_by) == (Image.READY, "tests")
    assert len(list(contents.iterdir())) == 1
    darkroom.reset()
    assert not images.List(ListImagesRequest(folder_id="b1gmine")).images
    assert not list(contents.iterdir())


def test_settings_are_the_users(darkroom: Darkroom) -> None:
    assert darkroom.folder_id == "b1gmine"


def test_nothing_of_the_server_is_loaded_here(darkroom: Darkroom) -> None:
    ours = {name for name in sys.modules if name.partition(".")[0] in ("darkroom", "darkroom_pb")}
    assert ours == {"darkroom", "darkroom.pytest_plugin", "darkroom.testing"}
    assert "site-packages" in str(sys.modules["darkroom"].__file__)
