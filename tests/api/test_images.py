"""ImageService and OperationService over the wire."""

from collections.abc import Sequence

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from google.rpc import error_details_pb2

from api.client import URI, Client, refused
from darkroom.domain.image import Image
from darkroom.domain.resource import Status
from darkroom.storage.sqlite import SqliteStore
from darkroom_pb.yandex.cloud.compute.v1 import (
    hardware_generation_pb2,
    image_pb2,
    image_service_pb2,
)
from darkroom_pb.yandex.cloud.operation import operation_pb2, operation_service_pb2


def image_id_of(operation: operation_pb2.Operation) -> str:
    metadata = image_service_pb2.CreateImageMetadata()
    assert operation.metadata.Unpack(metadata)
    return metadata.image_id


def add_ready_image(store: SqliteStore, image_id: str, **fields: object) -> Image:
    values = {"folder_id": "folder", "created_at_us": 1_700_000_000_123_456, **fields}
    image = Image(id=image_id, status=Status.READY, size_bytes=1 << 30, **values)  # type: ignore[arg-type]
    store.write(lambda tx: tx.insert_resource(image))
    return image


def test_create_from_a_url_answers_at_once_and_shows_the_image(client: Client) -> None:
    operation = client.create(name="first", labels={"k": "v"}, min_disk_size=1 << 30)
    assert not operation.done and operation.WhichOneof("result") is None
    assert operation.description == "Create image"
    assert operation.created_at == operation.modified_at
    assert operation.created_by == "anonymous"
    image = client.get(image_id_of(operation))
    assert image.status == image_pb2.Image.CREATING
    assert (image.name, dict(image.labels), image.min_disk_size) == ("first", {"k": "v"}, 1 << 30)
    assert image.created_at.nanos == 0 and image.created_at.seconds == operation.created_at.seconds
    # Terraform reads both without looking whether they are there.
    assert image.os.type == image_pb2.Os.LINUX
    topology = hardware_generation_pb2.PCI_TOPOLOGY_V1
    assert image.hardware_generation.legacy_features.pci_topology == topology
    assert not image.HasField("kms_key")
    get = operation_service_pb2.GetOperationRequest(operation_id=operation.id)
    assert client.operations.Get(get) == operation


def test_everything_a_request_says_is_kept(client: Client) -> None:
    operation = client.create(
        description="text",
        family="some-family",
        product_ids=["one", "two"],
        pooled=True,
        os=image_pb2.Os(type=image_pb2.Os.WINDOWS, nvidia=image_pb2.Nvidia(driver="535")),
        hardware_generation=hardware_generation_pb2.HardwareGeneration(
            generation2_features=hardware_generation_pb2.Generation2HardwareFeatures(
                secure_boot_template_id="template", vtpm_enabled=True
            )
        ),
    )
    image = client.get(image_id_of(operation))
    assert (image.description, image.family, image.pooled) == ("text", "some-family", True)
    assert list(image.product_ids) == ["one", "two"]
    assert (image.os.type, image.os.nvidia.driver) == (image_pb2.Os.WINDOWS, "535")
    features = image.hardware_generation.generation2_features
    assert (features.secure_boot_template_id, features.vtpm_enabled) == ("template", True)


def test_create_from_an_image_is_done_in_the_reply(client: Client, store: SqliteStore) -> None:
    source = add_ready_image(store, "fd8source")
    operation = client.create(image_id=source.id, name="copy")
    assert operation.done and operation.response.TypeName() == "yandex.cloud.compute.v1.Image"
    image = image_pb2.Image()
    assert operation.response.Unpack(image)
    assert image.id == image_id_of(operation) != source.id
    assert image == client.get(image.id)
    assert (image.status, image.size, image.name) == (image_pb2.Image.READY, 1 << 30, "copy")


def test_create_from_what_does_not_exist_names_it(client: Client) -> None:
    for field, noun in (("image_id", "Image"), ("disk_id", "Disk"), ("snapshot_id", "Snapshot")):
        failed = refused(lambda field=field: client.create(**{field: "absent"}))  # type: ignore[misc]
        assert failed.code is grpc.StatusCode.FAILED_PRECONDITION
        assert failed.message == f'{noun} "absent" not found'
        (violation,) = failed.detail(error_details_pb2.PreconditionFailure).violations
        assert violation.subject == f"{noun}:absent"


def test_delete_answers_empty_and_the_image_is_gone(client: Client, store: SqliteStore) -> None:
    add_ready_image(store, "fd8doomed")
    operation = client.images.Delete(image_service_pb2.DeleteImageRequest(image_id="fd8doomed"))
    assert operation.done and operation.response.Is(Empty.DESCRIPTOR)
    assert operation.metadata.Is(image_service_pb2.DeleteImageMetadata.DESCRIPTOR)
    failed = refused(lambda: client.get("fd8doomed"))
    assert failed.code is grpc.StatusCode.NOT_FOUND
    assert failed.message == 'Image "fd8doomed" not found'
    resource = failed.detail(error_details_pb2.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == ("Image", "fd8doomed")


def test_list_pages_through_a_folder_and_only_that(client: Client, store: SqliteStore) -> None:
    wanted = [add_ready_image(store, f"fd8image{number:02}").id for number in range(7)]
    add_ready_image(store, "fd8elsewhere", folder_id="other")
    seen: list[Sequence[str]] = []
    token = ""
    while True:
        request = image_service_pb2.ListImagesRequest(
            folder_id="folder", page_size=3, page_token=token
        )
        page = client.images.List(request)
        seen.append([image.id for image in page.images])
        token = page.next_page_token
        if not token:
            break
        assert len(token) <= 100
    assert seen == [wanted[:3], wanted[3:6], wanted[6:]]


def test_a_page_token_of_another_folder_is_refused(client: Client, store: SqliteStore) -> None:
    for number in range(2):
        add_ready_image(store, f"fd8image{number}")
    request = image_service_pb2.ListImagesRequest(folder_id="folder", page_size=1)
    token = client.images.List(request).next_page_token
    for folder, page_token in (("other", token), ("folder", "nonsense"), ("folder", token[:-2])):
        request = image_service_pb2.ListImagesRequest(folder_id=folder, page_token=page_token)
        failed = refused(lambda request=request: client.images.List(request))  # type: ignore[misc]
        assert (failed.code, failed.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "PAGE_TOKEN_INVALID",
        )


def test_a_running_operation_tells_its_progress_in_headers(
    client: Client, store: SqliteStore
) -> None:
    operation = client.create()
    get = operation_service_pb2.GetOperationRequest(operation_id=operation.id)

    def progress() -> tuple[str | None, str | None]:
        _, call = client.operations.Get.with_call(get)
        headers = dict(call.initial_metadata())
        return headers.get("x-operation-phase"), headers.get("x-operation-progress")  # type: ignore[return-value]

    assert progress() == (None, None)
    claim = store.claim("worker")
    assert claim is not None
    store.heartbeat(claim.lease, "fetch", 17, None)
    assert progress() == ("fetch", "17/")
    store.heartbeat(claim.lease, "convert", 18, 100)
    assert progress() == ("convert", "18/100")


def test_cancel_ends_a_waiting_operation_and_leaves_a_finished_one(client: Client) -> None:
    operation = client.create()
    request = operation_service_pb2.CancelOperationRequest(operation_id=operation.id)
    cancelled = client.operations.Cancel(request)
    assert cancelled.done and cancelled.error.code == grpc.StatusCode.CANCELLED.value[0]
    assert cancelled.metadata == operation.metadata
    info = error_details_pb2.ErrorInfo()
    assert cancelled.error.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("OPERATION_CANCELLED", "darkroom")
    assert client.operations.Cancel(request) == cancelled
    assert refused(lambda: client.get(image_id_of(operation))).code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("method", ["Get", "Cancel"])
def test_an_unknown_operation_is_not_found(client: Client, method: str) -> None:
    request = operation_service_pb2.GetOperationRequest(operation_id="fd8absent")
    path = f"/yandex.cloud.operation.OperationService/{method}"
    failed = refused(lambda: client.raw(path, request.SerializeToString()))
    assert failed.code is grpc.StatusCode.NOT_FOUND
    assert failed.detail(error_details_pb2.ResourceInfo).resource_type == "Operation"


# --- idempotency-key ------------------------------------------------------------------------------


def create_with(client: Client, *keys: str, uri: str = URI) -> operation_pb2.Operation:
    request = image_service_pb2.CreateImageRequest(folder_id="folder", uri=uri)
    return client.images.Create(request, metadata=tuple(("idempotency-key", key) for key in keys))


def test_a_repeated_key_gives_the_same_operation(client: Client) -> None:
    first = create_with(client, "key")
    resigned = URI.replace("c0ffee", "5eed")
    assert create_with(client, "key", uri=resigned) == first
    assert create_with(client, "another").id != first.id
    failed = refused(lambda: create_with(client, "key", uri=URI.replace("disk", "other")))
    assert failed.reason == "IDEMPOTENCY_KEY_REUSED"


@pytest.mark.parametrize("keys", [("",), ("k" * 65,), ("one", "two")], ids=["empty", "long", "two"])
def test_a_key_that_cannot_be_kept_is_refused(client: Client, keys: tuple[str, ...]) -> None:
    failed = refused(lambda: create_with(client, *keys))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.reason == "IDEMPOTENCY_KEY_INVALID"


def test_the_longest_key_is_kept(client: Client) -> None:
    assert create_with(client, "k" * 64) == create_with(client, "k" * 64)


def test_reads_ignore_the_key(client: Client, store: SqliteStore) -> None:
    add_ready_image(store, "fd8image")
    for key in ("", "k" * 65):
        assert client.get("fd8image", metadata=[("idempotency-key", key)]).id == "fd8image"
