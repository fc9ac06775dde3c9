"""Runs in an environment of its own: the official Python SDK, unmodified, against a server.

usage: yandexcloud_client.py ENDPOINT CA_FILE SOURCE_URL; prints what it saw as JSON.
"""

import json
import sys
from pathlib import Path

import grpc
import yandexcloud
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from yandex.cloud.access import access_pb2
from yandex.cloud.compute.v1 import image_pb2, image_service_pb2, image_service_pb2_grpc

FOLDER = "sdk-folder"


def service_account_key() -> dict[str, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return {
        "id": "ajekey00000000000000",
        "service_account_id": "ajeaccount0000000000",
        "private_key": private.decode(),
        "public_key": public.decode(),
    }


def main() -> None:
    endpoint, ca_file, url = sys.argv[1:]
    seen: dict[str, object] = {"version": yandexcloud.__version__}
    sdk = yandexcloud.SDK(
        endpoint=endpoint,
        root_certificates=Path(ca_file).read_bytes(),
        service_account_key=service_account_key(),
    )
    images = sdk.client(image_service_pb2_grpc.ImageServiceStub)
    operation = images.Create(
        image_service_pb2.CreateImageRequest(
            folder_id=FOLDER, name="from-sdk", family="sdk", uri=url
        )
    )
    result = sdk.wait_operation_and_get_result(
        operation,
        response_type=image_pb2.Image,
        meta_type=image_service_pb2.CreateImageMetadata,
        timeout=60,
    )
    image_id = result.meta.image_id
    seen["created_by"] = result.operation.created_by
    seen["status"] = image_pb2.Image.Status.Name(result.response.status)
    listed = images.List(
        image_service_pb2.ListImagesRequest(folder_id=FOLDER, filter='name = "from-sdk"')
    )
    seen["listed"] = [image.id for image in listed.images] == [image_id]
    latest = images.GetLatestByFamily(
        image_service_pb2.GetImageLatestByFamilyRequest(folder_id=FOLDER, family="sdk")
    )
    seen["latest"] = latest.id == image_id
    request = image_service_pb2.UpdateImageRequest(image_id=image_id, description="changed")
    request.update_mask.paths.append("description")
    updated = sdk.wait_operation_and_get_result(
        images.Update(request),
        response_type=image_pb2.Image,
        meta_type=image_service_pb2.UpdateImageMetadata,
        timeout=60,
    )
    seen["updated"] = (updated.response.description, updated.response.name)
    binding = access_pb2.AccessBinding(
        role_id="compute.images.user",
        subject=access_pb2.Subject(id="allAuthenticatedUsers", type="system"),
    )
    bound = sdk.wait_operation_and_get_result(
        images.SetAccessBindings(
            access_pb2.SetAccessBindingsRequest(resource_id=image_id, access_bindings=[binding])
        ),
        response_type=access_pb2.AccessBindingsOperationResult,
        meta_type=access_pb2.SetAccessBindingsMetadata,
        timeout=60,
    )
    seen["effective_deltas"] = len(bound.response.effective_deltas)
    sdk.wait_operation_and_get_result(
        images.Delete(image_service_pb2.DeleteImageRequest(image_id=image_id)),
        meta_type=image_service_pb2.DeleteImageMetadata,
        timeout=60,
    )
    try:
        images.Get(image_service_pb2.GetImageRequest(image_id=image_id))
    except grpc.RpcError as error:
        seen["gone"] = error.code().name
    try:
        images.Create(image_service_pb2.CreateImageRequest(folder_id=FOLDER, name="Bad Name"))
    except grpc.RpcError as error:
        seen["refused"] = error.code().name
    failed = images.Create(
        image_service_pb2.CreateImageRequest(
            folder_id=FOLDER, uri=url.replace(".qcow2", ".missing")
        )
    )
    try:
        sdk.wait_operation_and_get_result(failed, response_type=image_pb2.Image, timeout=60)
    except yandexcloud.operations.OperationError as error:
        seen["failed"] = type(error).__name__
    token = yandexcloud.SDK(
        endpoint=endpoint, root_certificates=Path(ca_file).read_bytes(), iam_token="t1.any.token"
    )
    with_token = token.client(image_service_pb2_grpc.ImageServiceStub)
    seen["with_iam_token"] = len(
        with_token.List(image_service_pb2.ListImagesRequest(folder_id=FOLDER)).images
    )
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
